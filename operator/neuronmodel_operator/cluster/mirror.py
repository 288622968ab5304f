"""What the API server's watches have said of the objects of one kind.

Objects are kept as compressed JSON: ten thousand NeuronModels have some seventy thousand children, which as Python
objects would take more memory than the operator may use. They are unpacked when a NeuronModel is looked at. Those of a
kind are alike, as the operator makes them: one of them is what the others are compressed against.
"""

import json
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from neuronmodel_api import names
from neuronmodel_operator.cluster.client import Object, is_older

LEVEL: Final = 1
"""Of compression: an event floods no processor, and manifests shrink to a tenth all the same."""
MAX_DICTIONARY: Final = 32 << 10
"""Bytes that deflate looks back."""

Place = tuple[str, str]
"""(namespace, name)"""


@dataclass(frozen=True, slots=True)
class _Kept:
    version: str
    uid: str
    owner: str
    """The UID of the NeuronModel; empty for what has no such label."""
    packed: bytes


class Mirror:
    """The objects of one kind. A version never replaces a newer one: an answer to a write of our own may come before
    the watch's event of the same or of an earlier version."""

    def __init__(self) -> None:
        self._kept: dict[Place, _Kept] = {}
        self._by_owner: defaultdict[str, set[Place]] = defaultdict(set)
        self._dictionary = b""
        """The JSON of the first object, from which the others differ little."""
        self._listed: set[Place] | None = None
        """What a list that is being read has named so far, or was put meanwhile."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        return sum(len(kept.packed) for kept in self._kept.values())

    def get(self, namespace: str, name: str) -> Object | None:
        kept = self._kept.get((namespace, name))
        return self._unpacked(kept) if kept else None

    def version(self, namespace: str, name: str) -> str | None:
        """Without unpacking it."""
        kept = self._kept.get((namespace, name))
        return kept.version if kept else None

    def of_owner(self, uid: str) -> tuple[Object, ...]:
        """Returns the objects that carry the UID of a NeuronModel, by name."""
        return tuple(self._unpacked(self._kept[place]) for place in sorted(self._by_owner.get(uid, ())))

    def versions_of(self, uid: str) -> dict[Place, str]:
        return {place: self._kept[place].version for place in self._by_owner.get(uid, ())}

    def correct(self, before: Mapping[Place, str], found: Iterable[Object]) -> None:
        """Called with what a read found that began when the mirror had `before`: what was there then, has not changed
        since and was not found is gone."""
        there = set()
        for o in found:
            self.put(o)
            there.add((o["metadata"].get("namespace", ""), o["metadata"]["name"]))
        for place, version in before.items():
            if place not in there and self.version(*place) == version:
                self._forget(place)

    def put(self, o: Object) -> bool:
        """Keeps the object unless a newer version of it is kept; returns whether it was."""
        meta = o["metadata"]
        place = (meta.get("namespace", ""), meta["name"])
        if self._listed is not None:
            self._listed.add(place)
        former = self._kept.get(place)
        if former is not None and former.uid == meta["uid"] and not _is_newer(meta["resourceVersion"], former.version):
            return False
        owner = (meta.get("labels") or {}).get(names.LABEL_UID, "")
        self._forget(place)
        self._kept[place] = _Kept(meta["resourceVersion"], meta["uid"], owner, self._packed(o))
        self._by_owner[owner].add(place)
        return True

    def remove(self, o: Object) -> None:
        """Called for an object that was deleted; another one of that name stays."""
        meta = o["metadata"]
        place = (meta.get("namespace", ""), meta["name"])
        former = self._kept.get(place)
        if former is not None and former.uid == meta["uid"]:
            self._forget(place)

    def begin_list(self) -> None:
        """A list is about to be read, page by page, with `put` for each of its objects."""
        self._listed = set()

    def end_list(self, namespaces: Collection[str] = ()) -> list[Object]:
        """Forgets what the list of these namespaces (none: of all) did not name: it is gone, though no event said so.
        Returns what was known of it."""
        listed, self._listed = self._listed or set(), None
        places = [place for place in self._kept if place not in listed and (not namespaces or place[0] in namespaces)]
        gone = [self._unpacked(self._kept[place]) for place in places]
        for place in places:
            self._forget(place)
        return gone

    def _packed(self, o: Mapping[str, object]) -> bytes:
        text = json.dumps(o, separators=(",", ":")).encode()
        self._dictionary = self._dictionary or text[-MAX_DICTIONARY:]
        packer = zlib.compressobj(LEVEL, zdict=self._dictionary)
        return packer.compress(text) + packer.flush()

    def _unpacked(self, kept: _Kept) -> Object:
        found: Object = json.loads(zlib.decompressobj(zdict=self._dictionary).decompress(kept.packed))
        return found

    def _forget(self, place: Place) -> None:
        former = self._kept.pop(place, None)
        if former is not None:
            places = self._by_owner[former.owner]
            places.discard(place)
            if not places:
                del self._by_owner[former.owner]


def _is_newer(version: str, than: str) -> bool:
    return version != than and not is_older(version, than)
