"""The devices that a start needs: checked before anything is loaded, and waited for while another process uses them."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from neuronmodel_api.phases import StartPhase
from neuronmodel_worker.engines import DevicesInUse, ModelEngine
from neuronmodel_worker.run.context import Run

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS: Final = 30.0


def find_devices(job: Run, engine: ModelEngine) -> None:
    """Reports the devices, in a phase of its own, if the engine computes on devices.

    Raises a WorkerFailure for devices that do not exist.
    """
    if devices := engine.devices():
        with job.clock.phase(StartPhase.DEVICES_FOUND):
            job.clock.found_devices(devices)


@dataclass
class DeviceBackoff:
    """Retries for `seconds` from its creation on, with pauses of 1, 2, 4 … LONGEST_PAUSE_SECONDS."""

    seconds: float
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _next: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._began = self.monotonic()

    def wait(self, in_use: DevicesInUse) -> None:
        """Sleeps until the next attempt is due. Raises DevicesInUse when the time is used up."""
        waited = self.monotonic() - self._began
        if waited >= self.seconds:
            raise DevicesInUse(f"{in_use} They were waited for {waited:,.0f} s.") from in_use
        seconds = min(self._next, self.seconds - waited)
        self._next = min(2 * self._next, LONGEST_PAUSE_SECONDS)
        log.warning("%s Trying again in %d s.", in_use, seconds)
        self.pause(seconds)
