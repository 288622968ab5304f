"""What can be wrong with a checkpoint, a layout or a volume, each with a reason, a sentence and an exit code.

A failure is for the person who reads `kubectl describe`, or the terminal of a host command: its message says what was
wrong, where, and what to do. The reason is for programs, and stays the same when the sentence changes.
"""

import os
from pathlib import Path

from neuronmodel_api import exits
from neuronmodel_api.reasons import Reason


class WorkerFailure(Exception):
    """Anything that ends the worker for a reason that it understands.

    `reason` is PascalCase and machine-readable; `str()` is the sentence; `exit_code` tells the Job whether a retry can
    help.
    """

    reason: str = Reason.WORKER_FAILED
    exit_code: int = exits.TRANSIENT


class BadInput(WorkerFailure):
    """Only a change of the spec or of the source's files helps, so the Job does not retry."""

    reason = Reason.BAD_INPUT
    exit_code = exits.BAD_INPUT


class UsageInvalid(BadInput):
    """What people type, or an environment variable of theirs, has an invalid value."""

    exit_code = exits.USAGE


class SourceNotFound(BadInput):
    reason = Reason.SOURCE_NOT_FOUND

    def __init__(self, path: Path, leads_to: str | None = None) -> None:
        """`leads_to` is the target if `path` is a symbolic link."""
        link = f", which is a symbolic link to {leads_to}" if leads_to else ""
        super().__init__(
            f"There is no directory at {path}{link}. Name the directory that holds the checkpoint's config.json."
        )


class ConfigMissing(BadInput):
    reason = Reason.CONFIG_MISSING

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory} holds no config.json. Name the directory of a Hugging Face checkpoint, where config.json and "
            "the .safetensors files lie."
        )


class ConfigInvalid(BadInput):
    reason = Reason.CONFIG_INVALID


class WithoutLayout(BadInput):
    """There is no layout of ours, but NxD Inference's own code may support it.

    `remedy` is the alternative to that, a sentence without its full stop; `native` says how to let NxD Inference shard.
    """

    ELSEWHERE = "let NxD Inference shard the model itself, as a NeuronModel does with spec.sharding.weights: Native"
    IN_A_POD = "set spec.sharding.weights: Native, with which NxD Inference shards the model itself"

    def __init__(self, what: str, remedy: str, native: str | None = ELSEWHERE) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what} {remedy}, or {native}." if native else f"{what} {remedy}.")


class ModelTypeWithoutLayout(WithoutLayout):
    """There is no layout of ours for the type; NxD Inference's own class may exist."""

    reason = Reason.MODEL_TYPE_WITHOUT_LAYOUT


class MultimodalModel(ModelTypeWithoutLayout):
    """The checkpoint's text model is only one of several parts."""

    reason = Reason.MODEL_TYPE_WITHOUT_LAYOUT


class NotACheckpoint(BadInput):
    """The files are not a model's own safetensors files but adapters, another format, or placeholders of files that
    were not fetched."""

    reason = Reason.NOT_A_CHECKPOINT


class CheckpointQuantized(BadInput):
    reason = Reason.CHECKPOINT_QUANTIZED


class CheckpointFileMissing(BadInput):
    reason = Reason.CHECKPOINT_FILE_MISSING


class LinkBroken(CheckpointFileMissing):
    """A symbolic link leads nowhere; `target` and `found` say where it leads and what is there."""

    reason = Reason.CHECKPOINT_FILE_MISSING

    def __init__(self, path: Path, target: str, found: str) -> None:
        self.target = target
        super().__init__(
            f"{path} is a symbolic link to {target}, and {found}. Copy the checkpoint with the files that its links "
            "lead to (`cp -rL`), or mount the folder that holds both: of a Hugging Face cache the whole "
            "models--… folder, and not the one below its snapshots alone."
        )


class CheckpointTruncated(BadInput):
    reason = Reason.CHECKPOINT_TRUNCATED


class CheckpointHeaderInvalid(BadInput):
    reason = Reason.CHECKPOINT_HEADER_INVALID

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"The safetensors header of {file} is wrong: {what}. Download or copy the file again.")


class TensorMissing(BadInput):
    reason = Reason.TENSOR_MISSING
    REMEDY = "Check that config.json belongs to these files and that the download is complete."

    def __init__(self, name: str, path: Path, instead: str | None = None) -> None:
        """`instead` are sentences on what the checkpoint has, and what to do."""
        super().__init__(
            f"The model needs the tensor {name}, and the checkpoint in {path} has none of that name. "
            f"{instead or self.REMEDY}"
        )


