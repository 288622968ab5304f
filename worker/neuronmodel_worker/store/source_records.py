"""Records of sources: which content a checkpoint's files had at which stat, and the digests of that content.

    sources/<fingerprint>.json          a record: the content, and the stats of the files that had it
    shards/<key>/source.json            digests of the content, taken while it was sharded, sealed with the set

A content is named by the digests that its source lists, or that a download has recorded of a folder which is new here;
else after the fingerprint under which it was first seen. None of this takes a read of the files. A record that is lost
costs a read of the source and nothing else, so a broken one counts as absent.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import SourceChanged, WorkerFailure
from neuronmodel_worker.io.disk import writing_to
from neuronmodel_worker.sources import ContentStat, FileStat
from neuronmodel_worker.sources.download_records import recorded_digests
from neuronmodel_worker.store.atomic_files import make_directory, whole_digest, write_whole
from neuronmodel_worker.store.keys import SHARDS
from neuronmodel_worker.store.manifest import MANIFEST, read_manifest

SOURCES: Final = "sources"
SOURCE_FILE: Final = "source.json"
"""The file of a set of shards that says what they were made from."""
OUTLINE: Final = "source_outline"
"""The field in the manifest of a set of shards that holds the `outline` of its source."""
FORMAT: Final = 1
MAX_BYTES = 256 << 20
MAX_SEEN = 8
"""How many states of the files a record keeps: copies of one source, or times that it was touched."""
MAX_RECORDS = 512
"""Beyond this, the oldest record is removed."""


Stat = FileStat | ContentStat
Stats = dict[str, Stat]
"""The stats of files, by their names."""
Document = TypeVar("Document", "SourceRecord", "SourceDigests")


def file_stats(checkpoint: Checkpoint) -> Stats:
    """The stats of a checkpoint's files. Raises SourceChanged where a file has changed since its header was read, and
    SourceUnreadable."""
    return {file.path.name: checkpoint.source.stat(file) for file in checkpoint.files}


def outline(checkpoint: Checkpoint) -> str:
    """A digest of file names, sizes and headers, which checkpoints of the same content have in common."""
    facts = sorted([file.path.name, file.nbytes, file.header_digest] for file in checkpoint.files)
    return _digest(facts)


def new_content(checkpoint: Checkpoint, stats: Stats, taken: Collection[str]) -> str:
    """A name for a content that was not seen before: the fingerprint, unless another content already has that name, for
    example because a file was changed and its modification time restored."""
    if checkpoint.fingerprint not in taken:
        return checkpoint.fingerprint
    return _digest([checkpoint.fingerprint, {name: stat.model_dump() for name, stat in stats.items()}])


def listed_content(checkpoint: Checkpoint, stats: Stats) -> str | None:
    """The content of files of which the source itself lists every digest, without reading any; None for others. It is
    the same wherever these files are read from, and has the headers, which were read, in it."""
    digests = {name: stat.digest for name, stat in stats.items() if isinstance(stat, ContentStat) and stat.is_digest}
    if not digests or len(digests) < len(stats):
        return None
    return _content_of(checkpoint, digests)


def downloaded_content(checkpoint: Checkpoint) -> str | None:
    """The content that `listed_content` is of the repository that a folder was downloaded from, where the folder has
    records of every digest that hold; None elsewhere."""
    source = checkpoint.source
    digests = recorded_digests(source.directory, checkpoint.files) if source.is_local else None
    return _content_of(checkpoint, digests) if digests else None


def _content_of(checkpoint: Checkpoint, digests: Mapping[str, str]) -> str:
    return _digest([outline(checkpoint), sorted(digests.items())])


class Seen(BaseModel):
    """A state of the files that has the content. `compared` holds digests of the names of the tensors that were
    compared to find this out; it is empty where the content is named after this state, so that all tensors count."""

    model_config = ConfigDict(frozen=True)

    stats: Stats
    compared: tuple[str, ...] = ()

    def holds_for(self, tensors: Iterable[str]) -> bool:
        return not self.compared or tensors_digest(tensors) in self.compared


class SourceRecord(BaseModel):
    """What is known about a fingerprint."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    content: str
    outline: str
    seen: tuple[Seen, ...]
    """The states of the files that had the content, the latest first."""

    def knows(self, stats: Stats, tensors: Iterable[str]) -> bool:
        return any(each.stats == stats and each.holds_for(tensors) for each in self.seen)


def tensors_digest(names: Iterable[str]) -> str:
    return _digest(sorted(names))


