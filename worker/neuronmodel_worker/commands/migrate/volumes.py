"""Where a converted NeuronModel has its checkpoint, its artifacts and its scratch space."""

import re
from pathlib import PurePosixPath
from typing import Any, Final

from neuronmodel_worker.commands.migrate.given_flags import MODEL_PATH, InferenceDemoCommand
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood
from neuronmodel_worker.commands.migrate.options import Choices, model_label
from neuronmodel_worker.commands.migrate.volume_sizes import checkpoint_bytes, compiled_size, shards_size
from neuronmodel_worker.commands.migrate.yaml_document import Commented
from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.units import in_units

ANY_REPOSITORY: Final = "hf://ORGANISATION/NAME"
OF_THE_NODE: Final = (
    "A folder of the node: works only where the operator was installed with allowHostPath=true. With --claim NAME the "
    f"model is taken from a claim, and with --source from the Hugging Face Hub, as {ANY_REPOSITORY}, or from a "
    "bucket, as s3://BUCKET/PREFIX."
)
COMPILED_ALONE: Final = "The compiled model alone, which holds no weights: room for several."
SIZE_UNKNOWN: Final = (
    "How big the shards are cannot be told from the command: about as big as the checkpoint, and bigger where ranks "
    "hold copies of key and value heads. Put here what `neuronmodel plan` tells."
)
SCRATCH: Final = (
    "The node's NVMe, where its kubelet's folder is on it (nodeadm, localStorage RAID0): the compiler's work"
)
COPIES: Final = ", and a copy of what a start reads, for the next start in this pod"


def model_place(command: InferenceDemoCommand, choices: Choices) -> PurePosixPath:
    """Returns what the model's name is read from: its folder, the repository's name, or the place in the bucket. Raises
    NotUnderstood."""
    return choices.address.named_after if choices.address else _model_folder(command)


def _model_folder(command: InferenceDemoCommand) -> PurePosixPath:
    given = command.given[MODEL_PATH]
    path = PurePosixPath(given.value)
    if given.unknown and re.search(r"[$`~]", path.name):
        raise given.unknown
    if ".." in path.parts:
        raise NotUnderstood(
            command.line("--model-path"), f"--model-path is {str(path)!r}, with '..' in it. Write the path itself."
        )
    return path


def source(command: InferenceDemoCommand, choices: Choices) -> dict[str, Any]:
    """Returns `spec.model.source`. Raises NotUnderstood and UsageInvalid."""
    if address := choices.address:
        environment = {name: given.text for name, given in command.invocation.environment.items()}
        comment = f"In place of --model-path {command.value(MODEL_PATH)}. {address.RIGHT}"
        return {member: Commented(value, comment) for member, value in address.member(environment).items()}
    path, unknown = _model_folder(command), command.given[MODEL_PATH].unknown
    if unknown and (choices.claim is None or choices.claim_root is not None):
        raise unknown
    if choices.claim is None:
        if not path.is_absolute():
            raise NotUnderstood(
                command.line("--model-path"),
                f"--model-path is {str(path)!r}, which is no absolute path. Write it out, or name the claim that holds "
                f"the model with --claim, or its repository of the Hugging Face Hub with --source {_as_source(path)}.",
            )
        return {"hostPath": Commented({"path": str(path)}, OF_THE_NODE)}
    inside = _inside_claim(path, choices)
    seen = f"--model-path {command.value('--model-path')}, seen from the claim's root."
    return {
        "persistentVolumeClaim": {
            "claimName": choices.claim,
            **({} if inside == "." else {"path": Commented(inside, seen)}),
        }
    }


def _as_source(path: PurePosixPath) -> str:
    """The path as --source, where it may be a repository's name."""
    try:
        return str(HubAddress.parse(str(path))) if len(path.parts) == 2 else ANY_REPOSITORY
    except ValueError:
        return ANY_REPOSITORY


def _inside_claim(path: PurePosixPath, choices: Choices) -> str:
    if choices.claim_root is None:
        return path.name or "."
    root = PurePosixPath(choices.claim_root)
    if not path.is_relative_to(root):
        raise UsageInvalid(
            f"--claim-root is {root}, and the model's folder, {path}, is not within it. Name the folder whose content "
            "the claim holds."
        )
    return str(path.relative_to(root))


def artifacts(command: InferenceDemoCommand, choices: Choices) -> dict[str, Any]:
    """Returns `spec.artifacts`."""
    if choices.artifacts_claim:
        return {"persistentVolumeClaim": {"claimName": choices.artifacts_claim}}
    storage_class = {"storageClassName": choices.storage_class} if choices.storage_class else {}
    return {"template": {**storage_class, "size": choices.artifacts_size or _artifacts_size(command, choices)}}


def _artifacts_size(command: InferenceDemoCommand, choices: Choices) -> Commented:
    if "--save-sharded-checkpoint" not in command:
        return Commented(compiled_size(), COMPILED_ALONE)
    bytes_a_parameter = 4 if command.value("--torch-dtype") == "float32" else 2
    checkpoint = checkpoint_bytes(model_label(model_place(command, choices)), bytes_a_parameter)
    if checkpoint is None:
        return Commented(shards_size(None), SIZE_UNKNOWN)
    return Commented(
        shards_size(checkpoint),
        f"The compiled model and the shards: about as big as the checkpoint, some {in_units(checkpoint)} by its name, "
        "and bigger where ranks hold copies of key and value heads. `neuronmodel plan` tells exactly. Every start "
        "reads them, as fast as this volume is.",
    )


def scratch(copies: bool) -> dict[str, Any]:
    """Returns `spec.scratch`. `copies` says whether a worker keeps copies there."""
    return {"emptyDir": Commented({}, f"{SCRATCH}{COPIES if copies else ''}.")}
