"""What every command that runs in a pod works with: its configuration, its clock and its volumes."""

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from neuronmodel_api import exits, names
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput, WorkerFailure
from neuronmodel_worker.io.temporary import FOLDER, make_folder
from neuronmodel_worker.report.clock import StartClock
from neuronmodel_worker.sources import Folder, WeightSource
from neuronmodel_worker.sources.network import open_configured

if TYPE_CHECKING:
    from neuronmodel_worker.sources.remote.traffic import Traffic


class ConfigurationInvalid(BadInput):
    """The worker has no configuration, or an invalid one."""

    reason = Reason.CONFIGURATION_INVALID
    exit_code = exits.USAGE


class ScratchUnwritable(WorkerFailure):
    reason = Reason.SCRATCH_UNWRITABLE


@dataclass(frozen=True)
class Run:
    """The context of a command."""

    config: WorkerConfig
    clock: StartClock

    @property
    def source(self) -> Path:
        if not self.config.source_path:
            raise ConfigurationInvalid("The configuration names no sourcePath. Set it to the checkpoint's directory.")
        return Path(self.config.source_path)

    @cached_property
    def weights(self) -> WeightSource:
        """The source that the configuration names.

        Raises ConfigurationInvalid, and for a source on a network what opening it raises.
        """
        network = self.config.network_source
        if network is None:
            return Folder(self.source)
        opened = open_configured(network, self.artifacts, self._watch)
        opened.in_use = frozenset(self.config.keys_in_use)
        if failure := opened.resolution.failure:
            self.clock.note(failure.reason, str(failure))
        return opened

    def _watch(self, traffic: "Traffic") -> None:
        self.clock.reads_from(traffic.report)

    @property
    def folder_config(self) -> WorkerConfig:
        """The configuration for what reads directories: `source_path` is the source's `folder`. Raises what that
        raises."""
        return self.config.model_copy(update={"source_path": str(self.weights.folder())})

    @property
    def artifacts(self) -> Path:
        return Path(self.config.artifacts_path)

    @property
    def volumes(self) -> dict[str, Path]:
        """The volumes that a worker writes to, by the names that its metrics have for them."""
        return {"Artifacts": self.artifacts, "Scratch": Path(self.config.scratch_path)}

    @property
    def owner(self) -> str:
        """The name under which this model refers to sealed sets."""
        return names.owner(self.config.namespace, self.config.name, self.config.uid)

    def use_scratch(self) -> None:
        """Makes every program in this process tree, compilers included, put temporary files on the scratch volume, and
        removes those of runs that were killed. Raises ScratchUnwritable."""
        try:
            directory = make_folder(Path(self.config.scratch_path))
        except OSError as error:
            raise ScratchUnwritable(
                f"A folder in {Path(self.config.scratch_path) / FOLDER} cannot be made: {error.strerror or error}. "
                "Check the scratch volume, and that the pod's user and group may write to it."
            ) from error
        os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
