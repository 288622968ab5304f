"""Hooks in vLLM's process: NxD Inference gets its weights from our readers, and the worker learns of the progress.

vLLM's loader takes FileNotFoundError and ValueError for missing artifacts and recompiles, for hours and over the
compiled set; a quantized model it would even quantize again first. So these methods raise nothing but RuntimeError, and
`compile` and `save_quantized_state_dict` are refused.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.engines import open_engine
from neuronmodel_worker.engines.nxdi.compiled import read_compiled
from neuronmodel_worker.engines.nxdi.weight_loading import WeightsProvider, checked_weights, installed
from neuronmodel_worker.engines.rank_tensors import TorchRanks
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.scratch_cache import Tier
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.loading import open_tier
from neuronmodel_worker.serve.prepared import ArtifactSets, PreparedModel
from neuronmodel_worker.serve.vllm.instruction import Instruction
from neuronmodel_worker.serve.vllm.relay import RelayClock, RelayWriter, reporting_failures

log = logging.getLogger(__name__)

Method = Callable[..., Any]


@dataclass
class LoadHooks:
    """Wraps the methods of NxD Inference's application class that load a model."""

    writer: RelayWriter
    clock: RelayClock
    job: Run
    background: Background
    tier: Tier | None
    """While it is open, other workers leave the copies that this one uses in place."""

    def install(self, application: type[Any]) -> None:
        """Replaces the methods of NxD Inference's base class of applications."""
        of_library: Method = application.load_weights
        wrapped: dict[str, Method | staticmethod[..., Any]] = {
            "load": self._around_load(application.load),
            "load_weights": self._around_load_weights(of_library),
            "warmup": self._starting_phase(StartPhase.WARMED_UP, application.warmup),
            "compile": self._refused(application.compile),
            "save_quantized_state_dict": staticmethod(self._refused(application.save_quantized_state_dict)),
        }
        for name, method in wrapped.items():
            setattr(application, name, method)

    def _around_load(self, load: Method) -> Method:
        @functools.wraps(load)
        def loaded(*given: Any, **named: Any) -> Any:
            with reporting_failures(self.writer):
                self.clock.begin(StartPhase.GRAPH_LOADED)
                result = load(*given, **named)
            self.clock.begin(StartPhase.SERVER_STARTED)
            self.background.begin(lambda: False)
            return result

        return loaded

    def _around_load_weights(self, of_library: Method) -> Method:
        @functools.wraps(of_library)
        def load_weights(application: Any, *given: Any, **named: Any) -> None:
            with reporting_failures(self.writer):
                provide = self._weights()
                if provide is None:
                    with self.clock.phase(StartPhase.DEVICE_LOADED, unit="Steps"):
                        of_library(application, *given, **named)
                    return
                with installed(application, provide):
                    application.load_weights(*given, **named)

        return load_weights

    def _weights(self) -> WeightsProvider | None:
        """Returns the provider of the rank tensors, or None if NxD Inference is to read them itself."""
        prepared, sets = self._prepared()
        ranks = prepared.ranks(sets)
        if ranks is None:
            return None
        prepared.probe_scratch_later()
        checked = checked_weights(ranks, read_compiled(sets.compiled.directory).expected)

        def provide(start: int, count: int) -> TorchRanks:
            weights = checked(start, count)
            self.clock.begin(StartPhase.DEVICE_LOADED, unit="Steps")
            return weights

        return provide

    def _prepared(self) -> tuple[PreparedModel, ArtifactSets]:
        """Opens what the worker found; that takes as long as reading the headers again."""
        prepared = PreparedModel(self.job, self.background, self.tier)
        prepared.open()
        return prepared, prepared.find(open_engine(self.job.folder_config))

    def _starting_phase(self, phase: StartPhase, method: Method) -> Method:
        @functools.wraps(method)
        def begun(*given: Any, **named: Any) -> Any:
            self.clock.begin(phase)
            return method(*given, **named)

        return begun

    def _refused(self, compiles: Method) -> Method:
        @functools.wraps(compiles)
        def refused(*_: Any, **__: Any) -> Any:
            with reporting_failures(self.writer):
                raise CompileRefused(
                    "vLLM could not open the compiled model and would have compiled it anew, which a start never does. "
                    "Its log says why, in a line with `Exception:`."
                )

        return refused


class CompileRefused(WorkerFailure):
    reason = Reason.SERVER_ENDED


def make_load_hooks(instruction: Instruction) -> LoadHooks:
    """Creates the hooks from the worker's instruction."""
    writer = RelayWriter(Path(instruction.relay))
    clock = RelayClock(writer)
    job = Run(instruction.config, clock)
    return LoadHooks(writer, clock, job, Background(), open_tier(job))
