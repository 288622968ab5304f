"""The command `kubectl nm`: its arguments, and the exit code."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from neuronmodel_kubectl.cluster import Cluster
from neuronmodel_kubectl.doctor import doctor
from neuronmodel_kubectl.failures import PluginError
from neuronmodel_kubectl.listing import show_list
from neuronmodel_kubectl.logs import follow_logs
from neuronmodel_kubectl.nudges import restart, retry
from neuronmodel_kubectl.planning import plan
from neuronmodel_kubectl.status_screen import show_status
from neuronmodel_kubectl.waterfall import show_starts

ABOUT: Final = "NeuronModels: what they do, what is wrong with one, and where the time of a start went."
EXAMPLES: Final = """\
where to begin:
  kubectl nm list -A             every NeuronModel; REASON says what is wrong with one
  kubectl nm status NAME         one of them: what is wrong and what to do, progress, starts, events
  kubectl nm logs NAME           the log of its worker; --prepare: of what prepares its artifacts
  kubectl nm starts NAME         where the seconds of its last start went
  kubectl nm doctor NAME         all of it in one archive, for somebody else
"""

Command = Callable[[Cluster, argparse.Namespace], int | None]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        return options.run(cluster_of(options), options) or 0
    except PluginError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `kubectl nm list | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def cluster_of(options: argparse.Namespace) -> Cluster:
    passed = tuple(
        f"--{name.replace('_', '-')}={value}"
        for name in ("kubeconfig", "context", "as")
        if (value := getattr(options, name, None))
    )
    if getattr(options, "all_namespaces", False):
        return Cluster(passed, ("--all-namespaces",))
    namespace = getattr(options, "namespace", None)
    return Cluster(passed, ("--namespace", namespace) if namespace else ())


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(
        prog="kubectl nm",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_kubectl_options(main_parser)
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, about: str, run: Command, *, of_one: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        command.set_defaults(run=run)
        if of_one:
            command.add_argument("name", metavar="NAME", help="the NeuronModel")
        _add_kubectl_options(command)
        return command

    listed = add("list", "every NeuronModel, a line each, with what is wrong", show_list, of_one=False)
    listed.add_argument("-A", "--all-namespaces", action="store_true", help="of every namespace")
    _add_output(listed)
    _add_output(add("status", "one NeuronModel: what is wrong and what to do, progress, starts, events", show_status))
    starts = add("starts", "where the seconds of a start went, phase by phase", show_starts)
    starts.add_argument(
        "number", nargs="?", type=int, default=1, metavar="N", help="which one; 1, the default, is the newest"
    )
    starts.add_argument("--all", action="store_true", help="all that are kept, the last five")
    starts.add_argument("--html", type=Path, metavar="FILE", help="write a page with the picture")
    _add_output(starts)
    _add_logs(add("logs", "the log of its worker", follow_logs))
    planned = add("plan", "what a manifest would read, write and need, before it is applied", plan, of_one=False)
    planned.add_argument(
        "--model",
        required=True,
        metavar="DIR|URI",
        help="the checkpoint: a folder, hf://ORGANISATION/NAME or s3://BUCKET/PREFIX",
    )
    planned.add_argument("-f", "--file", required=True, help="the manifest of the NeuronModel; - for standard input")
    _add_output(planned)
    add("retry", "have a `prepare` that failed tried again at once", retry)
    add("restart", "replace its worker, also by one of a newer default image", restart)
    examined = add(
        "doctor", "collect objects, events, reports, logs and versions in one archive, without secrets", doctor
    )
    examined.add_argument("-f", "--file", type=Path, help="the archive; the default is NAME-TIME.tar.gz")
    return main_parser


def _add_logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--prepare", action="store_true", help="of the last attempt to prepare its artifacts")
    command.add_argument("--previous", action="store_true", help="before the container was started again")
    command.add_argument("--pod", help="of this pod, where there are several")
    command.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    command.add_argument("--tail", type=int, metavar="LINES", help="only the last ones")


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", choices=["json"], help="for programs")


def _add_kubectl_options(command: argparse.ArgumentParser) -> None:
    """kubectl's own, before or after the command."""
    group = command.add_argument_group("as in kubectl")
    absent = argparse.SUPPRESS
    group.add_argument("-n", "--namespace", default=absent, help="the default is the context's")
    group.add_argument("--context", default=absent, help="of the configuration")
    group.add_argument("--kubeconfig", default=absent, metavar="FILE", help="the configuration")
    group.add_argument("--as", default=absent, metavar="USER", help="whom to act for")
