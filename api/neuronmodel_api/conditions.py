"""The types of a NeuronModel's conditions. They import nothing: a worker, too, reads `reasons` as it starts."""

from enum import StrEnum


class ConditionType(StrEnum):
    READY = "Ready"
    """The summary; Unknown while working."""
    SOURCE_RESOLVED = "SourceResolved"
    ARTIFACTS_READY = "ArtifactsReady"
    SCHEDULED = "Scheduled"
    LOADED = "Loaded"
    UPDATE_AVAILABLE = "UpdateAvailable"
