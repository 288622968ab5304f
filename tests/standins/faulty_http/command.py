"""What the command lines of stand-ins have in common."""

import argparse
import json
import signal
from typing import Any

from .server import FaultyServer

_LISTENING = ("listen", "port", "control_listen", "control_port", "advertise", "certificate", "key")


def add_listening(parser: argparse.ArgumentParser, main: str, all: str) -> None:
    """Where it listens; the words are for the main origin and for all of them."""
    parser.add_argument("--listen", default="127.0.0.1", help=f"address of {all}")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-listen", default="127.0.0.1")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--advertise", metavar="URL", help=f"{main} as clients reach it")
    parser.add_argument("--certificate", metavar="FILE")
    parser.add_argument("--key", metavar="FILE")


def listening(given: argparse.Namespace) -> dict[str, Any]:
    """What those arguments are to the stand-in."""
    return {name: getattr(given, name) for name in _LISTENING}


def pair(text: str) -> tuple[str, str]:
    """Of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no '='")
    return name, value


def serve_until_ended(server: FaultyServer) -> int:
    """One line of JSON with the URLs, then it serves until it gets SIGINT or SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with server:
        print(json.dumps(server.described()), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0
