"""A registry on this machine, so that images are pushed and pulled as anywhere else."""

import json
import urllib.error
import urllib.request

from . import processes
from .binaries import binary
from .control_plane import http_ready
from .failures import ClusterError
from .layout import LAYOUT, REGISTRY


def ensure_registry() -> None:
    LAYOUT.registry.mkdir(parents=True, exist_ok=True)
    config = LAYOUT.state / "registry.json"
    config.write_text(json.dumps(_config(), indent=2))
    processes.ensure(
        "registry", [str(binary("registry")), "serve", str(config)], ready=http_ready(f"http://{REGISTRY}/v2/")
    )


def stop() -> None:
    processes.stop("registry")


def holds(repository: str, tag: str) -> bool:
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{repository}/manifests/{tag}", method="HEAD")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (an address of this machine)
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False
    except urllib.error.URLError as error:
        raise ClusterError(
            f"the registry at {REGISTRY} does not answer; `python3 -m hack.cluster up` starts it."
        ) from error


def _config() -> dict[str, object]:
    """YAML's subset that is JSON."""
    return {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(LAYOUT.registry)}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:5000"},
    }
