"""The plan of shards that NxD Inference's own code makes: what is known of them, and what determines their bytes.

Without a layout of ours, the names and shapes of tensors are unknown. Sizes are estimates, and the key contains
everything that might change a byte: too much in a key costs a rebuild, too little the wrong weights.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Final

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.checkpoint import DTYPE_BITS, INDEX_FILE, Checkpoint, TensorSource, refuse_quantized
from neuronmodel_worker.failures import BadInput, CheckpointFileMissing, SourceUnreadable
from neuronmodel_worker.layouts import FAMILIES, model_type_of
from neuronmodel_worker.layouts.builder import FLOATING
from neuronmodel_worker.layouts.config_checks import check_config
from neuronmodel_worker.layouts.geometry import as_matrix
from neuronmodel_worker.layouts.legacy_config import legacy_config_of, where_of
from neuronmodel_worker.layouts.sharding_flags import read_ranks
from neuronmodel_worker.neuron_config.families import traits_of
from neuronmodel_worker.neuron_config.values import DTYPES, names_of
from neuronmodel_worker.plan.streamed import Read, vocabulary_of
from neuronmodel_worker.sources import WeightSource

PADDING: Final = 1.05
"""Factor for zeros that pad tensors, tensors of the library's own, and headers. Llama 3.1 405B at degree 64 has 871 GB
in AWS's guide, and 871 GB here before this factor."""

DECLARED_FLOAT32: Final = re.compile(r"lm_head|experts|gate\.weight|norm")
"""Parameters that NxD Inference's models declare as float32, in at least one family."""

STRATEGY: Final = names_of("save_sharded_checkpoint skip_sharding skip_warmup start_rank_id local_ranks_size")
"""Flags that say when and for which ranks shards are made; the ranks themselves are part of the key."""

RUNTIME: Final = names_of(
    """
    sequence_parallel_enabled cc_pipeline_tiling_factor async_mode is_continuous_batching output_logits
    on_device_sampling_config scratchpad_page_size
    batch_size padding_side allow_input_truncation seq_len n_active_tokens n_positions max_context_length
    max_new_tokens max_length ctx_batch_size tkg_batch_size max_batch_size kv_cache_batch_size kv_cache_padding_size
    enable_bucketing buckets bucket_n_active_tokens context_encoding_buckets prefix_buckets token_generation_buckets
    token_generation_batches
    """
)
"""Sampling, lengths, batches, buckets and scheduling: known not to change the shards of the families that have a layout
of ours. For other families nothing is known, and every flag counts. The first one matters to
`fused_rmsnorm_skip_gamma`."""

NAMES_OF_A_CHECKPOINT: Final = frozenset({"_name_or_path", "transformers_version"})
"""Fields of config.json that only name the checkpoint."""

MEDUSA_HEADS: Final = "medusa_heads.pt"
"""A file in the checkpoint's folder that NxD Inference adds to the model's weights."""


class FlagNamesNothing(BadInput):
    """A flag names a file or folder that does not exist, or not by its absolute path."""

    reason = Reason.FLAGS_REFUSED


