"""The fields of NeuronConfig that a layout depends on, read and checked."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from neuronmodel_worker.failures import FlagWithoutLayout, LayoutRefused
from neuronmodel_worker.layouts.flag_support import SWITCHES
from neuronmodel_worker.layouts.tp_degrees import MAX_DEGREE
from neuronmodel_worker.neuron_config.combinations import QKV_KERNELS
from neuronmodel_worker.neuron_config.derived import derived
from neuronmodel_worker.neuron_config.values import DTYPES, is_one_of, shown

# NxD Inference's release whose layout this is, and our revision of it: part of every shards key.
LAYOUT_VERSION = "nxdi-0.9.0/1"


OUT_PROJECTION_KERNELS = frozenset({"out_proj_kernel_enabled", "attn_block_tkg_nki_kernel_enabled"})


@dataclass(frozen=True, slots=True)
class Flags:
    """The fields that a layout depends on, checked. `dtype` is None where the model's configuration decides, and
    switches that the model's family ignores are False."""

    tp_degree: int
    start_rank: int
    local_ranks: int
    dtype: str | None
    cast: Literal["config", "as-declared"]
    fused_qkv: bool
    vocab_parallel: bool
    transposed_qkv: bool
    transposed_mlp: bool
    transposed_out: bool
    skip_gamma_qkv: bool
    skip_gamma_mlp: bool

    @property
    def ranks(self) -> range:
        return range(self.start_rank, self.start_rank + self.local_ranks)

    def without(self, switches: Iterable[str]) -> "Flags":
        """The same flags with `switches` off, which a family ignores."""
        off: dict[str, Any] = dict.fromkeys(switches, False)
        return replace(self, **off)

    @property
    def transposed_fused_qkv(self) -> bool:
        """Whether the fused weight is transposed; the kernels do not transpose separate q, k and v."""
        return self.fused_qkv and self.transposed_qkv


def read_flags(neuron_config: Mapping[str, object]) -> Flags:
    """The flags as the library derives them. Raises LayoutRefused, which names the field."""
    for name in SWITCHES & neuron_config.keys():  # first, because a derived value may hide the one that was given
        _switch(neuron_config, name)
    fields = derived(neuron_config)
    on = {name for name in SWITCHES if fields.get(name)}
    degree = _number(neuron_config, "tp_degree", 1, least=1)
    _check_degree(degree)
    _check_world(degree, neuron_config.get("world_size"))
    ranks = _ranks(neuron_config, degree)
    skip_gamma = "fused_rmsnorm_skip_gamma" in on and "sequence_parallel_enabled" not in on
    return Flags(
        tp_degree=degree,
        start_rank=ranks.start,
        local_ranks=len(ranks),
        dtype=_dtype(neuron_config.get("torch_dtype")),
        cast=_cast(neuron_config.get("cast_type")),
        fused_qkv="fused_qkv" in on,
        vocab_parallel="vocab_parallel" in on,
        transposed_qkv=bool(on.intersection(QKV_KERNELS)),
        transposed_mlp="mlp_kernel_enabled" in on,
        transposed_out=bool(on & OUT_PROJECTION_KERNELS),
        skip_gamma_qkv=skip_gamma and "qkv_kernel_enabled" in on,
        skip_gamma_mlp=skip_gamma and "mlp_kernel_enabled" in on,
    )


def read_ranks(neuron_config: Mapping[str, object]) -> tuple[int, int, range]:
    """For NxD Inference's own shards: the tensor parallel degree, the number of all ranks, and the ranks that are made
    here. Raises LayoutRefused."""
    degree = _number(neuron_config, "tp_degree", 1, least=1)
    _check_degree(degree)
    others = [_number(neuron_config, name, 1, least=1) for name in ("pp_degree", "ep_degree")]
    world_size = _number(neuron_config, "world_size", degree * prod(others), least=1)
    _check_degree(world_size, "world_size")
    return degree, world_size, _ranks(neuron_config, world_size, "world_size" if world_size != degree else "tp_degree")


def torch_dtype_yields(neuron_config: Mapping[str, object]) -> bool:
    """Whether config.json's type takes precedence over `torch_dtype`. Raises LayoutRefused."""
    return neuron_config.get("overrides_torch_dtype") is not None and not _switch(
        neuron_config, "overrides_torch_dtype"
    )


def _switch(neuron_config: Mapping[str, object], name: str) -> bool:
    value = neuron_config.get(name)
    if value is not None and not isinstance(value, bool):
        raise LayoutRefused(f"{shown(name, value)} has to be true or false.")
    return bool(value)


def _number(neuron_config: Mapping[str, object], name: str, default: int, least: int) -> int:
    value = neuron_config.get(name)
    if value is None:
        return default
    if type(value) is not int or value < least:
        raise LayoutRefused(f"{shown(name, value)} has to be an integer of at least {least}.")
    return value


def _dtype(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in DTYPES):
        raise LayoutRefused(f"{shown('torch_dtype', value)} has to be one of {', '.join(DTYPES)}.")
    return None if value is None else DTYPES[value]


def _cast(value: object) -> Literal["config", "as-declared"]:
    if value in (None, "config"):
        return "config"
    if value == "as-declared":
        return "as-declared"
    raise LayoutRefused(f"{shown('cast_type', value)} has to be config or as-declared.")


def _check_degree(degree: int, name: str = "tp_degree") -> None:
    if degree > MAX_DEGREE:
        raise LayoutRefused(
            f"{shown(name, degree)} would make as many files, and at most {MAX_DEGREE} ranks are planned for."
        )


def _check_world(degree: int, world_size: object) -> None:
    if not is_one_of(world_size, (None, degree)):
        raise FlagWithoutLayout(
            f"There is no layout for {shown('world_size', world_size)} with tp_degree={degree}: they have to be equal.",
            "Remove world_size",
        )


def _ranks(neuron_config: Mapping[str, object], number: int, name: str = "tp_degree") -> range:
    """The ranks that are made, of `number` in all, which the field `name` gives."""
    start = _number(neuron_config, "start_rank_id", 0, least=0)
    local = _number(neuron_config, "local_ranks_size", number, least=1)
    if start + local > number:
        raise LayoutRefused(
            f"Ranks {start} to {start + local - 1} are asked for (start_rank_id={start}, local_ranks_size={local}), "
            f"and {name}={number} has ranks 0 to {number - 1}. {_ranks_that_fit(start, number)}"
        )
    return range(start, start + local)


def _ranks_that_fit(start: int, number: int) -> str:
    if start >= number:
        return f"A start_rank_id of at most {number - 1} fits."
    return f"From rank {start} a local_ranks_size of at most {number - start} fits."
