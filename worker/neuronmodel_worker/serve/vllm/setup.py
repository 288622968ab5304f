"""What a start of vLLM needs of an engine; each engine has a room with its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput, FlagsRefused, WorkerFailure
from neuronmodel_worker.serve.prepared import PreparedModel


class ServerNotHooked(BadInput):
    """vLLM does not load the weights that were prepared."""

    reason = Reason.SERVER_NOT_HOOKED


@dataclass(frozen=True)
class Launch:
    """The arguments that follow `vllm`, and its environment without what the worker itself adds."""

    arguments: list[str]
    environment: Mapping[str, str]


class VllmSetup(Protocol):
    not_hooked: str
    """Why vLLM may have loaded without our plugin."""

    def check(self, folder: Path) -> None:
        """Raises a BadInput for what vLLM cannot serve, before anything is opened."""

    def launch(self, prepared: PreparedModel, folder: Path, port: int) -> Launch:
        """Opens the source and the sets. Raises what `neuronmodel serve` raises for them, and a BadInput."""

    def failure(self, output: str, *, raised: bool) -> WorkerFailure | None:
        """Returns the failure that vLLM's last lines show, or None if they show none that is known by name. `raised`:
        the plugin relayed an exception, which is their end."""


def check_type(config: Mapping[str, Any], model_type: str | None) -> None:
    """Raises FlagsRefused for a type that is not config.json's: vLLM chooses the model's class by config.json alone."""
    if model_type not in (None, config.get("model_type")):
        raise FlagsRefused(
            f"spec.model.type is {model_type}, and vLLM takes the checkpoint for what config.json says: "
            f"{config.get('model_type')}. Remove spec.model.type, or set spec.serving.server: OpenAI."
        )
