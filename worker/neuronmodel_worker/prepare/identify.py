"""Which content a source has: known by its files' stats, told by comparing digests, or new."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.plan.streamed import ModelPlan
from neuronmodel_worker.store.source_records import (
    SourceDigests,
    SourceRecords,
    Stats,
    file_stats,
    new_content,
    source_document,
)
from neuronmodel_worker.stream import PieceDigest, StreamProgress, check_content


@dataclass(frozen=True)
class Candidate:
    """A content that the source may have: of the tensors `names` it is not known without reading them."""

    digests: SourceDigests
    names: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Identity:
    """`content` is None as long as there are doubts. `compared`: by which tensors it was found to be known. `differs`
    says what is not as it was in the contents that it was compared with."""

    checkpoint: Checkpoint
    stats: Stats
    tensors: tuple[str, ...]
    records: SourceRecords
    content: str | None = None
    candidates: tuple[Candidate, ...] = ()
    compared: tuple[str, ...] | None = None
    differs: str | None = None

    @property
    def nbytes_to_compare(self) -> int:
        """The most that is read to be certain, of the likeliest content."""
        return self.candidates[0].nbytes if self.candidates else 0

    def resolved(self, progress: StreamProgress | None = None) -> "Identity":
        """With a content. Raises SourceChanged where the source changes meanwhile, SourceUnreadable."""
        if self.content:
            return self
        differs = None
        for candidate in self.candidates:
            what = check_content(self.checkpoint, _pieces(candidate.digests), candidate.names, progress)
            self.check_unchanged()
            if what is None:
                return replace(self, content=candidate.digests.content, candidates=(), compared=self.tensors)
            differs = differs or what
        return replace(self, content=self._new(), candidates=(), differs=differs)

    def _new(self) -> str:
        record = self.records.read(self.checkpoint.fingerprint)
        if record and record.knows(self.stats, self.tensors):
            return record.content  # another one has found it out since this one looked
        taken = {candidate.digests.content for candidate in self.candidates} | ({record.content} if record else set())
        return new_content(self.checkpoint, self.stats, taken)

    def note(self) -> None:
        """So that the next one need not find it out. Raises ArtifactsVolumeFull or ArtifactsUnwritable."""
        if self.content:
            self.records.note(self.checkpoint, self.content, self.stats, self.compared)

    def document(self, pieces: dict[str, list[PieceDigest]]) -> bytes:
        """To be sealed with shards that were made of it."""
        return source_document(self.checkpoint, self.content or "", self.stats, pieces)

    def check_unchanged(self) -> None:
        """Raises SourceChanged."""
        now = file_stats(self.checkpoint)
        for file in self.checkpoint.files:
            if now[file.path.name] != self.stats[file.path.name]:
                raise SourceChanged(file.path, "it was written or replaced")


def identify(root: Path, plan: ModelPlan) -> Identity:
    """What the volume at `root` tells without a read of the source. Raises SourceChanged or SourceUnreadable."""
    checkpoint, tensors = plan.checkpoint, tuple(plan.reads)
    records = SourceRecords(root)
    identity = Identity(checkpoint, file_stats(checkpoint), tensors, records)
    record = records.read(checkpoint.fingerprint)
    if record and record.knows(identity.stats, tensors):
        return replace(identity, content=record.content, compared=None)
    candidates = tuple(_candidates(identity, record.content if record else None))
    if candidates and not candidates[0].names:
        return replace(identity, content=candidates[0].digests.content, compared=tensors)
    if candidates:
        return replace(identity, candidates=candidates)
    return identity.resolved()


def _candidates(identity: Identity, likely: str | None) -> list[Candidate]:
    """The least to read first; among those, the content that the fingerprint had before."""
    found = []
    for digests in identity.records.candidates(identity.checkpoint):
        if all(_covers(digests, identity.checkpoint, name) for name in identity.tensors):
            names = _unknown(identity, digests)
            nbytes = sum(identity.checkpoint.tensors[name].nbytes for name in names)
            found.append(Candidate(digests, names, nbytes))
    return sorted(found, key=lambda candidate: (candidate.nbytes, candidate.digests.content != likely))


def _covers(digests: SourceDigests, checkpoint: Checkpoint, name: str) -> bool:
    return sum(nbytes for _, nbytes, _ in digests.tensors.get(name, ())) == checkpoint.tensors[name].nbytes


def _unknown(identity: Identity, digests: SourceDigests) -> tuple[str, ...]:
    """Tensors of files that were not seen to have this content as they are."""
    known = identity.records.known_stats(digests, identity.tensors)
    same = {name for name, stat in identity.stats.items() if stat in known.get(name, ())}
    return tuple(name for name in identity.tensors if _file_name(identity.checkpoint, name) not in same)


def _file_name(checkpoint: Checkpoint, tensor: str) -> str:
    return checkpoint.tensors[tensor].file.path.name


def _pieces(digests: SourceDigests) -> dict[str, Sequence[PieceDigest]]:
    return {name: tuple(pieces) for name, pieces in digests.tensors.items()}


def tensor_names(plan: ModelPlan) -> Collection[str]:
    """By which a content is compared for this plan."""
    return tuple(plan.reads)
