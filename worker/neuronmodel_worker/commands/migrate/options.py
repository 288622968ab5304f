"""The options of `neuronmodel from-command`: what a command line does not say of a NeuronModel."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final

from neuronmodel_api.names import MAX_MODEL_NAME
from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.sources.network import forms, parse_address
from neuronmodel_worker.sources.source_address import SourceAddress

MODEL_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)
QUANTITY = re.compile(r"(?=[0.]*[1-9])(?=.{,32}$)[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE])?", re.ASCII)
"""A quantity above 0, as the API server accepts it."""
LABEL_VALUE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]", re.ASCII)
MAX_OBJECT_NAME: Final = 253
OF_THE_CACHE: Final = "models--"


@dataclass(frozen=True)
class Choices:
    """The options. `source` names a source on a network; `claim_root` is the folder on the command's host with the
    content of the claim's root; by default the parent of the model's folder. The constructor raises UsageInvalid."""

    source: str | None = None
    claim: str | None = None
    claim_root: str | None = None
    name: str | None = None
    artifacts_size: str | None = None
    artifacts_claim: str | None = None
    storage_class: str | None = None
    instance_type: str | None = None

    def __post_init__(self) -> None:
        for option, value, pattern, what in (
            ("--claim", self.claim, OBJECT_NAME, "the name of a PersistentVolumeClaim"),
            ("--artifacts-claim", self.artifacts_claim, OBJECT_NAME, "the name of a PersistentVolumeClaim"),
            ("--storage-class", self.storage_class, OBJECT_NAME, "the name of a StorageClass"),
            ("--artifacts-size", self.artifacts_size, QUANTITY, "an amount such as 900Gi or 1Ti"),
            ("--instance-type", self.instance_type, LABEL_VALUE, "an instance type such as trn2.48xlarge"),
        ):
            if value is not None and not (pattern.fullmatch(value) and len(value) <= MAX_OBJECT_NAME):
                raise UsageInvalid(f"{option} is {value!r} and has to be {what}.")
        if self.name is not None and not is_model_name(self.name):
            raise UsageInvalid(
                f"--name is {self.name!r} and has to be at most {MAX_MODEL_NAME} lower-case letters, digits and -, "
                "beginning with a letter and not ending with -."
            )
        if self.address and (self.claim is not None or self.claim_root is not None):
            raise UsageInvalid("--source and --claim both say where the model is. Leave out one of them.")
        if self.artifacts_claim and (self.artifacts_size or self.storage_class):
            raise UsageInvalid(
                "--artifacts-claim names a volume that is there. Leave out --artifacts-size and --storage-class."
            )
        if self.claim_root is not None and self.claim is None:
            raise UsageInvalid("--claim-root says what a claim holds. Name the claim with --claim, or leave it out.")

    @cached_property
    def address(self) -> SourceAddress | None:
        """The source on a network, if one is named. Raises UsageInvalid."""
        if self.source is None:
            return None
        try:
            address = parse_address(self.source)
        except ValueError as error:
            raise UsageInvalid(f"--source: {error}") from error
        if address is None:
            raise UsageInvalid(f"--source is {self.source!r} and has to be {forms()}. A claim is named with --claim.")
        return address


def is_model_name(text: str) -> bool:
    """Returns whether the text can be a NeuronModel's name."""
    return len(text) <= MAX_MODEL_NAME and bool(MODEL_NAME.fullmatch(text))


def model_label(folder: PurePosixPath) -> str:
    """What a folder, or a repository's name, says of the model: its last part, or the repository's in the cache of the
    Hugging Face Hub, whose folders are models--owner--name/snapshots/revision."""
    cached = [part for part in folder.parts if part.startswith(OF_THE_CACHE)]
    return cached[-1].rpartition("--")[2] if cached else folder.name


def model_name(folder: PurePosixPath) -> str:
    """Derives a name from the model's folder, or its repository's name. Raises UsageInvalid."""
    made = re.sub(r"[^a-z0-9]+", "-", model_label(folder).lower()).strip("-")
    made = made if made[:1].isalpha() or not made else f"m-{made}"
    made = made[:MAX_MODEL_NAME].rstrip("-")
    if not is_model_name(made):
        raise UsageInvalid(f"No name can be made of where the model is, {str(folder)!r}. Give one with --name.")
    return made
