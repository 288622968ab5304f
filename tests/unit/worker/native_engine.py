"""An engine in memory whose library shards by itself: writes what it is asked to, and loads when it may."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuronmodel_api.report import Devices
from neuronmodel_worker.engines import CompiledModel, DevicesInUse, Limits, LoadedModel, Ranks, Sampling, Steps
from neuronmodel_worker.plan.streamed import ModelPlan, make_plan
from neuronmodel_worker.stream import WEIGHTS, FileSink, run

After = Callable[[Path], object]


@dataclass
class NativeEngine:
    """`spoil` is called with the weights' folder when the library is through with it; `busy` times devices are held by
    somebody else. `called` is what was asked for, in order."""

    release: str = "1"
    spoil: After = lambda weights: None
    busy: int = 0
    found: Devices | None = None
    called: list[str] = field(default_factory=list)
    given: list[Ranks | None] = field(default_factory=list)
    opened: list[tuple[Path, Path | None]] = field(default_factory=list)

    def version(self) -> str:
        return f"library-{self.release}"

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        return {"family": plan.family, "degree": neuron_config["tp_degree"]}

    def import_framework(self) -> None:
        self.called.append("import")

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        self.called.append("compile")
        (directory / "model.pt").write_bytes(b"a graph")

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        self.called.append("shard")
        progress(0, 1)
        (directory / WEIGHTS).mkdir(exist_ok=True)
        known = {name: value for name, value in neuron_config.items() if name != "cp_degree"}
        run(make_plan(plan.checkpoint, known, "llama"), FileSink(directory / WEIGHTS))
        self.spoil(directory / WEIGHTS)
        progress(1, 1)

    def devices(self) -> Devices | None:
        self.called.append("devices")
        return self.found

    def open(self, directory: Path, shards: Path | None = None) -> CompiledModel:
        self.called.append("open")
        self.opened.append((directory, shards))
        return _Compiled(self)


@dataclass
class _Compiled:
    engine: NativeEngine

    def load(self, ranks: Ranks | None) -> LoadedModel:
        self.engine.called.append("load")
        self.engine.given.append(ranks)
        if self.engine.busy:
            self.engine.busy -= 1
            raise DevicesInUse("Another process holds the cores.")
        return _Loaded()


class _Loaded:
    limits = Limits(8, 16, 1)

    def check_sampling(self, sampling: Sampling) -> None: ...

    def warm_up(self) -> None: ...

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        yield from prompt
