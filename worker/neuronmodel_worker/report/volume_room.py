"""How much room is left on the volumes of the pod, as a metric that is measured at each scrape."""

import asyncio
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PATIENCE_SECONDS: Final = 1.0
"""How long a scrape waits for a volume. One that hangs, as a network's can, keeps its last figures."""


class VolumeRoom(Collector):
    """Measures in threads of its own: the admin port answers the kubelet's probes in the same event loop, and a volume
    that hangs must not stop it."""

    def __init__(self, volumes: Mapping[str, Path]) -> None:
        """`volumes`: paths by the volume's name, which becomes a label."""
        self._volumes = volumes
        self._found: dict[str, tuple[int, int]] = {}
        self._asking: dict[str, asyncio.Event] = {}
        """What is set when the question under way is answered."""

    async def measure(self) -> None:
        loop = asyncio.get_running_loop()
        for name, path in self._volumes.items():
            if name not in self._asking or self._asking[name].is_set():
                answered = self._asking[name] = asyncio.Event()
                asking = (name, path, loop, answered)
                threading.Thread(target=self._ask, args=asking, name=f"room-{name}", daemon=True).start()
        waits = [asyncio.ensure_future(answered.wait()) for answered in self._asking.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=PATIENCE_SECONDS)
            for wait in late:
                wait.cancel()

    def _ask(self, name: str, path: Path, loop: asyncio.AbstractEventLoop, answered: asyncio.Event) -> None:
        try:
            found = os.statvfs(path)
            self._found[name] = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        except OSError:  # it is not mounted in this pod
            self._found.pop(name, None)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(answered.set)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        size = GaugeMetricFamily("neuronmodel_volume_size_bytes", "Size of a volume", labels=("volume",))
        free = GaugeMetricFamily(
            "neuronmodel_volume_available_bytes", "What may still be written to a volume", labels=("volume",)
        )
        for name, (total, available) in sorted(self._found.items()):
            size.add_metric((name,), total)
            free.add_metric((name,), available)
        return size, free
