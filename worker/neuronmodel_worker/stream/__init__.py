"""Runs a plan at disk speed: one reader of checkpoints, sinks for files and for memory, and reading files back."""

from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.stream.content_digests import (
    ContentDigests,
    PieceDigest,
    check_content,
    take_digests,
    take_missing_digests,
)
from neuronmodel_worker.stream.execution import (
    StreamResult,
    buffer_bytes,
    most_streaming_threads,
    run,
    source_buffer_bytes,
    streaming_threads,
)
from neuronmodel_worker.stream.filesink import FileSink
from neuronmodel_worker.stream.memory_writer import write_rank_files
from neuronmodel_worker.stream.meter import StreamProgress, Transferred
from neuronmodel_worker.stream.observers import FileObserver, SourceObserver
from neuronmodel_worker.stream.rankfile import WEIGHTS, rank_file_name
from neuronmodel_worker.stream.readback import check_rank_file, read_rank_files
from neuronmodel_worker.stream.sinks import RankTensor, Sink, TensorSink
from neuronmodel_worker.stream.steps import Sizes

__all__ = [
    "WEIGHTS",
    "ContentDigests",
    "FileObserver",
    "FileSink",
    "PieceDigest",
    "RankTensor",
    "Sink",
    "Sizes",
    "SourceObserver",
    "StreamProgress",
    "StreamResult",
    "TensorSink",
    "Transferred",
    "WrittenFile",
    "buffer_bytes",
    "check_content",
    "check_rank_file",
    "most_streaming_threads",
    "rank_file_name",
    "read_rank_files",
    "run",
    "source_buffer_bytes",
    "streaming_threads",
    "take_digests",
    "take_missing_digests",
    "write_rank_files",
]
