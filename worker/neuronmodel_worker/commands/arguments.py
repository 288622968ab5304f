"""The commands that people type, and their options. Nothing is opened or imported, so that --help is instant."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from neuronmodel_api.machines import DEFAULT_MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable

    Subparsers = argparse._SubParsersAction[Any]


class HostCommand(NamedTuple):
    """A command that people type. `module` has a function of the command's name that takes the parsed options."""

    help: str
    description: str
    add_arguments: "Callable[[argparse.ArgumentParser], None]"
    module: str


def add_commands(commands: "Subparsers") -> None:
    """Adds a subparser for every command."""
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.help, description=command.description))


def _shard(command: argparse.ArgumentParser) -> None:
    _add_source(command)
    command.add_argument(
        "--output", type=_folder, metavar="DIR", required=True, help="the folder to write to; made where it is missing"
    )
    _add_run(command)
    _add_quiet(command)


def _plan(command: argparse.ArgumentParser) -> None:
    _add_source(command)
    command.add_argument(
        "--instance-type",
        metavar="NAME",
        default=DEFAULT_MACHINE.name,
        help=f"the machine that the model is to serve on; {DEFAULT_MACHINE.name} by default",
    )
    command.add_argument("--output", type=_folder, metavar="DIR", help="the folder that `shard` would write to")
    command.add_argument("--no-measure", action="store_true", help="do not measure the disk, and predict no time")
    command.add_argument("--tensors", action="store_true", help="list every tensor of a rank")
    command.add_argument("--json", action="store_true", help="everything, every tensor included, as one JSON document")
    _add_run(command)


def _load(command: argparse.ArgumentParser) -> None:
    _add_source(command)
    _add_run(command)
    _add_quiet(command)


def _verify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory", type=_folder, metavar="DIR", help="what was given to --output; the rank files lie in DIR/weights"
    )
    command.add_argument(
        "--full", action="store_true", help="read every byte, and compare the digests that were taken while writing"
    )
    _add_threads(command)
    _add_quiet(command)


