"""`make fuzz`: our header parser against the safetensors library's, guided by what of ours an input reaches.

Options are libFuzzer's: `-max_total_time=60`, `-runs=0 FILE` to look at one file again. The corpus starts from files
made here and lives in a temporary folder, unless a folder is named.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]  # built for Linux on x86-64

with atheris.instrument_imports(include=["neuronmodel_worker.checkpoint"]):
    import neuronmodel_worker.checkpoint  # noqa: F401

from tests.fuzz.headers import mutate_file, seeds
from tests.fuzz.judgement import compare

SEEDS = 400
MAX_BYTES = 16384


def mutate(content: bytes, max_bytes: int, seed: int) -> bytes:
    """One in four is changed bit by bit, the others where a header has its joints."""
    if seed % 4 == 0:
        return bytes(atheris.Mutate(content, max_bytes))
    changed = mutate_file(content, seed)
    return changed if len(changed) <= max_bytes else content


def main() -> None:
    # A file in memory: its path is the same at every run.
    file = Path(f"/proc/self/fd/{os.memfd_create('header')}")
    with tempfile.TemporaryDirectory(prefix="fuzz-header-") as corpus:
        for number, content in enumerate(seeds(SEEDS)):
            (Path(corpus) / f"seed-{number}").write_bytes(content)
        options = [f"-max_len={MAX_BYTES}", "-timeout=20", *sys.argv[1:]]
        named = [each for each in sys.argv[1:] if not each.startswith("-")]
        atheris.Setup(
            [sys.argv[0], *options, *([] if named else [corpus])],
            lambda content: compare(content, file) and None,
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
