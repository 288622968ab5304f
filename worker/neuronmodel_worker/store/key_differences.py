"""Describes the differences between the inputs of two keys, for `status` and for people."""

from collections.abc import Callable, Iterator, Mapping

from neuronmodel_worker.store.keys import ArtifactKind
from neuronmodel_worker.store.references import References
from neuronmodel_worker.store.volume_layout import Volume

MAX_DIFFERENCES = 4
MAX_VALUE = 60
ABSENT = object()
SOURCE_DIFFERS = "source: the content of the weights differs"
SOURCE_NAMED_OTHERWISE = (
    "source: its content is named by the digests that the repository lists, and that of shards that were made of a "
    "folder by what was seen of its files; whether both are the same only comparing tells, which the next `prepare` of "
    "the folder does once all its weights' files were touched"
)


def nearest_differences(
    volume: Volume, references: References, kind: ArtifactKind, inputs: Mapping[str, object], owner: str
) -> list[str]:
    """The differences from the set that the owner referred to before, or from the set on the volume that has fewest."""
    own = (volume.inputs(kind, key) for key in references.keys_of(owner))
    before = next(([each] for each in own if each and each != inputs), None)
    if before is None:
        every = (volume.inputs(kind, key) for key in volume.keys(kind))
        before = [each for each in every if each and each != inputs]
    return min((differences(each, inputs) for each in before), key=len, default=[])


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """One entry for each input, as in `layout.tp_degree was 2 and is 4`, the source first."""
    found = sorted(_differing(before, now, ""), key=lambda each: not each.startswith("source"))
    return found[:MAX_DIFFERENCES] + (
        [f"{len(found) - MAX_DIFFERENCES} more differ"] if found[MAX_DIFFERENCES:] else []
    )


def _differing(before: Mapping[str, object], now: Mapping[str, object], path: str) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, ABSENT), now.get(name, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{path}{name}.")
        elif path + name == "source" and old != new:
            yield SOURCE_DIFFERS
        elif old != new:
            show = str if str(old) != str(new) else repr
            yield f"{path}{name} was {_shown(old, show)} and is {_shown(new, show)}"


def _shown(value: object, show: Callable[[object], str]) -> str:
    if value is ABSENT:
        return "not there"
    text = show(value) or "empty"
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
