"""Keys of shards stay what they were, so that nothing that is right is sharded again.

`tests/golden/shards_keys.json` was written by version 0.1.0 before it derived one flag from another: of every golden
case, and of one model a family with one, two and, for Llama, three switches on. Null: it refused.
"""

import json
from typing import Any

import pytest

from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.store.keys import shards_key
from tests.model_cases import headers
from tests.paths import GOLDEN

FORMER: dict[str, Any] = json.loads((GOLDEN / "shards_keys.json").read_text())
MODELS = {family: f"{family}-tp4" for family in FORMER["switches"]}
ATTENTION_KERNELS = {"attn_tkg_nki_kernel_enabled", "attn_tkg_builtin_kernel_enabled"}


def case(family: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / family / f"{name}.json").read_text())
    return content


def key(of: dict[str, Any], flags: dict[str, Any]) -> str | None:
    try:
        return shards_key("content", make_plan(headers(of), flags).layout_inputs())
    except BadInput:
        return None


@pytest.mark.parametrize("name", FORMER["cases"])
def test_a_golden_case_has_the_key_that_it_had(name: str) -> None:
    golden = case(*name.split("/"))
    assert key(golden, golden["neuron_config"]) == FORMER["cases"][name]


@pytest.mark.parametrize("family", MODELS)
def test_switches_have_the_key_that_they_had_but_those_that_were_sharded_wrongly(family: str) -> None:
    golden = case(family, MODELS[family])
    base = {name: golden["neuron_config"][name] for name in ("tp_degree", "torch_dtype")}
    for switches, former in FORMER["switches"][family]:
        on = set(switches.split())
        found = key(golden, {**base, **dict.fromkeys(on, True)})
        if family == "qwen3_moe" and on & ATTENTION_KERNELS:
            assert found is None, switches  # the library refuses them without cascaded attention
        else:
            assert (found != former) == was_sharded_wrongly(family, on), switches


def was_sharded_wrongly(family: str, on: set[str]) -> bool:
    """Without the input norm in gate and up, which the library multiplies into them."""
    skips_gamma = family == "llama" and "fused_rmsnorm_skip_gamma" in on and "sequence_parallel_enabled" not in on
    return skips_gamma and "mlp_tkg_nki_kernel_enabled" in on and "mlp_kernel_enabled" not in on
