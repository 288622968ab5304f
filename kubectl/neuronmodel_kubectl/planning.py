"""`kubectl nm plan`: what a manifest would read, write and need, before it is applied. It runs `neuronmodel plan`, of
the same package, on the spec's own flags."""

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from neuronmodel_api import names
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_kubectl.cluster import Cluster
from neuronmodel_kubectl.failures import PluginError, UsageError
from neuronmodel_operator.manifests.instance_type import instance_type
from neuronmodel_operator.manifests.neuron_config import neuron_config

MAX_FILE_BYTES: Final = 4 << 20


def plan(cluster: Cluster, options: argparse.Namespace) -> int:
    """Returns the exit code of `neuronmodel plan`."""
    spec = _spec(cluster, options.file)
    if find_spec("neuronmodel_worker") is None or find_spec("safetensors") is None:
        raise PluginError(
            "`neuronmodel` is not installed beside this command: `pip install '.[kubectl,worker]'` in a clone of the "
            "project."
        )
    command = [sys.executable, "-m", "neuronmodel_worker", "plan", f"--model={options.model}", "--neuron-config=-"]
    if machine := instance_type(spec):
        command.append(f"--instance-type={machine}")
    if options.output == "json":
        command.append("--json")
    return subprocess.run(command, input=json.dumps(neuron_config(spec)), text=True, check=False).returncode


def _spec(cluster: Cluster, file: str) -> NeuronModelSpec:
    """The spec of the NeuronModel in the file. kubectl parses it, as it will when it is applied. Raises PluginError."""
    if file == "-":
        text = sys.stdin.read(MAX_FILE_BYTES)
    else:
        try:
            text = Path(file).read_text(encoding="utf-8")[:MAX_FILE_BYTES]
        except (OSError, UnicodeDecodeError) as error:
            raise PluginError(f"{file} can't be read: {error}.") from error
    found = [each for each in _objects(cluster, text) if each.get("kind") == names.KIND]
    if len(found) != 1:
        raise UsageError(f"{file} has {len(found)} NeuronModels, and one is planned at a time.")
    try:
        return NeuronModelSpec.model_validate(found[0].get("spec") or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise PluginError(f"{file}: at spec.{'.'.join(map(str, first['loc']))}, {first['msg']}.") from error


def _objects(cluster: Cluster, text: str) -> list[dict[str, Any]]:
    """Parses YAML by kubectl, which has to be there anyway."""
    printed = cluster.run("create", "--dry-run=client", "--validate=false", "--output=json", "--filename=-", stdin=text)
    decoder, place = json.JSONDecoder(), 0
    found: list[dict[str, Any]] = []
    while place < len(printed.rstrip()):
        made, end = decoder.raw_decode(printed, place)
        found += made["items"] if made.get("kind") == "List" else [made]
        place = end + len(printed[end:]) - len(printed[end:].lstrip())
    return found
