"""`neuronmodel from-command`: reads an `inference_demo` command line and prints the NeuronModel that does the same.

Nothing of the text is executed, and nothing but the text is read.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from neuronmodel_worker.commands.migrate.given_flags import read_flags
from neuronmodel_worker.commands.migrate.neuronmodel import Converted, convert
from neuronmodel_worker.commands.migrate.options import Choices
from neuronmodel_worker.commands.migrate.shell_script import Invocation, invocation_of, read_invocation
from neuronmodel_worker.commands.migrate.yaml_document import comment_lines, lines_of
from neuronmodel_worker.commands.terminal import print_line, print_note
from neuronmodel_worker.failures import UsageInvalid

MAX_BYTES: Final = 1 << 20
STANDARD_INPUT: Final = "-"


def from_command(options: argparse.Namespace) -> None:
    """Raises NotUnderstood and UsageInvalid."""
    converted = convert(
        read_flags(_invocation(options)),
        Choices(
            source=options.source,
            claim=options.claim,
            claim_root=options.claim_root,
            name=options.name,
            artifacts_size=options.artifacts_size,
            artifacts_claim=options.artifacts_claim,
            storage_class=options.storage_class,
            instance_type=options.instance_type,
        ),
    )
    for line in document_lines(converted):
        print_line(line)
    for correction in converted.corrections:
        print_note(options.command, f"line {correction.line}: {correction.text}. Correct it where it comes from.")
    for each in converted.left_out:
        print_note(options.command, f"line {each.line}: not carried over: {each}.")


def _invocation(options: argparse.Namespace) -> Invocation:
    """Several words are a command that the user's own shell has expanded."""
    if len(options.words) > 1:
        return invocation_of(options.words)
    return read_invocation(_read(options.words[0] if options.words else None))


def document_lines(converted: Converted) -> list[str]:
    """Yields the NeuronModel's lines. Flags that are left out for the same reason are named together."""
    head = ["# Made from an `inference_demo` command line by `neuronmodel from-command`."]
    if converted.left_out:
        head.append("# Not carried over:")
    together = dict[str, list[str]]()
    for each in converted.left_out:
        together.setdefault(each.reason, []).append(each.what)
    for reason, what in together.items():
        head += comment_lines(f"{', '.join(what)}: {reason}.", bullet="- ")
    return [*head, *lines_of(converted.document)]


def _read(file: str | None) -> str:
    where = "Standard input" if file in (None, STANDARD_INPUT) else file
    try:
        if file is None or file == STANDARD_INPUT:
            if not sys.stdin:
                raise UsageInvalid("Standard input is closed. Name a file that holds the command.")
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageInvalid(
            f"{where} cannot be read: {error.strerror or error}. Name a file that holds the command."
        ) from error
    if len(raw) > MAX_BYTES:
        raise UsageInvalid(f"{where} is longer than {MAX_BYTES:,} bytes, far more than a command is.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageInvalid(f"{where} is not in UTF-8: byte {error.start} is no part of it.") from error
