"""Shows that the campaign finds what it is for: a fault of each of Sieve's three kinds, planted in a copy of the
operator, is found by it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = "neuronmodel_operator"


@dataclass(frozen=True)
class Plant:
    described: str
    changes: Mapping[str, tuple[tuple[str, str], ...]]
    """By file: what is in the place of what."""
    options: tuple[str, ...]
    """With which the campaign looks for it."""


PLANTS: Final = (
    Plant(
        "it acts on an intermediate state: what the status says was done counts as done",
        {
            "cluster/apply.py": (
                (
                    "        known = self.refusals\n",
                    "        known = self.refusals\n"
                    "        self._done = snapshot.observed.model.status.observed_generation\n"
                    "        if plan.status is not None:\n"
                    "            snapshot = await self._write_status(plan.status, snapshot)\n",
                ),
                (
                    "        if self._is_in_force(key, digest, snapshot)",
                    "        if key[0] == 'Service' and self._done == snapshot.observed.model.generation:\n"
                    "            return False\n"
                    "        if self._is_in_force(key, digest, snapshot)",
                ),
            )
        },
        ("--story=start", "--pattern=intermediate", "--where=services"),
    ),
    Plant(
        "it acts on a stale state: a process that begins writes for whatever NeuronModel it is shown",
        {"cluster/apply.py": (("            await self._confirm(snapshot)\n", "            pass\n"),)},
        ("--story=scale", "--pattern=stale", "--where=neuronmodels/status"),
    ),
    Plant(
        "it misses a state: it looks only when an event has come",
        {
            "cluster/observe.py": (
                ("SETTLED_FRESH_SECONDS: Final = 300.0", "SETTLED_FRESH_SECONDS: Final = 1e6"),
                ("UNSETTLED_FRESH_SECONDS: Final = 10.0", "UNSETTLED_FRESH_SECONDS: Final = 1e6"),
            ),
            "runtime/tasks.py": (("LOOK_AGAIN_SECONDS: Final = 5.0", "LOOK_AGAIN_SECONDS: Final = 1e6"),),
            "runtime/health.py": (
                ("WATCH_SECONDS: Final = 60\n", "WATCH_SECONDS: Final = 86400\n"),
                ("INACTIVITY_SECONDS: Final = 75\n", "INACTIVITY_SECONDS: Final = 86400\n"),
            ),
        },
        ("--story=change", "--pattern=unobserved", "--where=neuronmodels"),
    ),
)
OPTIONS: Final = ("--part=faults", "--patience=90")


def main() -> int:
    missed = [plant for plant in PLANTS if not is_found(plant)]
    for plant in missed:
        print(f"NOT FOUND: {plant.described}", file=sys.stderr)
    return 1 if missed else 0


def is_found(plant: Plant) -> bool:
    """Runs the campaign with a copy of the operator that has the fault."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        plant_in(Path(folder, PACKAGE), plant)
        path = os.pathsep.join((folder, str(PROJECT), *filter(None, (os.environ.get("PYTHONPATH"),))))
        command = (sys.executable, "-m", "tests.campaign", *OPTIONS, *plant.options)
        ended = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
    fell = [line for line in ended.stdout.splitlines() if " FELL " in line]
    print(f"planted: {plant.described}\n" + "\n".join(f"    {line.strip()[:200]}" for line in fell[:3]), flush=True)
    if not fell:
        print(ended.stdout[-2000:], ended.stderr[-2000:], sep="\n", file=sys.stderr)
    return bool(fell) and ended.returncode == 1


def plant_in(package: Path, plant: Plant) -> None:
    shutil.copytree(PROJECT / "operator" / PACKAGE, package)
    for name, changes in plant.changes.items():
        text = (package / name).read_text()
        for old, new in changes:
            if text.count(old) != 1:
                raise ValueError(f"{name} has {old!r} {text.count(old)} times: the plant no longer fits the operator")
            text = text.replace(old, new)
        (package / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
