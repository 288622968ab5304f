"""The operator's configuration, read once from the environment, which the chart sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from neuronmodel_api import names
from neuronmodel_api.config import Engine


@dataclass(frozen=True)
class Settings:
    """The operator's configuration; the chart's values set the variables named here."""

    watch_namespaces: tuple[str, ...] = ()
    """NEURONMODEL_WATCH_NAMESPACES, comma separated; empty: all namespaces."""
    allow_host_path: bool = False
    """NEURONMODEL_ALLOW_HOST_PATH: whether a NeuronModel may read and write paths of its node."""
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
        """Raises ValueError for a value that can't be read."""
        images = {
            engine: env[variable]
            for engine in Engine
            if env.get(variable := f"NEURONMODEL_WORKER_IMAGE_{engine.name}", "")
        }
        return Settings(
            watch_namespaces=tuple(filter(None, env.get("NEURONMODEL_WATCH_NAMESPACES", "").split(","))),
            allow_host_path=_parse_bool(env, "NEURONMODEL_ALLOW_HOST_PATH"),
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
