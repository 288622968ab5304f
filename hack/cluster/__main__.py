"""`python3 -m hack.cluster up|down|status|…`, see `--help`."""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from . import lifecycle
from .failures import ClusterError
from .layout import LAYOUT, NODES
from .progress import say


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.alone:
            with _alone():
                options.run(options)
        else:
            options.run(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m hack.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, about: str, run: object, *, alone: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run, alone=alone)
        return command

    up = add(
        "up", "start what does not run; a second time changes nothing", lambda options: lifecycle.up(options.only_api)
    )
    up.add_argument(
        "--only-api", action="store_true", help="etcd and API server, enough to try a CustomResourceDefinition"
    )
    return parser


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time on a machine, whichever clone it comes from; the others wait."""
    LAYOUT.state.mkdir(parents=True, exist_ok=True)
    lock = os.open(LAYOUT.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command works on the cluster; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
