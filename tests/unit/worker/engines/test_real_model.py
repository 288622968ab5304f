"""SmolLM2-135M-Instruct, a real model: its logits, and what it says. `python3 -m hack.cluster model` makes it.

Its logits reach 38 and its activations 5,800, so float32 itself is felt. Whoever computes in float32 differs from
whoever adds up in another order: other ranks, another library, another processor. What all have to be close to is the
same everywhere, transformers in float64; `test_levels.py` runs this file as on older processors.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.levels import answers
from tests.unit.worker.engines.models import compile_and_load, shard
from tests.unit.worker.engines.real_model import SMOL, needs_the_real_model

PROMPTS = ["The capital of France is", answers.chat("Write a poem about the sea."), answers.VOYAGE]
STEPS = 4
TOLERANCE = 1e-3
"""Of what chooses a token: twenty times what was seen at any level, which is 0.00005."""
INSIDE = 5e-3
"""Of logits inside the prompt, which choose nothing: ten times the 0.0004 that were seen."""

pytestmark = needs_the_real_model


@pytest.fixture(scope="module")
def exact() -> list[tuple[list[int], torch.Tensor]]:
    """Of each prompt and what follows it: its tokens and their logits [T, V] by transformers in float64."""
    tokenizer: Any = AutoTokenizer.from_pretrained(SMOL)
    model = AutoModelForCausalLM.from_pretrained(SMOL, dtype=torch.float64)
    with torch.inference_mode():
        sequences = [tokenizer.encode(prompt)[:100] for prompt in PROMPTS]
        return [(tokens, model(torch.tensor([tokens])).logits[0]) for tokens in sequences]


@pytest.mark.parametrize(("degree", "dtype"), [(1, "bfloat16"), (3, "bfloat16"), (9, "float32")])
def test_logits_from_shards_are_transformers(
    degree: int, dtype: str, exact: list[tuple[list[int], torch.Tensor]], tmp_path: Path
) -> None:
    """Those of the whole, and of its last tokens one by one with the cache."""
    flags = {"tp_degree": degree, "torch_dtype": dtype, "seq_len": 256}
    plan, ranks = shard(SMOL, flags)
    model = compile_and_load(plan, flags, ranks, tmp_path / "compiled")
    for tokens, expected in exact:
        whole = model.logits(tokens, last_only=False)
        assert (whole - expected).abs().max() < INSIDE
        assert (whole[-1] - expected[-1]).abs().max() < TOLERANCE
        model.logits(tokens[:-STEPS])
        for place in range(len(tokens) - STEPS, len(tokens)):
            found = model.logits([tokens[place]], start=place)[-1]
            assert (found - expected[place]).abs().max() < INSIDE


def test_it_says_what_transformers_says_in_float64() -> None:
    answers.check_all(SMOL)
