"""Small random Llamas with a real tokenizer, as Hugging Face checkpoints; and what it takes to load one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines.cpu import CpuEngine
from neuronmodel_worker.engines.llama import LoadedLlama
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.stream import RankTensor, TensorSink, run

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = ["The capital of France is Paris.", "naïve façade – 東京は日本の首都です 🙂🙃", "Hello, how are you?"] * 20


def write_tokenizer(directory: Path) -> int:
    """A byte-level BPE of 300 tokens with a chat template. Returns the size of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)
    return len(fast)


def write_model(
    directory: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any
) -> LlamaForCausalLM:
    """Weights large enough that every part of the model shows in the logits."""
    settings = {
        "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 131, "max_position_embeddings": 256, "initializer_range": 0.2,
        "bos_token_id": None, "eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **config})).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            parameter.data = torch.rand_like(parameter) + 0.5
    model.save_pretrained(directory)
    return model


def write_chat_model(directory: Path, **config: Any) -> None:
    vocabulary = write_tokenizer(directory)
    write_model(directory, vocab_size=vocabulary, **config)


def shard(source: Path, flags: Mapping[str, object]) -> tuple[StreamedPlan, list[dict[str, RankTensor]]]:
    plan, sink = make_plan(open_checkpoint(source), flags), TensorSink()
    run(plan, sink)
    return plan, sink.tensors


def compile_and_load(
    plan: StreamedPlan, flags: Mapping[str, object], ranks: list[dict[str, RankTensor]], directory: Path
) -> LoadedLlama:
    engine = CpuEngine()
    directory.mkdir()
    engine.compile(plan, flags, directory, lambda done, total: None)
    return engine.open(directory).load(ranks)


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))
