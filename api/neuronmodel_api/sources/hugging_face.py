"""Repositories of the Hugging Face Hub."""

import re
from datetime import datetime
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_api.references import KeyRef
from neuronmodel_api.sources.network import NetworkSource, NetworkSourceConfig, OptionalFile, SecretFiles

SCHEME: Final = "hf://"
PUBLIC_HUB: Final = "https://huggingface.co"
DEFAULT_REVISION: Final = "main"
TOKEN_FILE: Final = f"{names.SECRETS_MOUNT}/source-token"
COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A revision that never moves."""
WITHOUT_TOKEN: Final = frozenset(
    {Reason.REPOSITORY_NOT_FOUND, Reason.SOURCE_UNAUTHORIZED, Reason.SOURCE_FORBIDDEN, Reason.SOURCE_GATED}
)
"""What the Hub answers to those who show no token."""


class HubSource(NetworkSourceConfig):
    """A repository of the Hugging Face Hub, or of another server that speaks its API."""

    PINNED_BY = "commit"

    repository: str
    revision: str = DEFAULT_REVISION
    commit: str | None = None
    """The commit that the revision was resolved to."""
    endpoint: str = PUBLIC_HUB
    token_file: str | None = None
    """Read at each use; a missing file is no token."""

    @property
    def optional_files(self) -> tuple[OptionalFile, ...]:
        if self.token_file is None:
            return super().optional_files
        absence = "No token is mounted: the Secret of tokenSecretRef is missing, or has no such key."
        return (OptionalFile(self.token_file, WITHOUT_TOKEN, absence), *super().optional_files)


class HuggingFace(NetworkSource):
    """A repository of the Hugging Face Hub, or of another server that speaks its API."""

    FIELD = "hugging_face"
    CONFIG = HubSource
    CONFIG_FIELD = "hub_source"
    SETTINGS = "HUB"
    PUBLIC_ENDPOINT = PUBLIC_HUB
    RIGHTS = frozenset({"token_secret_ref", "ca_bundle"})
    REVISION = "commit"
    IS_OVERWRITTEN = False

    repository: str
    revision: str | None = None
    """A branch, a tag or a commit; absent: main."""
    token_secret_ref: KeyRef | None = None

    @property
    def asked_revision(self) -> str:
        return self.revision or DEFAULT_REVISION

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def display(self) -> str:
        where = f" at {self.endpoint}" if self.endpoint else ""
        return f"repository {self.repository}, revision {self.asked_revision}{where}"

    @property
    def identity(self) -> list[str | None]:
        return [self.repository, self.asked_revision, self.endpoint]

    @property
    def moves(self) -> bool:
        return COMMIT.fullmatch(self.asked_revision) is None

    @property
    def secret_files(self) -> SecretFiles | None:
        token = self.token_secret_ref
        return SecretFiles(token.name, {TOKEN_FILE: token.key}) if token else None

    def served_at(self, revision: str) -> str:
        return f"{self.repository} is served at commit {revision}, and its revision {self.asked_revision}"

    def config(self, revision: str | None, resolved_at: datetime | None) -> HubSource:
        return HubSource(
            repository=self.repository,
            revision=self.asked_revision,
            commit=revision,
            resolved_at=resolved_at,
            endpoint=self.endpoint or PUBLIC_HUB,
            token_file=TOKEN_FILE if self.token_secret_ref else None,
            ca_file=names.SOURCE_CA_FILE if self.ca_bundle else None,
        )
