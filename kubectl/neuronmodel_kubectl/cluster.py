"""The cluster, as kubectl shows it: kubectl runs as a child, with the options that the user gave."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuronmodel_kubectl.failures import PluginError

Object = Mapping[str, Any]
"""A Kubernetes object as the API server gave it."""
MODELS: Final = "neuronmodels.neuronmodel.dev"
PATIENCE_SECONDS: Final = 60
"""How long one question may take."""
ENV_KUBECTL: Final = "KUBECTL"
"""Which kubectl to run, where it is not the one on the path."""


@dataclass(frozen=True)
class Cluster:
    """kubectl with `options` such as --context. They come last: kubectl takes some only after its command."""

    options: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    """`("--namespace", name)`, `("--all-namespaces",)`, or nothing for the context's own."""

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Returns what kubectl prints. Raises PluginError with kubectl's own words."""
        command = self.command(*arguments)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",  # a worker's log may have anything in it
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except OSError as error:
            raise PluginError(_cannot_run(command[0], error)) from error
        except subprocess.TimeoutExpired as error:
            raise PluginError(f"`{' '.join(command)}` has not ended after {PATIENCE_SECONDS} s.") from error
        if done.returncode:
            raise PluginError(done.stderr.strip() or f"`{' '.join(command)}` ended with code {done.returncode}.")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Returns the parsed answer to `kubectl … -o json`."""
        return json.loads(self.run(*arguments, "--output=json"))

    def items(self, *arguments: str) -> list[Object]:
        """Returns the objects of a list."""
        found: list[Object] = self.json("get", *arguments)["items"]
        return found

    def replaced_by(self, *arguments: str) -> None:
        """Runs kubectl in the place of this process, on the same terminal, and does not return."""
        command = self.command(*arguments)
        try:
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            raise PluginError(_cannot_run(command[0], error)) from error

    def command(self, *arguments: str) -> list[str]:
        return [os.environ.get(ENV_KUBECTL) or "kubectl", *arguments, *self.options, *self.namespace]

    def in_namespace(self, name: str) -> "Cluster":
        return Cluster(self.options, ("--namespace", name))


def _cannot_run(program: str, error: OSError) -> str:
    return (
        f"{program} can't be run: {error.strerror or error}. Install kubectl, or name it in the variable {ENV_KUBECTL}."
    )
