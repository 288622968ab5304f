"""Which content a source has: known from its files' stats, found by comparing digests, or new."""

from dataclasses import dataclass, replace
from pathlib import Path

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.plan.streamed import ModelPlan
from neuronmodel_worker.store.source_records import (
    SourceDigests,
    SourceRecords,
    Stats,
    downloaded_content,
    file_stats,
    listed_content,
    new_content,
    source_document,
)
from neuronmodel_worker.stream import PieceDigest, StreamProgress, check_content


@dataclass(frozen=True)
class Candidate:
    """A content that the source may have. Only reading the tensors `names` can tell."""

    digests: SourceDigests
    names: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Identity:
    """The content of a source, which is None while there are candidates. `compared` are the tensors by which it was
    recognized; `differs` says what differs from the contents that it was compared with. `downloaded` is the content by
    the Hub's digests, where the folder has records of them and is new here."""

    checkpoint: Checkpoint
    stats: Stats
    tensors: tuple[str, ...]
    records: SourceRecords
    content: str | None = None
    candidates: tuple[Candidate, ...] = ()
    compared: tuple[str, ...] | None = None
    differs: str | None = None
    downloaded: str | None = None

    @property
    def nbytes_to_compare(self) -> int:
        """How many bytes have to be read to confirm the most likely content; no other candidate needs less."""
        return self.candidates[0].nbytes if self.candidates else 0

    def resolved(self, progress: StreamProgress | None = None) -> "Identity":
        """Returns an identity with a content, and reads the source for that if it has to.

        Raises SourceChanged if the source changes meanwhile, and SourceUnreadable.
        """
        if self.content:
            return self
        differs = None
        for candidate in self.candidates:
            pieces = {name: tuple(pieces) for name, pieces in candidate.digests.tensors.items()}
            what = check_content(self.checkpoint, pieces, candidate.names, progress)
            self.check_unchanged()
            if what is None:
                return replace(self, content=candidate.digests.content, candidates=(), compared=self.tensors)
            differs = differs or what
        return replace(self, content=self._new(), candidates=(), differs=differs)

    def _new(self) -> str:
        record = self.records.read(self.checkpoint.fingerprint)
        if record and record.knows(self.stats, self.tensors):
            return record.content  # another run has found it out in the meantime
        taken = {candidate.digests.content for candidate in self.candidates} | ({record.content} if record else set())
        if self.downloaded:
            return self.downloaded
        return new_content(self.checkpoint, self.stats, taken)

    def note(self) -> None:
        """Records the content, so that later runs need not find it out. Raises ArtifactsVolumeFull or
        ArtifactsUnwritable."""
        if self.content:
            self.records.note(self.checkpoint, self.content, self.stats, self.compared)

    def document(self, pieces: dict[str, list[PieceDigest]]) -> bytes:
        """Returns the document that is sealed with shards made from this source."""
        return source_document(self.checkpoint, self.content or "", self.stats, pieces)

    def check_unchanged(self) -> None:
        """Raises SourceChanged if a file was written or replaced."""
        now = file_stats(self.checkpoint)
        for file in self.checkpoint.files:
            if now[file.path.name] != self.stats[file.path.name]:
                raise SourceChanged(file.path, "it was written or replaced")


def identify(root: Path, plan: ModelPlan) -> Identity:
    """Returns what the volume at `root` knows of the source without reading it. Raises SourceChanged or
    SourceUnreadable."""
    checkpoint, tensors = plan.checkpoint, tuple(plan.reads)
    records = SourceRecords(root)
    identity = Identity(checkpoint, file_stats(checkpoint), tensors, records)
    if listed := listed_content(checkpoint, identity.stats):
        return replace(identity, content=listed)
    record = records.read(checkpoint.fingerprint)
    if record and record.knows(identity.stats, tensors):
        return replace(identity, content=record.content, compared=None)
    candidates = tuple(_candidates(identity, record.content if record else None))
    if candidates and not candidates[0].names:
        return replace(identity, content=candidates[0].digests.content, compared=tensors)
    if record is None:  # a folder that is known keeps its name, and one whose files look different is compared
        identity = replace(identity, downloaded=downloaded_content(checkpoint))
    if any(candidate.digests.content == identity.downloaded for candidate in candidates):
        return replace(identity, content=identity.downloaded)
    if candidates:
        return replace(identity, candidates=candidates)
    return identity.resolved()


def _candidates(identity: Identity, likely: str | None) -> list[Candidate]:
    """Returns the candidates, those with the least to read first, and then the content that the fingerprint had
    before."""
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
    """Returns the tensors of files that have not been recorded with this content in their current state."""
    known = identity.records.known_stats(digests, identity.tensors)
    same = {name for name, stat in identity.stats.items() if stat in known.get(name, ())}
    sources = identity.checkpoint.tensors
    return tuple(name for name in identity.tensors if sources[name].file.path.name not in same)
