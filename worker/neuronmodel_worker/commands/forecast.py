"""What running a plan would read, write and need, as figures."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuronmodel_api.report import InstalledServer
from neuronmodel_worker.commands.machine_needs import Needs
from neuronmodel_worker.commands.output_folder import rank_metadata
from neuronmodel_worker.io.probe import Rate
from neuronmodel_worker.layouts.geometry import SourcePart, Target
from neuronmodel_worker.plan.streamed import RANK_DTYPE, RANK_NBYTES, StreamedPlan
from neuronmodel_worker.sources import SourceFile
from neuronmodel_worker.stream import WEIGHTS, rank_file_name
from neuronmodel_worker.stream.rankfile import rank_file_format


@dataclass(frozen=True)
class Measured:
    """The disks' rates, and why one of them is unknown."""

    reading: Rate | None = None
    writing: Rate | None = None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """The figures of one plan. `peak_bytes` is the peak of anonymous memory when files are written, `peak_load_bytes`
    when tensors are loaded into memory; `free_bytes` is the free space on the volume of `output`."""

    plan: StreamedPlan
    needs: Needs
    peak_bytes: int
    peak_load_bytes: int
    output: Path | None
    free_bytes: int | None
    measured: Measured
    server: InstalledServer | None
    """The vLLM of the environment that the command runs in."""

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        """The files that are read."""
        return tuple(dict.fromkeys(read.source.file for read in self.plan.reads.values()))

    @cached_property
    def file_bytes(self) -> int:
        """The size of one rank's file, header included."""
        return rank_file_format(self.plan.tensors, 0, rank_metadata(self.plan)).nbytes

    @property
    def written_bytes(self) -> int:
        return self.file_bytes * len(self.plan.ranks)

    @property
    def fits(self) -> bool | None:
        return None if self.free_bytes is None else self.written_bytes <= self.free_bytes

    @property
    def load_seconds(self) -> float | None:
        rate = self.measured.reading
        return self.plan.source_bytes / rate.bytes_per_second if rate else None

    @property
    def shard_seconds(self) -> tuple[float, float] | None:
        """The seconds if all reading and writing overlaps, and if one follows the other."""
        rate = self.measured.writing
        if self.load_seconds is None or not rate:
            return None
        write = self.written_bytes / rate.bytes_per_second
        return max(self.load_seconds, write), self.load_seconds + write

    def document(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        plan, flags = self.plan, self.plan.layout.flags
        resolution = plan.checkpoint.source.resolution
        return {
            "model": str(plan.checkpoint.path),
            "model_type": plan.checkpoint.config.get("model_type"),
            "family": plan.layout.family,
            "dtype": plan.layout.dtype,
            "tp_degree": flags.tp_degree,
            "ranks": list(plan.ranks),
            "flags": asdict(flags),
            "warnings": list(plan.warnings),
            "source": {
                "revision": resolution.revision if resolution else None,
                "fingerprint": plan.checkpoint.fingerprint,
                "files": [{"name": file.path.name, "bytes": file.nbytes} for file in self.files],
                "tensors": len(plan.checkpoint.tensors),
                "tensors_read": len(plan.reads),
                "bytes_read": plan.source_bytes,
            },
            "output": {
                "files": [f"{WEIGHTS}/{rank_file_name(rank)}" for rank in plan.ranks],
                "bytes_a_rank": self.file_bytes,
                "bytes_written": self.written_bytes,
                "directory": None if self.output is None else str(self.output),
                "free_bytes": self.free_bytes,
                "fits": self.fits,
            },
            "memory": {"shard_bytes": self.peak_bytes, "load_bytes": self.peak_load_bytes},
            "machine": self.needs.document(),
            "server": self.server.to_json() if self.server else None,
            "measured": {
                "reading": _rate(self.measured.reading),
                "writing": _rate(self.measured.writing),
                "troubles": list(self.measured.errors),
            },
            "predicted": {"load_seconds": self.load_seconds, "shard_seconds": self.shard_seconds},
            "tensors": [*map(_tensor, plan.targets), *map(_rank_tensor, plan.rank_tensors)],
        }


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    return {**asdict(rate), "bytes_per_second": rate.bytes_per_second} if rate else None


def _tensor(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "dtype": target.dtype,
        "shape": list(target.shape),
        "bytes": target.nbytes,
        "transposed": target.transposed,
        "sources": [_source(part) for part in target.parts()],
    }


def _source(part: SourcePart) -> dict[str, Any]:
    source = part.source
    described = {
        "name": source.name,
        "file": source.file.path.name,
        "dtype": source.dtype,
        "shape": list(source.shape),
        "bytes": source.nbytes,
    }
    return {**described, "factor": part.factor.name} if part.factor else described


def _rank_tensor(name: str) -> dict[str, Any]:
    """Describes the tensor with the rank's number, which is made from no source."""
    fixed = {"dtype": RANK_DTYPE, "shape": [1], "bytes": RANK_NBYTES, "transposed": False, "sources": []}
    return {"name": name, **fixed}
