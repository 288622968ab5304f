"""`python3 -m hack.cluster up|down|status|…`, see `--help`."""

import argparse
import os
import sys
from collections.abc import Callable

from . import images, lifecycle, nodes, status, volumes
from .binaries import PROGRAMS, Module, ensure_program
from .failures import ClusterError
from .layout import NODES, Node, node_named
from .locks import one_at_a_time
from .model import ensure_model
from .progress import say

Command = Callable[[argparse.Namespace], object]


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    # Where Debian keeps the programs of administrators: not on everybody's path, and kubelets look for theirs there.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    try:
        with one_at_a_time(options.work):
            options.run(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m hack.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, about: str, run: Command, *, work: str = "cluster") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run, work=work)
        return command

    up = add("up", "start what does not run", lambda options: lifecycle.up(options.only_api))
    up.add_argument(
        "--only-api", action="store_true", help="etcd and API server, enough for a CustomResourceDefinition"
    )
    add("down", "end it; built programs, images and the model stay for the next time", lambda _: lifecycle.down())
    add("purge", "down, and remove everything built and downloaded too", lambda _: lifecycle.purge())
    show = add("status", "what runs; exit code 1 when something does not", _status, work="")
    show.add_argument("--quiet", action="store_true", help="the exit code alone")
    add("env", "lines for a shell's eval: KUBECONFIG and PATH", lambda _: status.environment(), work="")
    stop = add("node-stop", "lose a node: its kubelet, containerd and pods die at once", _on_node(nodes.lose))
    start = add("node-start", "bring a lost node back", _on_node(nodes.start))
    for command in (stop, start):
        command.add_argument("node", choices=[node.name for node in NODES])
    build = add(
        "images",
        "build the images and push them to the registry",
        lambda options: _images(options.names),
        work="images",
    )
    build.add_argument(
        "names", nargs="*", metavar="|".join(images.DOCKERFILES), help="operator and worker without a name"
    )
    add("model", "prepare the small language model that demo and tests serve", lambda _: ensure_model(), work="model")
    for program in PROGRAMS:
        (name,) = program.packages
        add(name, f"build {name}, which tests run", _program(program), work="")
    add("recycle", "make volumes whose claim is gone claimable again", lambda _: recycle_volumes())
    return parser


def _images(names: list[str]) -> None:
    unknown = sorted(set(names) - set(images.DOCKERFILES))
    if unknown:
        raise ClusterError(f"there is no image {', '.join(unknown)}; there are {', '.join(images.DOCKERFILES)}.")
    images.build(names)


def _program(module: Module) -> Command:
    (name,) = module.packages
    return lambda _: say(f"{name}: {ensure_program(module)}")


def _status(options: argparse.Namespace) -> None:
    if not options.quiet:
        status.show()
    status.require_all()


def _on_node(act: Callable[[Node], None]) -> Command:
    return lambda options: act(node_named(options.node))


def recycle_volumes() -> None:
    say(f"recycled: {', '.join(volumes.recycle()) or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
