"""The files that a tokenizer is read from: which of them exist, and that each has the content its name says."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.checkpoint import CONFIG_FILE, refuse_wrong_content
from neuronmodel_worker.checkpoint.files import read_json_object
from neuronmodel_worker.failures import BadInput, ConfigInvalid, WorkerFailure
from neuronmodel_worker.io.untrusted_input import shown
from neuronmodel_worker.sources import Folder, WeightSource

CONFIG: Final = "tokenizer_config.json"
TOKENIZER: Final = "tokenizer.json"
SPECIAL_TOKENS: Final = "special_tokens_map.json"
TEMPLATE: Final = "chat_template.jinja"
TEMPLATES: Final = "additional_chat_templates"
TEKKEN: Final = "tekken.json"

SMALL: Final = (CONFIG, SPECIAL_TOKENS, "added_tokens.json")
VOCABULARIES: Final = (TOKENIZER, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
NAMES: Final = (*SMALL, *VOCABULARIES, "merges.txt", TEMPLATE, TEKKEN)

NAMED_BY_CONFIG: Final = ("tokenizer_file", "vocab_file", "merges_file")
"""The fields of tokenizer_config.json with files that transformers opens, wherever they are."""


class TokenizerInvalid(BadInput):
    reason = Reason.TOKENIZER_INVALID


def wrong_contents(source: WeightSource) -> Iterator[WorkerFailure]:
    """The refusal of each file of a tokenizer that has another content than its name says; first bytes are read."""
    if source.is_local:
        yield from TokenizerFiles(source.directory).wrong_contents()
        return
    source.read_ahead(NAMES)
    for name in NAMES:
        try:
            refuse_wrong_content(source, name, may_be_empty=name.endswith(".jinja"))
        except WorkerFailure as failure:
            yield failure


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of a tokenizer in a folder."""

    directory: Path

    @cached_property
    def present(self) -> tuple[str, ...]:
        return tuple(name for name in NAMES if (self.directory / name).exists())

    @property
    def named(self) -> str:
        return ", ".join(self.present)

    @property
    def template_file(self) -> Path:
        """The file that has the chat template."""
        places = (self.directory / TEMPLATE, self.directory / TEMPLATES / "default.jinja")
        return next((file for file in places if file.exists()), self.directory / CONFIG)

    @property
    def named_class(self) -> str | None:
        found = self.tokenizer_config.get("tokenizer_class") or self.config.get("tokenizer_class")
        return found if isinstance(found, str) else None

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        return self.read(CONFIG)

    @cached_property
    def special_tokens_map(self) -> Mapping[str, Any]:
        return self.read(SPECIAL_TOKENS)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return self.read(CONFIG_FILE)

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        """The content of tokenizer.json, which is long: read it only after transformers has. Raises OSError,
        ValueError."""
        if TOKENIZER not in self.present:
            return {}
        found = json.loads((self.directory / TOKENIZER).read_bytes())
        return found if isinstance(found, dict) else {}

    def read(self, name: str) -> Mapping[str, Any]:
        """The content of a small JSON file; empty where it is missing. Raises TokenizerInvalid, and what
        `read_json_object` raises for a file that is of another kind or cannot be read."""
        try:
            return read_json_object(Folder(self.directory), name)
        except FileNotFoundError:
            return {}
        except ConfigInvalid as error:
            raise TokenizerInvalid(str(error)) from error

    def check(self) -> None:
        """Raises TokenizerInvalid, and what `refuse_wrong_content` raises."""
        for failure in self.wrong_contents():
            raise failure
        for name in SMALL:
            self.read(name)
        if not any(name in self.present for name in VOCABULARIES):
            raise TokenizerInvalid(self._without_vocabulary())
        if set(self.present) & set(VOCABULARIES) == {"vocab.json"} and "merges.txt" not in self.present:
            raise TokenizerInvalid(
                f"{self.directory} holds vocab.json without merges.txt, and no {TOKENIZER}. Put the {TOKENIZER} of the "
                "checkpoint there, or the merges.txt that belongs to vocab.json."
            )

    def wrong_contents(self) -> Iterator[WorkerFailure]:
        """The refusal of each file that has another content than its name says."""
        for file in self._all():
            try:
                refuse_wrong_content(Folder(file.parent), file.name, may_be_empty=file.suffix == ".jinja")
            except WorkerFailure as failure:
                yield failure

    def unreadable(self) -> str | None:
        """A sentence on the first file that is not in UTF-8, or is no JSON."""
        for file in self._all():
            if file.suffix not in (".json", ".jinja", ".txt") or not file.exists():
                continue
            text = file.read_bytes()
            if file.suffix == ".json" and text.startswith(b"\xef\xbb\xbf"):
                return f"{file} begins with a byte order mark, which transformers does not take."
            try:
                json.loads(text) if file.suffix == ".json" else text.decode()
            except UnicodeDecodeError as error:
                return f"{file} is not in UTF-8 (byte {error.start:,})."
            except (ValueError, RecursionError) as error:
                return f"{file} is not valid JSON ({shown(str(error))})."
        return None

    def _all(self) -> Iterator[Path]:
        yield from (self.directory / name for name in NAMES)
        yield from sorted((self.directory / TEMPLATES).glob("*.jinja"))

    def _without_vocabulary(self) -> str:
        if TEKKEN in self.present:
            return (
                f"The tokenizer in {self.directory} is Mistral's own {TEKKEN}, which is not read here. Put the "
                f"{TOKENIZER} and {CONFIG} of a checkpoint in Hugging Face format there."
            )
        return (
            f"{self.directory} holds no tokenizer: no {TOKENIZER} and no tokenizer.model. Put the {TOKENIZER} and "
            f"{CONFIG} of the checkpoint there."
        )

    def named_files(self) -> dict[str, str]:
        """The files that tokenizer_config.json names, by field, as those of the same names in this folder: it may have
        been saved on another machine. Raises TokenizerInvalid where there is none."""
        found = {}
        for field in NAMED_BY_CONFIG:
            if not isinstance(path := self.tokenizer_config.get(field), str):
                continue
            file = self.directory / Path(path).name
            if not file.is_file():
                raise TokenizerInvalid(
                    f"{self.directory / CONFIG} names {shown(path)} as its {field}, and {self.directory} holds no file "
                    "of that name. Put it there, or remove the field."
                )
            found[field] = str(file)
        return found

    @property
    def code(self) -> str:
        """The class in the checkpoint's own code that the tokenizer needs."""
        for settings in (self.tokenizer_config, self.config):
            declared = settings.get("auto_map")
            found = declared.get("AutoTokenizer") if isinstance(declared, dict) else declared
            named = next((each for each in found if each), None) if isinstance(found, list) else found
            if named:
                return shown(str(named))
        return "auto_map"
