"""Golden shards reach NxD Inference bit for bit, from sealed files and from the checkpoint; other tensors do not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines.nxdi.weight_loading import ExpectedTensors, checked_weights, install, installed
from neuronmodel_worker.engines.rank_tensors import as_torch
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.stream import FileSink, RankTensor, TensorSink, read_rank_files, run
from tests.generated import write_checkpoint
from tests.paths import GOLDEN
from tests.unit.standins.conftest import Importer
from tests.unit.worker.engines.models import shard, write_model
from tests.unit.worker.engines.nxdi.conftest import SMALL, Calls, MakeEngine, no_progress

ONE_A_FAMILY = [
    "llama/llama-tp64-seed-flags-405b-heads",
    "llama/llama-tp8-seed-flags",
    "llama/llama-tp4-f32-as-declared",
    "mistral/*tp4*",
    "mixtral/*tp4*",
    "qwen2/*tp4*",
    "qwen3/*tp4*",
    "qwen3_moe/*tp4*",
]
CASES = [sorted(GOLDEN.glob(f"{pattern}.json"))[0] for pattern in ONE_A_FAMILY]
Ranks = list[dict[str, RankTensor]]


def from_the_checkpoint(plan: StreamedPlan, work: Path) -> Ranks:
    sink = TensorSink()
    run(plan, sink)
    return sink.tensors


def from_sealed_files(plan: StreamedPlan, work: Path) -> Ranks:
    sealed = {file.name: file for file in run(plan, FileSink(work / "weights")).files}
    return read_rank_files(work / "weights", plan.ranks, sealed=sealed, full=True)


@pytest.mark.usefixtures("in_process", "devices")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("read", [from_the_checkpoint, from_sealed_files])
def test_tensors_handed_over_are_the_golden_shards(
    path: Path, read: Callable[[StreamedPlan, Path], Ranks], make_engine: MakeEngine, recorded: Calls, tmp_path: Path
) -> None:
    case = json.loads(path.read_text())
    flags = {"logical_nc_config": 2, **case["neuron_config"]}
    source = write_checkpoint(tmp_path / "source", case)
    plan = make_plan(open_checkpoint(source), flags)
    engine, compiled = make_engine(source, flags), tmp_path / "compiled"
    compiled.mkdir()
    engine.compile(plan, flags, compiled, no_progress)
    shards = tmp_path if read is from_sealed_files else None
    engine.open(compiled, shards).load(read(plan, tmp_path))
    (handed,) = recorded("initialize")
    names = [f"tp{rank}_sharded_checkpoint.safetensors" for rank in plan.ranks]
    assert dict(zip(names, handed["shards"], strict=True)) == case["shards"]
    assert recorded("shard_checkpoint") == []


FORMS = {"w": ("BF16", (2, 3)), "rank_util.rank": ("I32", (1,))}


def ranks_of(*numbers: int) -> Ranks:
    return [
        {
            "w": RankTensor("BF16", (2, 3), np.arange(6, dtype=np.uint16).reshape(2, 3)),
            "rank_util.rank": RankTensor("I32", (1,), np.array([number], np.int32)),
        }
        for number in numbers
    ]


def expected(ranks: range = range(2)) -> ExpectedTensors:
    return ExpectedTensors(Path("/compiled"), ranks, FORMS, ("rank_util.rank",))


def renamed(ranks: Ranks) -> None:
    ranks[1]["v"] = ranks[1].pop("w")


def with_extra_tensor(ranks: Ranks) -> None:
    ranks[1]["v"] = ranks[1]["w"]


def narrowed(ranks: Ranks) -> None:
    ranks[1]["w"] = RankTensor("F16", (2, 3), np.zeros((2, 3), np.float16))


def cut(ranks: Ranks) -> None:
    ranks[1]["w"] = RankTensor("BF16", (2, 2), np.zeros((2, 2), np.uint16))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (renamed, r"the tensor w of rank 1 is missing, and its graph takes BF16 \[2, 3\]"),
        (with_extra_tensor, "rank 1 has a tensor v, and its graph takes none such"),
        (narrowed, r"the tensor w of rank 1 is F16 \[2, 3\], and its graph takes BF16"),
        (cut, r"the tensor w of rank 1 is BF16 \[2, 2\], and its graph takes BF16 \[2, 3\]"),
        (lambda ranks: ranks.pop(), "its graph takes 2 ranks, and tensors of 1 came"),
        (lambda ranks: ranks.reverse(), "the tensors that came as rank 0 are those of rank 1, by their rank_util.rank"),
    ],
)
def test_what_the_library_would_take_silently_is_refused(damage: Callable[[Ranks], object], what: str) -> None:
    ranks = ranks_of(0, 1)
    damage(ranks)
    with pytest.raises(ArtifactDamaged, match=what):
        checked_weights(ranks, expected())(0, 2)


def test_other_ranks_than_were_compiled_are_refused() -> None:
    with pytest.raises(ArtifactDamaged, match="compiled for ranks 0 to 1, and 2 to 3 load"):
        checked_weights(ranks_of(2, 3), expected())(2, 2)


def test_ranks_from_the_middle_are_checked_by_their_own_numbers() -> None:
    assert len(checked_weights(ranks_of(2, 3), expected(range(2, 4)))(2, 2)) == 2


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "I32"])
def test_pytorch_shares_the_memory(dtype: str) -> None:
    data = np.ones((2, 3), {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "I32": np.int32}[dtype])
    tensor = as_torch(RankTensor(dtype, (2, 3), data))
    assert tensor.data_ptr() == data.ctypes.data
    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I32": torch.int32}
    assert tensor.dtype is names[dtype]


class Recorder:
    """The end of the library's path: `traced_model.nxd_model.initialize`."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, Any]] = []
        self.nxd_model = self

    def initialize(self, weights: Any, start_rank_tensor: Any) -> None:
        self.given.append((weights, start_rank_tensor))


