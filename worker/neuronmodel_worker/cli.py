"""The command `neuronmodel`: prepares and serves in a pod, where the operator configures it; shards on any host."""

import time

# Before any other import: what they cost is part of the start that the report accounts for.
_MONOTONIC, _EPOCH = time.monotonic_ns(), time.time_ns()

import argparse  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NoReturn  # noqa: E402

from neuronmodel_worker.host import arguments as host  # noqa: E402

TERMINATION_LOG = "/dev/termination-log"


def run_and_exit() -> NoReturn:
    """The process's whole life. Everything is closed and written when `main` returns; to let Python take down a process
    that holds PyTorch costs 0.8 to 3 seconds on two busy processors, in which nobody gets anything, and would wait for
    answers that draining has given up."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback, until the command has its own way to end
    code = main()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # nobody reads it any more, or it was closed from the start
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; see neuronmodel_api.exits."""
    options = _parser().parse_args(arguments)
    if options.command in host.COMMANDS:
        from neuronmodel_worker.host.command import run_host_command

        return run_host_command(options)
    from neuronmodel_worker.report.clock import FirstLine
    from neuronmodel_worker.run.runner import run_command

    return run_command(
        options.command, options.config, options.termination_log, FirstLine(_MONOTONIC, _EPOCH), os.environ
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="neuronmodel", description="Shards a large language model, and serves it shard by shard.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    host.add_commands(commands)
    for name, what in {
        "prepare": "build what a model's start needs and the artifacts volume lacks",
        "serve": "load a model and answer requests",
        "cleanup": "remove what this model alone needed from the artifacts volume",
    }.items():
        command = commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
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
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"neuronmodel {version('neuronmodel')}")
        parser.exit()


if __name__ == "__main__":
    run_and_exit()
