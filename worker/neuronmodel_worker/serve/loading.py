"""Loads a model: from the source and the sealed sets to a `LoadedModel` that answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.engines import CompiledModel, DevicesInUse, LoadedModel, open_engine
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.run.fetched_folder import FetchedFolder, start_needs_folder
from neuronmodel_worker.scratch_cache import Tier
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.devices import DeviceBackoff, find_devices
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.weights import Ranks
from neuronmodel_worker.text import Text, load_text


@dataclass
class ModelLoader:
    """Loads the model and its tokenizer. Work that can wait until the model answers is submitted to `background`."""

    job: Run
    background: Background
    tier: Tier | None = None
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _vocabulary: int | None = None

    def model(self) -> LoadedModel:
        """Loads the model onto its devices. Raises a WorkerFailure."""
        prepared = PreparedModel(self.job, self.background, self.tier)
        with self.job.clock.phase(StartPhase.SOURCE_OPENED):
            source = prepared.open()
            self._vocabulary = source.plan.vocabulary
        engine = open_engine(self.job.folder_config)
        find_devices(self.job, engine)
        if start_needs_folder(self.job):
            folder = FetchedFolder(self.job, source.checkpoint).fetch()
            engine = open_engine(self.job.config.model_copy(update={"source_path": str(folder)}))
        with self.job.clock.phase(StartPhase.ENGINE_IMPORTED):
            engine.import_framework()
        with self.job.clock.phase(StartPhase.COMPILED_LOADED) as phase:
            sets = prepared.find(engine, phase.reach)
            compiled = engine.open(sets.compiled.directory, sets.shards_directory)
        model = self._load_onto_devices(compiled, prepared.ranks(sets))
        prepared.probe_scratch_later()
        return model

    def _load_onto_devices(self, compiled: CompiledModel, ranks: Ranks | None) -> LoadedModel:
        """Loads the tensors, which stay in memory while it waits for devices that another process uses."""
        backoff = DeviceBackoff(self.job.config.start_timeout_seconds, self.monotonic, self.pause)
        while True:
            with self.job.clock.phase(StartPhase.DEVICE_LOADED, unit="Steps") as phase:
                try:
                    return compiled.load(ranks)
                except DevicesInUse as in_use:
                    phase.name = StartPhase.DEVICES_AWAITED
                    backoff.wait(in_use)

    def text(self) -> Text:
        """Loads the tokenizer. Call it after `model`, which determines the vocabulary size and whose library may need
        transformers with PyTorch."""
        with self.job.clock.phase(StartPhase.TOKENIZER_LOADED):
            text = load_text(self.job.weights.folder(), self.job.config.generation_config, self._vocabulary)
        self.background.submit(lambda _: text.warn_of_version_differences())
        return text


def open_tier(job: Run) -> Tier | None:
    """Opens the cache on the scratch volume, or returns None if the configuration has none."""
    config = job.config
    return Tier(Path(config.scratch_path), config.scratch_limit_bytes) if config.scratch_tier else None
