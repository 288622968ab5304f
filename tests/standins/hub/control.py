"""The stand-in's own API, for tests in other processes: what came, what is to go wrong, who may read what."""

from dataclasses import fields
from typing import TYPE_CHECKING

from ..faulty_http import ControlOrigin, Given
from .access import Token
from .rates import Limit
from .repository import Repository

if TYPE_CHECKING:
    from .server import Hub


class HubControl(ControlOrigin):
    def __init__(self, hub: "Hub") -> None:
        super().__init__(hub)
        self._hub = hub
        self.answers |= {
            ("GET", "repositories"): lambda given: [_repository(repository) for repository in hub.repositories],
            ("POST", "tokens"): self._add_token,
            ("DELETE", "tokens"): self._revoke,
            ("POST", "settings"): self._set,
        }
        self.named[("POST", "repositories")] = self._change_repository

    def reset(self) -> None:
        """Used limits are forgotten too; repositories, tokens and settings stay."""
        super().reset()
        self._hub.rates.forget()

    def _change_repository(self, id: str, given: Given) -> object:
        """Made where it is not there and a `folder` is given; `main` is a commit's sha."""
        hub, given = self._hub, dict(given)
        if "folder" in given:
            revision = hub.add_revision if id in hub.repositories else hub.add_repository
            revision(id, given.pop("folder"), *given.pop("names", ()))
        repository = hub.repository(id)
        if "rename" in given:
            hub.rename(id, given.pop("rename"), given.pop("status", 307))
        for name, value in given.items():
            if name not in ("private", "gated", "disabled", "grants", "main"):
                raise ValueError(f"a repository has no {name!r}")
            setattr(repository, name, set(value) if name == "grants" else value)
        return _repository(repository)

    def _add_token(self, given: Given) -> None:
        known = {field.name for field in fields(Token)}
        self._hub.access.tokens[given["token"]] = Token(**{name: given[name] for name in known & given.keys()})

    def _revoke(self, given: Given) -> None:
        del self._hub.access.tokens[given["token"]]

    def _set(self, given: Given) -> None:
        hub = self._hub
        for name, value in given.items():
            if name == "limits":
                hub.rates.limits |= {kind: Limit(**limit) for kind, limit in value.items()}
                continue
            owner = next((part for part in (hub.settings, hub.signer, hub.rates) if hasattr(part, name)), None)
            if owner is None or name.startswith("_"):
                raise ValueError(f"there is no setting {name!r}")
            setattr(owner, name, value)


def _repository(repository: Repository) -> Given:
    return {
        "id": repository.id,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "grants": sorted(repository.grants),
        "refs": repository.refs,
        "commits": sorted(repository.commits),
    }
