"""SmolLM2-135M-Instruct, a real model: its logits, and what it says. `python3 -m hack.cluster model` makes it.

Its logits reach 38 and its activations 5,800, so float32 itself is felt: what transformers computes in float32 is up to
3e-4 from what it computes in float64. One rank does transformers' operations in transformers' order and has to give the
same logits to the last bits; several ranks add up in another order, as every all-reduce does.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronmodel_worker.engines import Sampling
from neuronmodel_worker.engines.llama import LoadedLlama
from tests.unit.engine.models import compile_and_load, shard

SMOL = Path("/var/lib/neuronmodel-cluster/models/SmolLM2-135M-Instruct")
VOYAGE = " ".join(f"On day {day} the ship sailed {7 * day} miles towards the island." for day in range(14))
QUESTIONS = ["What is the capital of France?", "Write a poem about the sea.", VOYAGE]
STEPS = 8

pytestmark = pytest.mark.skipif(
    not (SMOL / "config.json").exists() and not os.environ.get("CI"),
    reason=f"{SMOL} is not there: `python3 -m hack.cluster model` makes it",
)


@dataclass(frozen=True)
class Reference:
    """What transformers computes in float32: of the prompt [T, V], of each token that it then says [V]; and in float64
    of the prompt."""

    prompt: list[int]
    prefill: torch.Tensor
    said: list[int]
    decoded: list[torch.Tensor]
    exact: torch.Tensor


def prompts() -> list[list[int]]:
    """Of 5, 36 to 38, and some 200 tokens."""
    tokenizer: Any = AutoTokenizer.from_pretrained(SMOL)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [
        tokenizer.encode("The capital of France is"),
        *(tokenizer.apply_chat_template(chat, add_generation_prompt=True)[:220] for chat in chats),
        tokenizer.encode(VOYAGE)[:200],
    ]


def theirs(dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(SMOL, dtype=dtype)


def continued(model: Any, prompt: list[int], steps: int) -> tuple[torch.Tensor, list[int], list[torch.Tensor]]:
    """Greedily, with a cache."""
    output = model(torch.tensor([prompt]))
    prefill, said, decoded = output.logits[0], [int(output.logits[0, -1].argmax())], []
    for _ in range(steps):
        output = model(torch.tensor([[said[-1]]]), past_key_values=output.past_key_values)
        decoded.append(output.logits[0, -1])
        said.append(int(decoded[-1].argmax()))
    return prefill, said, decoded


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    with torch.inference_mode():
        model = theirs(torch.float32)
        found = [(prompt, *continued(model, prompt, STEPS)) for prompt in prompts()]
        model = model.double()
        return [Reference(*each, exact=model(torch.tensor([each[0]])).logits[0]) for each in found]


def engine(degree: int, dtype: str, work: Path) -> LoadedLlama:
    flags = {"tp_degree": degree, "torch_dtype": dtype, "seq_len": 256}
    plan, ranks = shard(SMOL, flags)
    return compile_and_load(plan, flags, ranks, work / "compiled")


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("degree", [1, 3, 9])
def test_logits_from_shards_are_transformers(degree: int, references: list[Reference], tmp_path: Path) -> None:
    model = engine(degree, "float32", tmp_path)
    for reference in references:
        prefill = model.logits(reference.prompt, last_only=False)
        assert distance(prefill[-1], reference.prefill[-1]) < 1e-4
        for step, (token, decoded) in enumerate(zip(reference.said, reference.decoded, strict=False)):
            found = model.logits([token], start=len(reference.prompt) + step)[-1]
            assert distance(found, decoded) < 1e-4
        if degree == 1:
            assert distance(prefill, reference.prefill) < 1e-5
        # Tokens inside the prompt, whose logits choose nothing: 1e-4, and what transformers itself is off by there.
        rounding = (reference.prefill - reference.exact).abs().amax(-1, keepdim=True)
        assert bool(((prefill - reference.prefill).abs() < 1e-4 + rounding).all())


@pytest.mark.parametrize("degree", [1, 3])
def test_it_says_in_bfloat16_what_transformers_says(degree: int, tmp_path: Path) -> None:
    model, reference = engine(degree, "bfloat16", tmp_path), theirs(torch.bfloat16)
    for prompt in prompts()[:3]:
        with torch.inference_mode():
            _, expected, _ = continued(reference, prompt, 11)
        greedy = model.generate(prompt, Sampling(temperature=0.0))
        assert [token for token, _ in zip(greedy, expected, strict=False)] == expected


def test_it_knows_the_capital_of_france(tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(SMOL)
    tokens = engine(3, "bfloat16", tmp_path).generate(prompts()[1], Sampling(temperature=0.0))
    assert tokenizer.decode([token for token, _ in zip(tokens, range(7), strict=False)]) == (
        "The capital of France is Paris."
    )
