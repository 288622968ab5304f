"""The operator's configuration, read once from the environment, which the chart sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from neuronmodel_api import names
from neuronmodel_api.config import Engine
from neuronmodel_api.sources import NETWORK_SOURCES, NetworkSource

PROXY_VARIABLES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
NO_PROXY: Final = PROXY_VARIABLES[2]
DEFAULT_CHECK_SECONDS: Final = 3600
MIN_CHECK_SECONDS: Final = 60
MAX_CHECK_SECONDS: Final = 30 * 24 * 3600


@dataclass(frozen=True)
class SourceSettings:
    """What is allowed of one kind of sources on a network; `Kind` stands for its SETTINGS."""

    endpoints: tuple[str, ...]
    """NEURONMODEL_<Kind>_ENDPOINTS, comma separated: the only endpoints that a NeuronModel may name; empty: the public
    one."""
    check_seconds: int | None = DEFAULT_CHECK_SECONDS
    """NEURONMODEL_<Kind>_CHECK_SECONDS: how often a worker that answers asks whether its source has moved; None, from
    0: never."""


def _public_alone() -> dict[type[NetworkSource], SourceSettings]:
    return {kind: SourceSettings((kind.PUBLIC_ENDPOINT,)) for kind in NETWORK_SOURCES}


@dataclass(frozen=True)
class Settings:
    """The operator's configuration; the chart's values set the variables named here."""

    watch_namespaces: tuple[str, ...] = ()
    """NEURONMODEL_WATCH_NAMESPACES, comma separated; empty: all namespaces."""
    allow_host_path: bool = False
    """NEURONMODEL_ALLOW_HOST_PATH: whether a NeuronModel may read and write paths of its node."""
    allow_http: bool = False
    """NEURONMODEL_ALLOW_HTTP: whether a NeuronModel may read from an endpoint by http://."""
    sources: Mapping[type[NetworkSource], SourceSettings] = field(default_factory=_public_alone)
    """Of each kind of sources on a network."""
    proxy: Mapping[str, str] = field(default_factory=dict)
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY of pods that read a source on a network: those that are set, from
    NEURONMODEL_HTTPS_PROXY, NEURONMODEL_HTTP_PROXY and NEURONMODEL_NO_PROXY."""
    worker_images: Mapping[Engine, str] = field(default_factory=dict)
    """NEURONMODEL_WORKER_IMAGE_CPU, NEURONMODEL_WORKER_IMAGE_NEURON: the image where the spec names none."""
    health_port: int = names.HEALTH_PORT
    """NEURONMODEL_HEALTH_PORT: /healthz, /readyz and /metrics."""
    identity: str = ""
    """NEURONMODEL_IDENTITY: `<namespace>/<name>` of the operator's pod; empty: made from the host and the process."""
    release: str = ""
    """NEURONMODEL_RELEASE: `<namespace>/<name>` of Helm's release."""

    @staticmethod
    def from_environment(env: Mapping[str, str]) -> "Settings":
        """Raises ValueError, with a sentence, for a value that can't be read."""
        images = {
            engine: env[variable]
            for engine in Engine
            if env.get(variable := f"NEURONMODEL_WORKER_IMAGE_{engine.name}", "")
        }
        return Settings(
            watch_namespaces=tuple(filter(None, env.get("NEURONMODEL_WATCH_NAMESPACES", "").split(","))),
            allow_host_path=_parse_bool(env, "NEURONMODEL_ALLOW_HOST_PATH"),
            allow_http=_parse_bool(env, "NEURONMODEL_ALLOW_HTTP"),
            sources={kind: _parse_source(env, kind) for kind in NETWORK_SOURCES},
            proxy=_parse_proxy(env),
            worker_images=images,
            health_port=int(env.get(names.ENV_HEALTH_PORT, names.HEALTH_PORT)),
            identity=env.get("NEURONMODEL_IDENTITY", ""),
            release=env.get("NEURONMODEL_RELEASE", ""),
        )


def _parse_bool(env: Mapping[str, str], variable: str) -> bool:
    value = env.get(variable, "false").lower()
    if value not in ("true", "false"):
        raise ValueError(f"{variable} is {value!r}; it takes true or false")
    return value == "true"


def _parse_source(env: Mapping[str, str], kind: type[NetworkSource]) -> SourceSettings:
    return SourceSettings(
        endpoints=_parse_endpoints(env, f"NEURONMODEL_{kind.SETTINGS}_ENDPOINTS", kind.PUBLIC_ENDPOINT),
        check_seconds=_parse_check_seconds(env, f"NEURONMODEL_{kind.SETTINGS}_CHECK_SECONDS"),
    )


def _parse_endpoints(env: Mapping[str, str], variable: str, usual: str) -> tuple[str, ...]:
    endpoints = tuple(filter(None, (each.strip() for each in env.get(variable, "").split(","))))
    for number, endpoint in enumerate(endpoints, start=1):
        if not _is_server(endpoint):
            raise ValueError(
                f"{variable} has at place {number} what is no URL of a server; it takes URLs such as "
                "https://hub.example.com, without a user, a password, a query and a fragment, separated by commas"
            )
    return endpoints or (usual,)


def _parse_check_seconds(env: Mapping[str, str], variable: str) -> int | None:
    value = env.get(variable) or str(DEFAULT_CHECK_SECONDS)
    seconds = int(value) if value.isascii() and value.isdecimal() else None
    if seconds == 0:
        return None
    if seconds is None or not MIN_CHECK_SECONDS <= seconds <= MAX_CHECK_SECONDS:
        raise ValueError(
            f"{variable} is {value!r}; it takes a number of seconds from {MIN_CHECK_SECONDS} to {MAX_CHECK_SECONDS}, "
            "or 0 for never"
        )
    return seconds


def _parse_proxy(env: Mapping[str, str]) -> Mapping[str, str]:
    proxy = {name: value for name in PROXY_VARIABLES if (value := env.get(f"NEURONMODEL_{name}", "").strip())}
    for name, value in proxy.items():
        if name == NO_PROXY and "@" in value:
            raise ValueError(f"NEURONMODEL_{name} has '@' in it; it takes names of hosts, separated by commas")
        if name != NO_PROXY and not _is_server(value):
            raise ValueError(
                f"NEURONMODEL_{name} is no URL of a proxy; it takes one such as http://proxy.example.com:3128, without "
                "a user and a password, which spec.worker.env of a NeuronModel can take from a Secret"
            )
    return proxy


def _is_server(url: str) -> bool:
    """Whether it is a URL of a server, and holds nothing that is secret or goes with a single request."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" @?#,")
    return parts.scheme in ("http", "https") and has_host and is_plain