class Application:
    def __init__(self) -> None:
        from types import SimpleNamespace

        self.traced_model: Any = Recorder()
        self.neuron_config = SimpleNamespace(start_rank_id=4, local_ranks_size=2)

    def load_weights(self, compiled_model_path: str, start_rank_id: Any = None, local_ranks_size: Any = None) -> None:
        raise AssertionError("the library's own")


def test_a_class_gets_it_for_every_instance_with_the_librarys_keywords() -> None:
    class Theirs(Application):
        pass

    asked: list[tuple[int, int]] = []

    def provide(start: int, count: int) -> list[dict[str, torch.Tensor]]:
        asked.append((start, count))
        return [{"w": torch.ones(1)}] * count

    install(Theirs, provide)
    application = Theirs()
    application.load_weights("/view/", start_rank_id=2, local_ranks_size=3)
    application.load_weights("/view/")
    assert asked == [(2, 3), (4, 2)]
    (weights, first), (_, second) = application.traced_model.given
    assert [type(rank) for rank in weights] == [dict] * 3
    assert (first.tolist(), first.dtype, first.device.type) == ([2], torch.int32, "cpu")
    assert second.tolist() == [4]


def test_an_instance_gets_its_own_back_when_it_is_loaded() -> None:
    application = Application()
    with installed(application, lambda start, count: []):
        application.load_weights("/view/", start_rank_id=None, local_ranks_size=None)
    assert application.traced_model.given
    with pytest.raises(AssertionError, match="the library's own"):
        application.load_weights("/view/")


@pytest.mark.usefixtures("in_process", "devices")
def test_nothing_of_the_tensors_is_kept_once_they_are_on_the_device(
    neuron: Importer, make_engine: MakeEngine, tmp_path: Path
) -> None:
    import gc
    import weakref

    write_model(tmp_path / "source")
    plan, ranks = shard(tmp_path / "source", SMALL)
    engine, compiled = make_engine(tmp_path / "source", SMALL), tmp_path / "compiled"
    compiled.mkdir()
    engine.compile(plan, SMALL, compiled, no_progress)
    kept = weakref.ref(ranks[0]["lm_head.weight"].data)
    model = engine.open(compiled).load(ranks)
    del ranks
    gc.collect()
    assert kept() is None
    assert model.limits.batch_size == 2
