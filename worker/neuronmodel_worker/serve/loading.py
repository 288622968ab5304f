"""From the source and the sealed sets to a model that answers."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.engines import CompiledModel, DevicesInUse, Engine, LoadedModel, open_engine
from neuronmodel_worker.lifecycle import Run
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.prepared import Prepared
from neuronmodel_worker.serve.text import Text, load_text
from neuronmodel_worker.serve.tier import Tier
from neuronmodel_worker.serve.weights import Ranks

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 30.0


@dataclass
class Loading:
    """What it cannot do before the model answers it leaves to `background`."""

    job: Run
    background: Background
    tier: Tier | None = None
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def model(self) -> LoadedModel:
        prepared = Prepared(self.job, self.background, self.tier)
        with self.job.clock.phase("SourceOpened"):
            prepared.open()
        engine = open_engine(self.job.config)
        find_devices(self.job, engine)
        with self.job.clock.phase("EngineImported"):
            engine.import_framework()
        with self.job.clock.phase("CompiledLoaded") as phase:
            sets = prepared.find(engine, phase.reach)
            compiled = engine.open(sets.compiled.directory, sets.shards_directory)
        model = self._hand_over(compiled, prepared.ranks(sets))
        prepared.probe_scratch_later()
        return model

    def _hand_over(self, compiled: CompiledModel, ranks: Ranks | None) -> LoadedModel:
        """Devices that somebody else holds are waited for; the tensors are kept meanwhile."""
        began, pauses = self.monotonic(), _pauses()
        while True:
            with self.job.clock.phase("DeviceLoaded", unit="Steps") as phase:
                try:
                    return compiled.load(ranks)
                except DevicesInUse as held:
                    phase.name = "DevicesAwaited"
                    self._wait(held, self.monotonic() - began, next(pauses))

    def _wait(self, held: DevicesInUse, waited: float, pause: float) -> None:
        """Raises DevicesInUse when they were waited for as long as a start may stand still."""
        limit = self.job.config.start_timeout_seconds
        if waited >= limit:
            raise DevicesInUse(f"{held} They were waited for {waited:,.0f} s.") from held
        log.warning("%s Trying again in %d s.", held, pause := min(pause, limit - waited))
        self.pause(pause)

    def text(self) -> Text:
        with self.job.clock.phase("TokenizerLoaded"):
            return load_text(self.job.source, self.job.config.generation_config)


def find_devices(job: Run, engine: Engine) -> None:
    """A phase where the engine computes on devices. Raises a WorkerFailure for devices that are not there."""
    if devices := engine.devices():
        with job.clock.phase("DevicesFound"):
            job.clock.found_devices(devices)


def _pauses() -> Iterator[float]:
    """Seconds: 1, 2, 4 …, LONGEST_PAUSE_SECONDS."""
    return (min(2.0**attempt, LONGEST_PAUSE_SECONDS) for attempt in itertools.count())


def open_tier(job: Run) -> Tier | None:
    """None where the scratch volume keeps no copies."""
    config = job.config
    return Tier(Path(config.scratch_path), config.scratch_limit_bytes) if config.scratch_tier else None
