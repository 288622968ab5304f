"""By what right a bucket is read: keys that are files, the pod's own identity, or none.

Whatever variables the process has, only what is chosen here reaches the client: obstore reads every AWS_ variable while
a client is made, and a leftover session token would be joined to keys that it does not belong to.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from neuronmodel_worker.sources.remote.refusals import CredentialsInvalid

FRESH_FOR: Final = timedelta(minutes=6)
"""How long keys from files are kept; a client asks again when five minutes are left, so rotated ones are taken up."""
METADATA: Final = "http://169.254.169.254"
METADATA_SECONDS: Final = 2.0
PREFIX: Final = "AWS_"
IDENTITIES: Final[tuple[Mapping[str, str], ...]] = (
    {"AWS_WEB_IDENTITY_TOKEN_FILE": "web_identity_token_file", "AWS_ROLE_ARN": "role_arn"},
    {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "container_credentials_full_uri",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "container_authorization_token_file",
    },
)
"""Of a pod: a role of its service account (IRSA), and EKS Pod Identity. Webhooks of EKS set these variables."""
ALSO: Final[Mapping[str, str]] = {
    "AWS_ROLE_SESSION_NAME": "role_session_name",
    "AWS_ENDPOINT_URL_STS": "aws_endpoint_url_sts",
}

OF_A_POD: Final = (
    "Name a Secret in credentialsSecretRef, give spec.worker.serviceAccountName a role, or set anonymous for a public "
    "bucket."
)
OF_A_SHELL: Final = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket."

_environment_lock = threading.Lock()


@dataclass(frozen=True)
class KeyFiles:
    """Keys in files, which are read again before they are old."""

    access_key_id: Path
    secret_access_key: Path
    session_token: Path | None = None

    def options(self) -> dict[str, Any]:
        return {"credential_provider": self}

    def __call__(self) -> dict[str, Any]:
        """Returns the keys as obstore takes them. Raises CredentialsInvalid."""
        token = _read(self.session_token, needed=False) or None if self.session_token else None
        return {
            "access_key_id": _read(self.access_key_id),
            "secret_access_key": _read(self.secret_access_key),
            "token": token,
            "expires_at": datetime.now(UTC) + FRESH_FOR,
        }


@dataclass(frozen=True)
class Anonymous:
    """Requests are not signed: the bucket is public."""

    def options(self) -> dict[str, Any]:
        return {"skip_signature": True}


@dataclass(frozen=True)
class GivenKeys:
    """Keys of the environment of a person's shell."""

    environment: Mapping[str, str]

    def options(self) -> dict[str, Any]:
        found = {
            "access_key_id": self.environment.get("AWS_ACCESS_KEY_ID"),
            "secret_access_key": self.environment.get("AWS_SECRET_ACCESS_KEY"),
            "session_token": self.environment.get("AWS_SESSION_TOKEN"),
        }
        return {name: value for name, value in found.items() if value}


def answers_metadata(url: str = METADATA) -> bool:
    """Whether the instance metadata answers. Where packets to it vanish, the client itself would wait for minutes."""
    request = Request(  # noqa: S310 - a URL of ours
        f"{url}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=METADATA_SECONDS) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


@dataclass(frozen=True)
class PodIdentity:
    """What the pod itself is: a role of its service account, EKS Pod Identity, or the node's role."""

    environment: Mapping[str, str]
    remedy: str = OF_A_POD
    """What to do where there is no identity."""
    has_metadata: Callable[[], bool] = answers_metadata

    def options(self) -> dict[str, Any]:
        """Returns what obstore refreshes itself, with token files that it reads again. Raises CredentialsInvalid where
        there is no identity at all, within some seconds."""
        for identity in IDENTITIES:
            if all(self.environment.get(variable) for variable in identity):
                named = {**identity, **{each: ALSO[each] for each in ALSO if self.environment.get(each)}}
                return {option: self.environment[variable] for variable, option in named.items()}
        if not self.has_metadata():
            raise CredentialsInvalid(
                "No credentials are given, and there is no identity that has some: neither "
                "AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN (IRSA) nor AWS_CONTAINER_CREDENTIALS_FULL_URI (EKS Pod "
                f"Identity) is set, and the instance metadata at {METADATA} does not answer. {self.remedy}"
            )
        return {}


Credentials = KeyFiles | Anonymous | GivenKeys | PodIdentity


def credentials_of(environment: Mapping[str, str]) -> Credentials:
    """Returns what a person's environment says: keys, else no signature where AWS_SKIP_SIGNATURE asks for that, else
    what the machine is. Raises ValueError, with a sentence, for a profile, which is not read."""
    if environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"):
        return GivenKeys(environment)
    if environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return Anonymous()
    if environment.get("AWS_PROFILE"):
        raise ValueError(
            "AWS_PROFILE is set, and profiles are not read. Export its keys: "
            "eval $(aws configure export-credentials --format env)."
        )
    return PodIdentity(environment, OF_A_SHELL)


def process_environment() -> Mapping[str, str]:
    """Returns the variables of the process as they are now: those that a client which is being made hides are in it."""
    with _environment_lock:
        return dict(os.environ)


@contextmanager
def without_variables() -> Iterator[None]:
    """Hides AWS_ variables from a client that is being made."""
    with _environment_lock:
        hidden = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        for name in hidden:
            del os.environ[name]
        try:
            yield
        finally:
            os.environ.update(hidden)


def _read(file: Path, *, needed: bool = True) -> str:
    try:
        found = file.read_text().strip()
    except FileNotFoundError:
        found = ""
    except (OSError, ValueError) as error:
        raise CredentialsInvalid(f"The credentials in {file.name} cannot be read: {type(error).__name__}.") from None
    if needed and not found:
        raise CredentialsInvalid(
            f"The Secret of credentialsSecretRef has no {file.name}: it is missing, or lacks that key. Complete it."
        )
    return found