class SourceDigests(BaseModel):
    """The digests of a content. `tensors` holds (first byte, number of bytes, xxh3-128 as hex) for each piece of each
    tensor."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    content: str
    outline: str
    fingerprint: str
    files: Stats
    tensors: dict[str, list[tuple[int, int, str]]]


def source_document(
    checkpoint: Checkpoint, content: str, stats: Stats, pieces: Mapping[str, Iterable[tuple[int, int, str]]]
) -> bytes:
    """The content of SOURCE_FILE in a set of shards. `stats` were taken before the pieces were read."""
    digests = SourceDigests(
        content=content,
        outline=outline(checkpoint),
        fingerprint=checkpoint.fingerprint,
        files=stats,
        tensors={name: list(each) for name, each in pieces.items()},
    )
    return digests.model_dump_json().encode()


def recorded_content(root: Path, checkpoint: Checkpoint, tensors: Iterable[str]) -> str | None:
    """The content of a checkpoint whose present state this volume has a record of, without reading any of it; None
    otherwise.

    Raises SourceChanged or SourceUnreadable.
    """
    stats, record = file_stats(checkpoint), SourceRecords(root).read(checkpoint.fingerprint)
    return listed_content(checkpoint, stats) or (record.content if record and record.knows(stats, tensors) else None)


def check_recorded(root: Path, checkpoint: Checkpoint, content: str, stats: Stats) -> None:
    """Raises SourceChanged for a file that was written or replaced after it was recorded to have the content. Inodes
    are not compared: some volumes renumber their files at every mount."""
    record = SourceRecords(root).read(checkpoint.fingerprint)
    if record is None or record.content != content:
        return
    for file in checkpoint.files:
        seen = {_times(each.stats[file.path.name]) for each in record.seen if file.path.name in each.stats}
        if _times(stats[file.path.name]) not in seen:
            raise SourceChanged(file.path, "it was written or replaced after `prepare` had looked at it")


def _times(stat: Stat) -> tuple[int | str, ...]:
    if isinstance(stat, ContentStat):
        return stat.nbytes, stat.digest
    return stat.nbytes, stat.mtime_ns, stat.ctime_ns


@dataclass(frozen=True)
class SourceRecords:
    """The records of the volume at `root`."""

    root: Path

    def path(self, fingerprint: str) -> Path:
        return self.root / SOURCES / f"{fingerprint}.json"

    def read(self, fingerprint: str) -> SourceRecord | None:
        return _read(self.path(fingerprint), SourceRecord)

    def every(self) -> Iterator[SourceRecord]:
        for path in sorted((self.root / SOURCES).glob("*.json")):
            if (record := _read(path, SourceRecord)) is not None:
                yield record

    def note(self, checkpoint: Checkpoint, content: str, stats: Stats, compared: Iterable[str] | None = None) -> None:
        """Record that the checkpoint has this content now; `compared` are the tensors that were compared to find this
        out.

        Raises ArtifactsVolumeFull or ArtifactsUnwritable.
        """
        before = self.read(checkpoint.fingerprint)
        others = before.seen if before and before.content == content else ()
        names: tuple[str, ...] = () if compared is None else (tensors_digest(compared),)
        for same in (each for each in others if each.stats == stats):
            names = tuple(dict.fromkeys([*names, *same.compared]))[:MAX_SEEN] if names and same.compared else ()
        seen = (Seen(stats=stats, compared=names), *(each for each in others if each.stats != stats))
        record = SourceRecord(content=content, outline=outline(checkpoint), seen=seen[:MAX_SEEN])
        path = self.path(checkpoint.fingerprint)
        with writing_to(self.root):
            make_directory(path.parent)
            write_whole(path, record.model_dump_json().encode())
            self._remove_oldest(path)

    def _remove_oldest(self, kept: Path) -> None:
        records = [path for path in kept.parent.glob("*.json") if path != kept]
        if len(records) < MAX_RECORDS:
            return
        with suppress(FileNotFoundError):
            min(records, key=lambda path: path.stat().st_mtime_ns).unlink()

    def known_stats(self, digests: SourceDigests, tensors: Collection[str]) -> dict[str, set[Stat]]:
        """Every stat at which each file, by its name, was found to have the content of `digests`."""
        found: dict[str, set[Stat]] = {name: {stat} for name, stat in digests.files.items()}
        for record in self.every():
            for seen in record.seen if record.content == digests.content else ():
                for name, stat in seen.stats.items() if seen.holds_for(tensors) else ():
                    found.setdefault(name, set()).add(stat)
        return found

    def may_be_named_otherwise(self, checkpoint: Checkpoint, stats: Stats) -> bool:
        """Whether a content that is named by listed digests may be one that has another name here: shards were made of
        a folder whose files have the same names, sizes and headers, and whose digests were not known."""
        listed = listed_content(checkpoint, stats)
        return listed is not None and any(
            digests.content != listed and any(isinstance(stat, FileStat) for stat in digests.files.values())
            for digests in self.candidates(checkpoint)
        )

    def candidates(self, checkpoint: Checkpoint) -> Iterator[SourceDigests]:
        """The contents of sealed shards that have the checkpoint's outline, the latest first, each once."""
        wanted, seen = outline(checkpoint), set[str]()
        for directory in sorted((self.root / SHARDS).glob("*/"), key=_sealed_at, reverse=True):
            digests = _sealed_digests(directory, wanted)
            if digests and digests.content not in seen:
                seen.add(digests.content)
                yield digests


def _sealed_at(directory: Path) -> int:
    try:
        return (directory / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def _sealed_digests(directory: Path, wanted: str) -> SourceDigests | None:
    """The digests of a set's source; None for a set that has another outline, is damaged, or is just being removed."""
    try:
        manifest = read_manifest(directory)
        entry = manifest.files.get(SOURCE_FILE)
        if (manifest.model_extra or {}).get(OUTLINE) != wanted or entry is None:
            return None
        if whole_digest(directory / SOURCE_FILE) != entry.digest:
            return None
    except (OSError, WorkerFailure):
        return None
    digests = _read(directory / SOURCE_FILE, SourceDigests)
    return digests if digests and digests.outline == wanted else None


def _read(path: Path, kind: type[Document]) -> Document | None:
    try:
        with path.open("rb") as file:
            found = kind.model_validate_json(file.read(MAX_BYTES))
    except (OSError, ValidationError):
        return None
    return found if found.format == FORMAT else None


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
