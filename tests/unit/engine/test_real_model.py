"""SmolLM2-135M-Instruct, a real model: its logits, and what it says. `python3 -m hack.cluster model` makes it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronmodel_worker.engines import Sampling
from tests.unit.engine.models import compile_and_load, shard

SMOL = Path("/var/lib/neuronmodel-cluster/models/SmolLM2-135M-Instruct")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = pytest.mark.skipif(
    not (SMOL / "config.json").exists() and not os.environ.get("CI"),
    reason=f"{SMOL} is not there: `python3 -m hack.cluster model` makes it",
)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    tokenizer: Any = AutoTokenizer.from_pretrained(SMOL)
    return list(tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True))


@pytest.fixture(scope="module")
def reference(prompt: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(SMOL, torch_dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([prompt])).logits[0]
    return logits


@pytest.mark.parametrize("degree", [1, 3, 9])
def test_logits_from_shards_are_transformers(
    degree: int, prompt: list[int], reference: torch.Tensor, tmp_path: Path
) -> None:
    flags = {"tp_degree": degree, "torch_dtype": "float32", "seq_len": 256}
    plan, ranks = shard(SMOL, flags)
    model = compile_and_load(plan, flags, ranks, tmp_path / "compiled")
    # Logits reach 38 here, where transformers' own two ways of computing attention already differ by 0.8e-4.
    assert torch.allclose(model.logits(prompt, last_only=False), reference, atol=1e-4, rtol=1e-5)


def test_it_knows_the_capital_of_france(prompt: list[int], tmp_path: Path) -> None:
    flags = {"tp_degree": 3, "torch_dtype": "bfloat16", "seq_len": 256}
    plan, ranks = shard(SMOL, flags)
    model = compile_and_load(plan, flags, ranks, tmp_path / "compiled")
    tokens = [token for token, _ in zip(model.generate(prompt, Sampling(temperature=0.0)), range(7), strict=False)]
    tokenizer: Any = AutoTokenizer.from_pretrained(SMOL)
    assert tokenizer.decode(tokens) == "The capital of France is Paris."
