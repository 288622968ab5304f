"""The name of a repository, and of a revision of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Self

from neuronmodel_api.sources.hugging_face import COMMIT, DEFAULT_REVISION, SCHEME, HuggingFace
from neuronmodel_worker.sources.source_address import SourceAddress

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
"""As the Hub allows names (huggingface_hub, `validate_repo_id`)."""
REVISION: Final = re.compile(r"[\w.][\w./+-]{0,249}", re.ASCII)
HOW: Final = "Write it as hf://ORGANISATION/NAME, or hf://ORGANISATION/NAME@REVISION"
OTHER_TYPES: Final = ("datasets", "spaces", "buckets", "kernels")


@dataclass(frozen=True)
class HubAddress(SourceAddress):
    """A repository of a model, and a branch, a tag or a commit of it."""

    SCHEME = SCHEME
    FORM = f"a repository of the Hugging Face Hub as {SCHEME}ORGANISATION/NAME[@REVISION]"
    RIGHT = (
        "A private or gated repository needs tokenSecretRef: {name: …, key: …}, which names a Secret with a token that "
        "may read it."
    )

    repository: str
    revision: str = DEFAULT_REVISION

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `hf://org/name[@revision]`. Raises ValueError with a sentence."""
        name, at, revision = text.removeprefix(SCHEME).removeprefix("models/").partition("@")
        if "://" in name or "?" in name or "#" in name:
            raise ValueError(f"{text!r} is no repository's name. {HOW}.")
        if name.split("/")[0] in OTHER_TYPES:
            raise ValueError(f"{text} is no repository of a model. {HOW}.")
        if name.count("/") > 1:
            raise ValueError(
                f"{text} names something below a repository, and a checkpoint lies at the repository's top. {HOW}."
            )
        if not REPOSITORY.fullmatch(name) or "--" in name or ".." in name or name.endswith((".", ".git", "-")):
            raise ValueError(f"{text} has {name!r} as the repository's name, which the Hub does not allow. {HOW}.")
        if at and (not REVISION.fullmatch(revision) or ".." in revision):
            raise ValueError(f"{text} has {revision!r} as the revision, which is none that git allows. {HOW}.")
        return cls(name, revision or DEFAULT_REVISION)

    @property
    def is_commit(self) -> bool:
        return COMMIT.fullmatch(self.revision) is not None

    @property
    def named_after(self) -> PurePosixPath:
        return PurePosixPath(self.repository)

    def member(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """The Hub's endpoint is the operator's to allow: what a command's environment has is of its own host."""
        revision = {} if self.revision == DEFAULT_REVISION else {"revision": self.revision}
        return {HuggingFace.member(): {"repository": self.repository, **revision}}

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision != DEFAULT_REVISION else "")