@dataclass(frozen=True)
class NativePlan:
    """`ranks` are the ranks that are made, of `world_size` in all. `files` are other files than the checkpoint's that
    the library reads weights from: name → [path below it, bytes, modification time in ns or digest]."""

    checkpoint: Checkpoint
    family: str
    neuron_config: Mapping[str, object]
    ranks: range
    tp_degree: int
    world_size: int
    files: Mapping[str, list[list[object]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return len(self.ranks) == self.world_size

    @property
    def vocabulary(self) -> int | None:
        """The vocabulary size; for multimodal models, the language model's."""
        config = self.checkpoint.config
        of_text = config.get("text_config")
        return vocabulary_of(config) or (vocabulary_of(of_text) if isinstance(of_text, Mapping) else None)

    @cached_property
    def reads(self) -> Mapping[str, Read]:
        """All of every tensor, as it is not known which ones the library uses."""
        return {
            name: Read(source, range(as_matrix(source.shape)[0])) for name, source in self.checkpoint.tensors.items()
        }

    @cached_property
    def source_bytes(self) -> int:
        return sum(source.nbytes for source in self.checkpoint.tensors.values())

    @cached_property
    def rank_bytes(self) -> int:
        """An estimate of one rank's bytes, in the requested data type and including PADDING.

        Every rank has vectors whole and 1/`tp_degree` of each matrix. Exceptions are keys and values with fewer heads
        than ranks, of which every rank has one head, and attention with context or data parallelism, of which a rank
        has that many times more.
        """
        model = _Attention(self.checkpoint.config, self.neuron_config, self.tp_degree)
        total = sum(ceil(self._bytes_in_use(name, each) * model.share(name, each)) for name, each in self._tensors())
        return ceil(total * PADDING)

    @property
    def output_bytes(self) -> int:
        return self.rank_bytes * len(self.ranks)

    def _tensors(self) -> Iterator[tuple[str, TensorSource]]:
        yield from self.checkpoint.tensors.items()
        if self.checkpoint.config.get("tie_word_embeddings"):
            yield from (each for each in self.checkpoint.tensors.items() if each[0].endswith("embed_tokens.weight"))

    def _bytes_in_use(self, name: str, source: TensorSource) -> int:
        rows, columns = as_matrix(source.shape)
        return rows * columns * DTYPE_BITS[self._dtype_of(name, source)] // 8

    def _dtype_of(self, name: str, source: TensorSource) -> str:
        if source.dtype not in FLOATING:
            return source.dtype
        if self.neuron_config.get("cast_type") != "as-declared":
            return self._dtype
        if ".experts." in name and self.family in FAMILIES and not traits_of(self.family).experts_in_float32:
            return self._dtype
        return "F32" if len(source.shape) < 2 or DECLARED_FLOAT32.search(name) else self._dtype

    @property
    def _dtype(self) -> str:
        config = self.checkpoint.config
        named_by_config = (config.get("dtype"), config.get("torch_dtype"))
        asked = self.neuron_config.get("torch_dtype")
        yields = self.neuron_config.get("overrides_torch_dtype") is False
        for named in (*named_by_config, asked) if yields else (asked, *named_by_config):
            if isinstance(named, str) and named in DTYPES:
                return DTYPES[named]
        return DTYPES["bfloat16"]

    def layout_inputs(self) -> dict[str, object]:
        """Returns every flag that is not known to change nothing, all of config.json in its older form, and the other
        files that are read."""
        return {
            "weights": "Native",
            "family": self.family,
            "ranks": [self.ranks.start, self.ranks.stop],
            "flags": {name: value for name, value in self.neuron_config.items() if name not in self._neutral},
            "config": {k: v for k, v in legacy_config_of(self.checkpoint).items() if k not in NAMES_OF_A_CHECKPOINT},
            "files": dict(self.files),
        }

    @property
    def _neutral(self) -> frozenset[str]:
        if self.family not in FAMILIES:
            return STRATEGY
        if self.neuron_config.get("fused_rmsnorm_skip_gamma"):
            return STRATEGY | (RUNTIME - {"sequence_parallel_enabled"})
        return STRATEGY | RUNTIME


@dataclass(frozen=True)
class _Attention:
    """Which fraction of a tensor a rank has."""

    config: Mapping[str, object]
    flags: Mapping[str, object]
    degree: int

    def share(self, name: str, source: TensorSource) -> float:
        if len(source.shape) < 2:
            return 1.0
        if "attn" not in name and "attention" not in name:
            return 1 / self.degree
        heads = _size(self.config, "num_attention_heads", self.degree)
        if ".k_proj." in name or ".v_proj." in name:
            return min(1.0, self._heads_of_keys(heads) * self._repeats)
        return min(1.0, ceil(heads / self.degree) / heads * self._repeats)

    def _heads_of_keys(self, heads: int) -> float:
        """Returns a rank's fraction of all key heads."""
        keys = _size(self.config, "num_key_value_heads", heads)
        if self.degree % keys and keys % self.degree:  # they are repeated for every query's head
            return ceil(heads / self.degree) / keys
        return max(1, keys // self.degree) / keys

    @property
    def _repeats(self) -> int:
        return max(_size(self.flags, name, 1) for name in ("cp_degree", "attention_dp_degree"))


def _size(settings: Mapping[str, object], name: str, default: int) -> int:
    """Returns a positive integer setting. Multimodal models have the language model's settings in a nested object."""
    nested = settings.get("text_config")
    value = settings.get(name) or (nested.get(name) if isinstance(nested, dict) else None)
    return value if type(value) is int and value > 0 else default


def make_native_plan(
    checkpoint: Checkpoint, neuron_config: Mapping[str, object], model_type: str | None = None
) -> NativePlan:
    """Makes the plan.

    Raises ConfigInvalid, LayoutRefused for impossible ranks, FlagNamesNothing and SourceUnreadable; and
    CheckpointQuantized, CheckpointFileMissing and LayoutRefused for what the library would shard or compute wrongly
    without an error.
    """
    degree, world_size, ranks = read_ranks(neuron_config)
    family = model_type or model_type_of(checkpoint)
    refuse_quantized(checkpoint, neuron_config, has_layout=family in FAMILIES)
    _refuse_unindexed(checkpoint)
    model, warnings = legacy_config_of(checkpoint), list(checkpoint.warnings)
    if family in FAMILIES:  # other families' fields are unknown
        warnings += check_config(model, family, neuron_config, where_of(checkpoint))
    return NativePlan(
        checkpoint=checkpoint,
        family=family,
        neuron_config=dict(neuron_config),
        ranks=ranks,
        tp_degree=degree,
        world_size=world_size,
        files={**_files_of_flags(neuron_config), **_medusa_files(checkpoint)},
        warnings=tuple(warnings),
    )


def _refuse_unindexed(checkpoint: Checkpoint) -> None:
    """Refuses files that the index does not name: the library reads only those that it names."""
    if checkpoint.unnamed:
        raise CheckpointFileMissing(
            f"{INDEX_FILE} in {checkpoint.path} does not name {checkpoint.unnamed[0]}, which lies in the same folder, "
            "and NxD Inference would leave out its tensors. Download the index again, of the same revision as the "
            "files."
        )


def _medusa_files(checkpoint: Checkpoint) -> dict[str, list[list[object]]]:
    source = checkpoint.source
    if not source.is_local:
        return {MEDUSA_HEADS: _listed(source)} if source.is_file(MEDUSA_HEADS) else {}
    path = checkpoint.path / MEDUSA_HEADS
    return {MEDUSA_HEADS: _stats_below(path)} if path.exists() else {}


def _listed(source: WeightSource) -> list[list[object]]:
    """What a source on a network lists of the file: its digest takes the place of its time."""
    with source.stream(MEDUSA_HEADS) as stream:
        return [[MEDUSA_HEADS, stream.nbytes, stream.content_digest]]


def _files_of_flags(neuron_config: Mapping[str, object]) -> dict[str, list[list[object]]]:
    """Returns the stats of everything that flags name by a path, such as a quantized checkpoint, a draft model or
    adapters."""
    found = {}
    for flag, value in neuron_config.items():
        for path in _paths(value):
            if not path.exists():
                raise FlagNamesNothing(
                    f"{flag} names {path}, and there is nothing. Mount the volume that holds it with "
                    "spec.worker.volumes and volumeMounts, or correct the path."
                )
            found[str(path)] = _stats_below(path)
        if isinstance(value, str) and value and flag.endswith("_path") and not Path(value).is_absolute():
            raise FlagNamesNothing(
                f"{flag} names {value[:200]}, which depends on where a process runs. Name it from /."
            )
    return found


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, str) and value.startswith("/"):
        yield Path(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)


def _stats_below(path: Path) -> list[list[object]]:
    try:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    except OSError as error:
        raise SourceUnreadable(path, error) from error
    return [[name, found.st_size, found.st_mtime_ns] for name, found in stats]
