"""Exit codes of the worker, after sysexits.h; the Job's podFailurePolicy acts on BAD_INPUT."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""An unexpected error; worth another try."""
USAGE: Final = 64
BAD_INPUT: Final = 65
"""The spec, the checkpoint or the flags are wrong: retrying without a change is useless."""
NO_ENGINE: Final = 69
"""This image lacks the engine that the spec asks for."""
NO_SPACE: Final = 74
"""A volume is full or failed."""
TRANSIENT: Final = 75
"""Worth another try soon."""
SOURCE_CHANGED: Final = 76
"""The checkpoint has changed since it was prepared: `prepare` has to run again."""
ARTIFACT_DAMAGED: Final = 77
"""The artifacts are missing, damaged or of another version: `prepare` has to run again."""
TERMINATED: Final = 143
"""128 + SIGTERM, as a shell reports it: the worker was terminated before it was done."""

PREPARE_AGAIN: Final = frozenset({SOURCE_CHANGED, ARTIFACT_DAMAGED})
FINAL: Final = frozenset({USAGE, BAD_INPUT, NO_ENGINE})