class TensorShapeMismatch(BadInput):
    reason = Reason.TENSOR_SHAPE_MISMATCH

    def __init__(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        super().__init__(
            f"The tensor {name} has shape {list(found)} in the checkpoint, and config.json makes it {list(expected)}. "
            "Check that config.json belongs to these files."
        )


class LayoutRefused(BadInput):
    """NxD Inference refuses this combination too, or there is no layout of ours for it."""

    reason = Reason.LAYOUT_REFUSED


class FlagWithoutLayout(WithoutLayout, LayoutRefused):
    """There is no layout of ours for a field of NeuronConfig."""

    reason = Reason.LAYOUT_REFUSED


class FlagsRefused(BadInput):
    """A field of NeuronConfig, or the environment, is unknown, has the wrong type, or contradicts another one."""

    reason = Reason.FLAGS_REFUSED


class CombinationRefused(FlagsRefused, LayoutRefused):
    """NxD Inference does not build a model with this combination of fields, or with these fields for this model."""

    reason = Reason.FLAGS_REFUSED


class SourceUnreadable(WorkerFailure):
    reason = Reason.SOURCE_UNREADABLE

    def __init__(self, path: Path, error: OSError) -> None:
        self.what = error.strerror or str(error)
        super().__init__(
            f"{path} cannot be read: {self.what}. Check the volume, and that {_current_user()} may read the file."
        )


class SourceChanged(WorkerFailure):
    reason = Reason.SOURCE_CHANGED
    exit_code = exits.SOURCE_CHANGED

    def __init__(self, path: Path, what: str) -> None:
        self.what = what
        super().__init__(
            f"{path} changed while it was in use: {what}. Leave the checkpoint as it is until this is done; the next "
            "try reads it again."
        )


class ArtifactsMissing(WorkerFailure):
    """Nothing is damaged: the volume is not the one that was prepared, or somebody removed a set from it."""

    reason = Reason.ARTIFACTS_MISSING
    exit_code = exits.ARTIFACT_DAMAGED

    def __init__(self, root: Path, *, volume_is_new: bool) -> None:
        why = "the volume is new" if volume_is_new else "it was removed, or the volume is another one"
        super().__init__(f"What was prepared is not in {root}: {why}. It has to be built again.")


class ArtifactDamaged(WorkerFailure):
    reason = Reason.ARTIFACT_DAMAGED
    exit_code = exits.ARTIFACT_DAMAGED

    def __init__(self, path: Path, what: str) -> None:
        self.what = what
        super().__init__(f"The artifact {path} is damaged: {what}. It is not served from and has to be built again.")


class ArtifactsOutdated(WorkerFailure):
    """Keys contain the versions of builder and reader: another image may read another format."""

    reason = Reason.ARTIFACTS_OUTDATED
    exit_code = exits.ARTIFACT_DAMAGED

    def __init__(self, what: str, prepared: str | None, wanted: str | None) -> None:
        super().__init__(
            f"The {what} was prepared under the key {prepared}, and this worker reads {wanted}: it is of another "
            "version, or was given other flags. It is not served from and has to be prepared again."
        )


class ArtifactsTooNew(BadInput):
    """This version cannot judge the set, so it leaves it unchanged for those that can."""

    reason = Reason.ARTIFACTS_TOO_NEW

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"The artifact {path} was sealed by a newer version, in format {found}, and this one reads up to {known}. "
            "Use the newer worker image, or another artifacts volume."
        )


class ArtifactsUnreadable(WorkerFailure):
    """The volume failed, which says nothing about the set: it is not rebuilt for that."""

    reason = Reason.ARTIFACTS_UNREADABLE

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{error.filename or path} cannot be read: {error.strerror or error}. Check the volume, and that "
            f"{_current_user()} may read it."
        )


class ArtifactsUnwritable(WorkerFailure):
    reason = Reason.ARTIFACTS_UNWRITABLE

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be written: {error.strerror or error}. Check the volume, and that {_current_user()} may "
            "write to it."
        )


class ArtifactsVolumeFull(WorkerFailure):
    reason = Reason.ARTIFACTS_VOLUME_FULL
    exit_code = exits.NO_SPACE

    def __init__(self, directory: Path, needed_bytes: int | None, free_bytes: int, in_use: str = "") -> None:
        """`needed_bytes` is None if a write failed whose size does not tell how much is needed in all. `in_use` is a
        sentence on what takes up the space."""
        self.directory = directory
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.in_use = in_use
        found = (
            f"The volume of {directory} is full: {free_bytes:,} bytes are free."
            if needed_bytes is None
            else f"{needed_bytes:,} bytes are needed on the volume of {directory} and {free_bytes:,} are free."
        )
        found = f"{found} {in_use}" if in_use else found
        super().__init__(f"{found} Enlarge the volume, or delete what is no longer used on it.")


def _current_user() -> str:
    """Names the user and group that would need the permission."""
    return f"user {os.geteuid()} of group {os.getegid()}"
