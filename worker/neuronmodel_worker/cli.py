"""The command `neuronmodel`: prepares and serves in a pod, as the operator configures it, and shards on any host."""

import time

# Before any other import: their time is part of the start that is reported.
_MONOTONIC, _EPOCH = time.monotonic_ns(), time.time_ns()

import argparse  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from contextlib import suppress  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast  # noqa: E402

from neuronmodel_api.names import TERMINATION_LOG  # noqa: E402
from neuronmodel_worker.commands.arguments import COMMANDS, add_commands  # noqa: E402

if TYPE_CHECKING:
    from neuronmodel_worker.run.context import Run


class PodCommand(NamedTuple):
    """A command that runs in a pod, configured by a WorkerConfig. `module` has a function of the command's name."""

    help: str
    module: str


POD_COMMANDS = {
    "prepare": PodCommand("build what a model's start needs and the artifacts volume lacks", "prepare.prepare"),
    "serve": PodCommand("load a model and answer requests", "serve.serve"),
    "cleanup": PodCommand("remove what this model alone needed from the artifacts volume", "cleanup"),
}


def run_and_exit() -> NoReturn:
    """Runs the command and exits the process.

    Everything is closed and written when `main` returns. Letting Python tear down a process with PyTorch loaded takes
    0.8 to 3 seconds on two busy processors, serves nobody, and would wait for answers that draining has given up.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback until the command has installed its own handlers
    code = main()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # the reader is gone, or it was closed from the start
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code; see neuronmodel_api.exits."""
    options = _parser().parse_args(arguments)
    if options.command in COMMANDS:
        from neuronmodel_worker.commands.dispatch import run_host_command

        return run_host_command(options)

    return _run_in_pod(options.command, options.config, options.termination_log)


def _run_in_pod(name: str, config: Path | None, termination_log: Path | None) -> int:
    """Runs a command that imports its modules only once its clock runs, and only those that it needs."""
    from neuronmodel_api.report import Stage
    from neuronmodel_worker.report.clock import FirstLine
    from neuronmodel_worker.run.runner import run_command

    first_line = FirstLine(_MONOTONIC, _EPOCH)
    return run_command(Stage[name.upper()], lambda: pod_command(name), config, termination_log, first_line, os.environ)


def pod_command(name: str) -> "Callable[[Run], None]":
    """Imports the command's module and returns the function that does its work."""
    module = import_module(f"neuronmodel_worker.{POD_COMMANDS[name].module}")
    return cast("Callable[[Run], None]", getattr(module, name))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="neuronmodel", description="Shards a large language model, and serves it shard by shard.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands(commands)
    for name, each in POD_COMMANDS.items():
        command = commands.add_parser(name, help=each.help, description=f"{each.help.capitalize()}.")
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="a WorkerConfig as JSON; absent: the variable NEURONMODEL_CONFIG",
        )
        command.add_argument(
            "--termination-log",
            type=Path,
            metavar="FILE",
            help=f"where the last report goes; absent: {TERMINATION_LOG}, where it exists",
        )
    return parser


class _Parser(argparse.ArgumentParser):
    """Exits with USAGE where argparse would exit with 2."""

    def error(self, message: str) -> NoReturn:
        from neuronmodel_api import exits

        self.print_usage(sys.stderr)
        self.exit(exits.USAGE, f"{self.prog}: {message}\n")


class _Version(argparse.Action):
    """Looks up the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"neuronmodel {version('neuronmodel')}")
        parser.exit()


if __name__ == "__main__":
    run_and_exit()
