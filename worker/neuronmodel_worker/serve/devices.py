"""The devices that a start needs: looked up before anything is loaded, waited for while somebody else holds them."""

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
    """A phase where the engine computes on devices. Raises a WorkerFailure for devices that are not there."""
    if devices := engine.devices():
        with job.clock.phase(StartPhase.DEVICES_FOUND):
            job.clock.found_devices(devices)


@dataclass
class DeviceBackoff:
    """Begins when it is made, and lasts `seconds`. Pauses are 1, 2, 4 … LONGEST_PAUSE_SECONDS long."""

    seconds: float
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _next: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self._began = self.monotonic()

    def wait(self, in_use: DevicesInUse) -> None:
        """Until it is worth another try. Raises DevicesInUse when the time is over."""
        waited = self.monotonic() - self._began
        if waited >= self.seconds:
            raise DevicesInUse(f"{in_use} They were waited for {waited:,.0f} s.") from in_use
        seconds = min(self._next, self.seconds - waited)
        self._next = min(2 * self._next, LONGEST_PAUSE_SECONDS)
        log.warning("%s Trying again in %d s.", in_use, seconds)
        self.pause(seconds)
