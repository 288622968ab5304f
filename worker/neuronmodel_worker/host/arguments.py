"""The command lines of the host commands. Nothing is opened or imported here, so that help is instant."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[Any]

COMMANDS = ("shard", "plan", "load", "verify")


def add_commands(commands: "Subparsers") -> None:
    _shard(commands)
    _plan(commands)
    _load(commands)
    _verify(commands)


def _shard(commands: "Subparsers") -> None:
    command = _command(
        commands,
        "shard",
        "write the shards of a checkpoint, one file a rank",
        "Writes DIR/weights/tp{rank}_sharded_checkpoint.safetensors for every rank, byte for byte what NxD Inference "
        "writes, and DIR/manifest.json, by which `neuronmodel verify` knows them. A file has its final name only when "
        "it is whole. Rank files in DIR that are not of this set are removed at the end; other files are left alone.",
    )
    _add_source(command)
    command.add_argument(
        "--output", type=_folder, metavar="DIR", required=True, help="the folder to write to; made where it is missing"
    )
    _add_run(command)
    _add_quiet(command)


def _plan(commands: "Subparsers") -> None:
    command = _command(
        commands,
        "plan",
        "say what sharding would read, write and need",
        "Shows ranks, files, bytes, memory, and how long it would take at the disk's speed. Of the checkpoint it reads "
        "config.json and the headers of the files. The disk's speed is measured with at most 256 MB of reading, and "
        "with --output as much of writing to a file without a name.",
    )
    _add_source(command)
    command.add_argument("--output", type=_folder, metavar="DIR", help="the folder that `shard` would write to")
    command.add_argument("--no-measure", action="store_true", help="do not measure the disk, and predict no time")
    command.add_argument("--tensors", action="store_true", help="list every tensor of a rank")
    command.add_argument("--json", action="store_true", help="everything, every tensor included, as one JSON document")
    _add_run(command)


def _load(commands: "Subparsers") -> None:
    command = _command(
        commands,
        "load",
        "time the sharding of a checkpoint into memory",
        "Shards the checkpoint into the memory of this process, every rank's tensors at once, as a start of a model "
        "with strategy ShardOnLoad does, says how long it took, and writes nothing.",
    )
    _add_source(command)
    _add_run(command)
    _add_quiet(command)


def _verify(commands: "Subparsers") -> None:
    command = _command(
        commands,
        "verify",
        "check the shards in a folder",
        "Checks that every rank's file is there, whole, and of its own rank, and that all ranks have the same tensors. "
        "Prints a line for everything that is wrong. Without a manifest, as in a folder that NxD Inference wrote, "
        "digests cannot be compared.",
    )
    command.add_argument(
        "directory", type=_folder, metavar="DIR", help="what was given to --output; the rank files lie in DIR/weights"
    )
    command.add_argument(
        "--full", action="store_true", help="read every byte, and compare the digests that were taken while writing"
    )
    _add_threads(command)
    _add_quiet(command)


def _command(commands: "Subparsers", name: str, what: str, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=description)
    return command


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        type=_folder,
        metavar="DIR",
        required=True,
        help="a Hugging Face checkpoint: config.json and .safetensors files",
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
    command.add_argument("--threads", metavar="N", help="how many threads are at work; absent: what suits most disks")


def _add_quiet(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="show no progress")


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder cannot be empty")
    return Path(text)
