"""Checkpoints to serve: tiny Llama models with random weights, whole and damaged, written into the folder of models."""

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.safetensors_bytes import safetensors_bytes

# SmolLM2's heads, so that the same degrees are refused; everything else as small as it goes.
HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCABULARY, LAYERS = 9, 3, 8, 144, 288, 2
HIDDEN = HEADS * HEAD_DIM
END_TOKEN = 0
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"

Array = NDArray[np.float32]
Weights = dict[str, Array]


def write_tiny(
    folder: Path,
    *,
    seed: int = 1,
    num_files: int = 1,
    vocabulary: int = VOCABULARY,
    words: int = VOCABULARY,
    wide: bool = False,
) -> Path:
    """A Llama checkpoint of about 700 kB that answers something else for every seed; a larger vocabulary, of which the
    tokenizer knows the first `words`, makes it bigger, and so do elements of 64 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config() | {"vocab_size": vocabulary}, indent=2))
    _write_tokenizer(folder, words)
    write_weights(folder, seed=seed, num_files=num_files, vocabulary=vocabulary, wide=wide)
    return folder


def write_weights(
    folder: Path, *, seed: int = 1, num_files: int = 1, vocabulary: int = VOCABULARY, wide: bool = False
) -> None:
    weights = list(_weights(seed, vocabulary).items())
    files = ["model.safetensors"]
    if num_files > 1:
        files = [f"model-{number:05d}-of-{num_files:05d}.safetensors" for number in range(1, num_files + 1)]
    parts = [dict(weights[index::num_files]) for index in range(num_files)]
    for file, part in zip(files, parts, strict=True):
        tensors = {name: ("F64", array.astype(np.float64)) if wide else ("F32", array) for name, array in part.items()}
        (folder / file).write_bytes(safetensors_bytes(tensors))
    if num_files > 1:
        total = sum(array.nbytes for part in parts for array in part.values())
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
        )


def set_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def truncate(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1000)


def make_header_lie(file: Path) -> None:
    """The first tensor's bytes seem to end beyond the file."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first = next(iter(header.values()))
    first["data_offsets"] = [0, 1 << 40]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def replace_by(folder: Path, other: Path) -> None:
    """What a second download does: the files of another checkpoint under the same path."""
    for file in other.iterdir():
        shutil.copy(file, folder / file.name)


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": END_TOKEN,
        "eos_token_id": END_TOKEN,
        "pad_token_id": END_TOKEN,
        "torch_dtype": "float32",
    }


def _weights(seed: int, vocabulary: int) -> Weights:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Array:
        # Larger than trained weights: the answers of two checkpoints part at the first tokens.
        scaled: Array = (random.standard_normal((rows, columns)) * 3 / np.sqrt(columns)).astype(np.float32)
        return scaled

    ones = np.ones(HIDDEN, dtype=np.float32)
    weights = {"model.embed_tokens.weight": matrix(vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
            prefix + "self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            prefix + "mlp.gate_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            prefix + "mlp.up_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            prefix + "mlp.down_proj.weight": matrix(HIDDEN, INTERMEDIATE),
            prefix + "input_layernorm.weight": ones,
            prefix + "post_attention_layernorm.weight": ones,
        }
    return {**weights, "model.norm.weight": ones, "lm_head.weight": matrix(vocabulary, HIDDEN)}


def _write_tokenizer(folder: Path, num_words: int) -> None:
    """A word a token, so that the text of an answer shows every token of it."""
    words = ["<end>", "<unknown>", *(f"w{number}" for number in range(num_words - 2))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<end>",
        "eos_token": "<end>",
        "unk_token": "<unknown>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
