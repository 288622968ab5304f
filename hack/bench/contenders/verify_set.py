"""Ours: the full check of sealed shards, by a command for people, in a Python that has started."""

from contextlib import redirect_stdout
from io import StringIO

from hack.bench.contenders.task import Task, Timed
from neuronmodel_worker.cli import main


def prepare(task: Task) -> Timed:
    """The source is the set's folder of rank files; `command` is `artifacts` or `verify`."""
    shards = task.source.parent
    volume = shards.parents[1]
    arguments = {
        "artifacts": ["artifacts", "verify", shards.name, "--store", str(volume), "--full", "--quiet"],
        "verify": ["verify", str(shards), "--full", "--quiet"],
    }[task.options["command"]]

    def verify() -> None:
        with redirect_stdout(StringIO()) as output:
            code = main(arguments)
        if code:
            raise RuntimeError(f"{' '.join(arguments)} ended with exit code {code}: {output.getvalue()}")

    return verify
