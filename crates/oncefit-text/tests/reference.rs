//! Tokens and vectors against those of transformers (made by `tools/text-check/make.py`).

use std::path::{Path, PathBuf};

use oncefit_text::{TextEncoder, TextError};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    text: String,
    tokens: Vec<u32>,
    vector: Vec<f32>,
}

const TOLERANCE: f32 = 2e-6;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn check(encoder: &TextEncoder, name: &str) {
    let text = std::fs::read_to_string(tests().join(name)).unwrap();
    let references: Vec<Reference> = serde_json::from_str(&text).unwrap();
    let mut largest = 0.0f32;
    for reference in &references {
        let text = &reference.text;
        assert_eq!(encoder.tokenizer().encode(text), reference.tokens, "{text}");
        let found = encoder.encode(text).unwrap();
        assert_eq!(found.len(), reference.vector.len());
        for (found, wanted) in found.iter().zip(&reference.vector) {
            largest = largest.max((found - wanted).abs());
        }
    }
    println!(
        "{name}: largest difference {largest:e} of {} texts",
        references.len()
    );
    assert!(largest < TOLERANCE, "{name}: {largest:e}");
}

#[test]
fn a_tiny_model_gives_the_vectors_of_transformers() {
    check(
        &TextEncoder::load(&tests().join("tiny-bert")).unwrap(),
        "tiny-bert.json",
    );
}

/// `ONCEFIT_TEXT_MODEL`: folder or wheel of all-MiniLM-L6-v2.
#[test]
fn the_real_model_gives_the_vectors_of_transformers() {
    match std::env::var_os("ONCEFIT_TEXT_MODEL") {
        Some(path) => check(&TextEncoder::load(Path::new(&path)).unwrap(), "minilm.json"),
        None => eprintln!(
            "skipped: ONCEFIT_TEXT_MODEL does not name all-MiniLM-L6-v2's folder or wheel"
        ),
    }
}

/// A copy of the tiny model with one file changed.
fn changed(name: &str, change: impl Fn(&str) -> String) -> TextError {
    let folder = tempfile::tempdir().unwrap();
    let from = tests().join("tiny-bert");
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "modules.json",
        "vocab.txt",
        "1_Pooling/config.json",
    ] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(&text)).unwrap();
    TextEncoder::load(folder.path()).unwrap_err()
}

#[test]
fn what_is_wrong_with_a_model_is_named() {
    let replaced = |from: &'static str, to: &'static str| {
        move |text: &str| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        }
    };
    for (name, from, to, part) in [
        (
            "config.json",
            "\"hidden_size\": 12",
            "\"hidden_size\": 15",
            "`embeddings.word_embeddings.weight` is 21×12, but must be 21×15",
        ),
        (
            "config.json",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "`encoder.layer.2.attention.self.query.weight` is not there",
        ),
        (
            "config.json",
            "\"num_attention_heads\": 3",
            "\"num_attention_heads\": 5",
            "`num_attention_heads` is 5, but must divide",
        ),
        (
            "config.json",
            "\"gelu\"",
            "\"relu\"",
            "`hidden_act` is `relu`, but must be `gelu`",
        ),
        (
            "config.json",
            "\"bert\"",
            "\"xlnet\"",
            "`model_type` is `xlnet`",
        ),
        (
            "modules.json",
            "models.Normalize",
            "models.Dense",
            "modules.json: a module is of type `Dense`",
        ),
        (
            "1_Pooling/config.json",
            "mean_tokens",
            "cls_token",
            "1_Pooling/config.json: the pooling must be the mean",
        ),
        (
            "vocab.txt",
            "[SEP]",
            "[SEB]",
            "vocab.txt: the vocabulary has no `[SEP]`",
        ),
        (
            "vocab.txt",
            "coat",
            "coat\nhat",
            "the tokenizer has 22 words, the model 21",
        ),
    ] {
        let found = changed(name, replaced(from, to)).to_string();
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn a_wheel_is_read_like_its_folder() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny-1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for name in [
        "config.json",
        "model.safetensors",
        "modules.json",
        "vocab.txt",
        "1_Pooling/config.json",
    ] {
        let options = zip::write::SimpleFileOptions::default();
        archive
            .start_file(format!("tiny/model/{name}"), options)
            .unwrap();
        let bytes = std::fs::read(tests().join("tiny-bert").join(name)).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    archive.finish().unwrap();
    let encoder = TextEncoder::load(&path).unwrap();
    check(&encoder, "tiny-bert.json");
    assert_eq!(encoder.name(), "tiny-1.0-py3-none-any");
    let long = "coat ".repeat(15);
    let found = encoder.encode(&long).unwrap_err().to_string();
    assert!(
        found.contains("has 17 tokens, the model takes up to 16"),
        "{found}"
    );
    let missing = TextEncoder::load(folder.path()).unwrap_err().to_string();
    assert!(missing.contains("has no `config.json`"), "{missing}");
}
