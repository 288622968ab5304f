"""Command lines of `inference_demo` that people have published, with results that were written from the commands by
hand. The flags, values and structure of each text are as published; paths, names and prompts are our own."""

from typing import Any, Final

import yaml

from neuronmodel_worker.commands.migrate.given_flags import read_flags
from neuronmodel_worker.commands.migrate.neuronmodel import Converted, convert
from neuronmodel_worker.commands.migrate.options import Choices
from neuronmodel_worker.commands.migrate.shell_script import read_invocation
from neuronmodel_worker.commands.migrate.yaml_document import lines_of
from tests.paths import PROJECT

Entry = dict[str, Any]
FOLDER: Final = PROJECT / "tests" / "commands" / "published"
ENTRIES: Final[list[Entry]] = [
    entry for file in sorted(FOLDER.glob("*.yaml")) for entry in yaml.safe_load(file.read_text())
]
TAKEN: Final = [entry for entry in ENTRIES if "expects" in entry]
REFUSED: Final = [entry for entry in ENTRIES if "refused" in entry]
DROPPED: Final = [entry for entry in ENTRIES if "dropped" in entry]
WHY: Final = {
    "library": "NxD Inference refuses it itself",
    "release": "its flags or words are of another release",
    "incomplete": "a placeholder is in it, or nothing sets a variable",
    "several": "it is several commands, or starts several",
    "script": "a script's loops, arrays or programs decide the flags",
}


def source(entry: Entry) -> str:
    """Short enough for the name of a test."""
    return str(entry["source"])[-60:]


def converted(entry: Entry) -> Converted:
    """Raises NotUnderstood."""
    return convert(read_flags(read_invocation(entry["script"])), Choices(claim="models"))


def document(found: Converted) -> Entry:
    """As it is printed."""
    return dict(yaml.safe_load("\n".join(lines_of(found.document))))