def _artifacts(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = _on_store(actions, "list", "what is on the volume", "Shows every set, whole or not, and who refers to it.")
    shown = _on_store(actions, "show", "everything about one set", "Shows what a set was made from, its files, and who "
                      "refers to it.")  # fmt: skip
    shown.add_argument("key", metavar="KEY", help="the set's key, or as much of it as no other begins with")
    for each in (listed, shown):
        each.add_argument("--json", action="store_true", help="as one JSON document")
    _artifacts_verify(actions)
    _artifacts_collect(actions)


def _artifacts_verify(actions: "Subparsers") -> None:
    command = _on_store(
        actions,
        "verify",
        "check sets",
        "Checks every set of the volume, or one, and prints a line for everything that is wrong. Changes nothing but "
        "with --quarantine.",
    )
    command.add_argument(
        "key", metavar="KEY", nargs="?", help="one set's key, or as much of it as no other begins with; absent: all"
    )
    command.add_argument(
        "--full", action="store_true", help="read every byte, and compare the digests that were taken while writing"
    )
    command.add_argument(
        "--quarantine", action="store_true", help="put what is damaged apart, so that it is built again"
    )
    _add_threads(command)
    _add_quiet(command)


def _artifacts_collect(actions: "Subparsers") -> None:
    command = _on_store(
        actions,
        "collect",
        "remove what nobody needs",
        "Removes sets that no NeuronModel refers to, what dead writers left, and what was put into quarantine: first "
        "what is older than --older-than, then, the oldest first, as much as makes the room that --want names. It "
        "cannot see which pods run: sets that are served, though their NeuronModel is gone, have to be named with "
        "--keep.",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would go")
    command.add_argument(
        "--older-than", metavar="AGE", default="7d", help="since the last reference went, as 12h or 30d; 7d by default"
    )
    command.add_argument("--want", metavar="BYTES", help="how much is to be free afterwards, as 500GB or 2TB")
    command.add_argument(
        "--keep", metavar="KEY", action="append", default=[], help="a key that stays though nobody refers to it"
    )
    command.add_argument(
        "--force-unref",
        metavar="OWNER",
        action="append",
        default=[],
        help="remove the references of this owner (namespace.name.uid) first, whether or not it is there",
    )


def _from_command(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "words",
        metavar="FILE",
        nargs="*",
        help="the text; absent or -: standard input. Or a command that your shell expands: -- inference_demo …",
    )
    command.add_argument("--claim", metavar="NAME", help="the claim that holds the model; absent: a folder of the node")
    command.add_argument(
        "--source",
        metavar="URI",
        help="what holds the model in place of a claim: a repository, hf://ORGANISATION/NAME[@REVISION], or a bucket, "
        "s3://BUCKET/PREFIX",
    )
    command.add_argument(
        "--claim-root",
        metavar="DIR",
        help="the folder of the command's host that holds what the claim holds; absent: the one above the model's",
    )
    command.add_argument("--name", metavar="NAME", help="of the NeuronModel; absent: made of the model's folder")
    command.add_argument(
        "--artifacts-size", metavar="SIZE", help="of the artifacts volume, as 1Ti; absent: an estimate"
    )
    command.add_argument(
        "--storage-class", metavar="NAME", help="of the artifacts volume; absent: the cluster's default"
    )
    command.add_argument("--artifacts-claim", metavar="NAME", help="a claim of yours as the artifacts volume")
    command.add_argument("--instance-type", metavar="TYPE", help="of the nodes to serve on; absent: trn2.48xlarge")


def _on_store(actions: "Subparsers", name: str, what: str, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = actions.add_parser(name, help=what, description=description)
    command.add_argument("--store", type=_folder, metavar="DIR", required=True, help="where the volume is mounted")
    return command


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        type=_model,
        metavar="DIR",
        required=True,
        help="a Hugging Face checkpoint: the folder of its config.json and .safetensors files, a repository of the "
        "Hub as hf://ORGANISATION/NAME[@REVISION], or a bucket of S3 as s3://BUCKET/PREFIX",
    )
    command.add_argument(
        "--neuron-config",
        metavar="FILE",
        required=True,
        help="a JSON object of NxD Inference's NeuronConfig fields, such as tp_degree; - for standard input",
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ranks", metavar="A-B", help="these ranks alone, as 0-15 or 3; absent: as FILE says, which is all by default"
    )
    _add_threads(command)


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads", metavar="N", help="how many threads are at work; absent: what suits processors and disks"
    )


def _add_quiet(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="show no progress")


def _model(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder cannot be empty")
    return text


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder cannot be empty")
    return Path(text)


COMMANDS: Final = {
    "shard": HostCommand(
        "write the shards of a checkpoint, one file a rank",
        "Writes DIR/weights/tp{rank}_sharded_checkpoint.safetensors for every rank, byte for byte what NxD Inference "
        "writes, and DIR/manifest.json, by which `neuronmodel verify` knows them. A file has its final name only when "
        "it is whole. Rank files in DIR that are not of this set are removed at the end; other files are left alone.",
        _shard,
        "commands.shard",
    ),
    "plan": HostCommand(
        "say what sharding would read, write and need",
        "Shows ranks, files, bytes, memory, and how long it would take at the disk's speed. Of the checkpoint it reads "
        "config.json and the headers of the files. The disk's speed is measured with at most 256 MB of reading, and "
        "with --output as much of writing to a file without a name. Shows too what a start of the model takes of "
        "Neuron devices, host memory and local disk, with either strategy, and whether a machine has it.",
        _plan,
        "commands.plan",
    ),
    "load": HostCommand(
        "time the sharding of a checkpoint into memory",
        "Shards the checkpoint into the memory of this process, every rank's tensors at once, as a start of a model "
        "with strategy ShardOnLoad does, says how long it took, and writes nothing.",
        _load,
        "commands.load",
    ),
    "verify": HostCommand(
        "check the shards in a folder",
        "Checks that every rank's file is there, whole, and of its own rank, and that all ranks have the same tensors. "
        "Prints a line for everything that is wrong. Without a manifest, as in a folder that NxD Inference wrote, "
        "digests cannot be compared.",
        _verify,
        "commands.verify",
    ),
    "artifacts": HostCommand(
        "look after an artifacts volume",
        "For people, on an artifacts volume itself. Of all this only `collect` and `verify --quarantine` change "
        "anything.",
        _artifacts,
        "commands.artifacts",
    ),
    "from-command": HostCommand(
        "turn an inference_demo command line into a NeuronModel",
        "Reads a shell's text with one `inference_demo` command and the assignments and exports before it, and prints "
        "the NeuronModel that does the same. Nothing is executed. What is not carried over is named, with the reason; "
        "what is not understood is refused, with its line.",
        _from_command,
        "commands.migrate",
    ),
}
"""All commands by name. To add a command, add an entry."""
