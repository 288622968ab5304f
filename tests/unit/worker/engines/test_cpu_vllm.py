"""What the CPU engine refuses where vLLM serves, in words, before anything is built."""

from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api.config import Engine, Server, WorkerConfig
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.engines.cpu import CpuEngine
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.plan.streamed import make_plan
from tests.unit.worker.engines.models import write_model

SIZES: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def graph_inputs(source: Path, flags: dict[str, Any], *extra: str) -> dict[str, object]:
    config = WorkerConfig(
        namespace="team", name="small", uid="u", spec_hash="h", engine=Engine.CPU, server=Server.VLLM, extra_args=extra
    )
    return open_engine(config).graph_inputs(make_plan(open_checkpoint(source), flags), flags)


def test_the_artifacts_are_those_of_the_worker_s_own_server(tmp_path: Path) -> None:
    write_model(tmp_path, **SIZES)
    flags: dict[str, Any] = {"tp_degree": 2, "seq_len": 64}
    plan = make_plan(open_checkpoint(tmp_path), flags)
    assert graph_inputs(tmp_path, flags) == CpuEngine().graph_inputs(plan, flags)


@pytest.mark.parametrize(
    ("config", "flags", "says"),
    [
        ({"num_key_value_heads": 4}, {"tp_degree": 3}, "as many attention heads, and 4 are not divisible by 3"),
        ({"intermediate_size": 101}, {"tp_degree": 2}, "as many rows of the MLP, and 101 are not divisible by 2"),
        ({"num_attention_heads": 8}, {}, "heads have 16 elements"),
        ({}, {"seq_len": 512}, "sequenceLength is 512, and config.json has max_position_embeddings 256"),
        ({}, {"fused_rmsnorm_skip_gamma": True, "mlp_kernel_enabled": True}, "multiplies the norms into the weights"),
    ],
)
def test_what_vllm_does_not_split_or_serve_is_refused(
    tmp_path: Path, config: dict[str, Any], flags: dict[str, Any], says: str
) -> None:
    write_model(tmp_path, **SIZES | config)
    with pytest.raises(FlagsRefused, match=says):
        graph_inputs(tmp_path, {"seq_len": 64, **flags})


def test_further_arguments_that_clash_are_refused_by_prepare_too(tmp_path: Path) -> None:
    write_model(tmp_path, **SIZES)
    with pytest.raises(FlagsRefused, match="--tensor-parallel-size is set already"):
        graph_inputs(tmp_path, {"seq_len": 64}, "--tensor-parallel-size=2")
