"""Whether what config.json says is computed: by the engines, not by the layout alone.

Shards do not depend on most of this. But whoever has them computes the model with them, and a field that nobody reads
makes it another model than its checkpoint's: so it is refused where that is known, and warned of where it is not.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from neuronmodel_worker.failures import ConfigInvalid, LayoutRefused
from neuronmodel_worker.layouts.config_fields import (
    ALL_ONES,
    CHANGES,
    UNREMARKABLE,
    WITHOUT_EFFECT,
    read_of,
    without_change,
)
from neuronmodel_worker.layouts.legacy_config import OF_TRAINED_LENGTH, OLD, PUT_RIGHT, THETA, TRAINED, TYPES, kind_of
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH, shown

Config = Mapping[str, object]

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", TRAINED),
    "yarn": ("factor",),
    "dynamic": ("factor",),
    "longrope": (),
}
"""What transformers 4 knows, with the numbers that each needs."""
OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "yarn": (TRAINED, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "dynamic": (TRAINED,),
    "longrope": (TRAINED, "factor", "attention_factor", "short_factor", "long_factor"),
}
"""What each reads beside."""
OF_LENGTHS: Final = ("dynamic", "longrope")
"""Their frequencies depend on how long a sequence is."""
SCALED: Final = ("llama",)
"""Families whose positions NxD Inference scales."""

NUMBERS: Final = ("rms_norm_eps", THETA)
COUNTS: Final = frozenset({"max_position_embeddings", "num_experts_per_tok"})
FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
WINDOW_OF_EVERY_LAYER: Final = ("llama", "mistral", "mixtral")
"""Families for which `use_sliding_window` says nothing."""
KERNELS: Final = ("mlp_kernel_enabled", "mlp_tkg_nki_kernel_enabled", "quantized_mlp_kernel_enabled")
OF_KERNELS: Final = ("silu", "swish", "gelu_pytorch_tanh")
DENSE: Final = ("llama", "mistral", "qwen2", "qwen3")

WITHOUT_IT: Final = (
    "Use another checkpoint, or take the field out of config.json where the model is meant to be computed without it."
)


def check_config(config: Config, family: str, neuron_config: Mapping[str, object], where: str) -> list[str]:
    """`config` is config.json in its older form (`layouts.legacy_config`); `where` begins a sentence. Returns warnings.
    Raises ConfigInvalid, and LayoutRefused for what no engine here computes as transformers does."""
    length = _length(neuron_config)
    _check_types(config, family, where)
    _check_changes(config, family, where)
    _check_positions(config, family, length, where)
    _check_windows(config, family, length, where)
    _check_activation(config, family, neuron_config, where)
    return [
        *_check_experts(config, family, where),
        *_other_trained_length(config, where),
        *_unread(config, family, where),
    ]


def _length(neuron_config: Mapping[str, object]) -> int:
    given = neuron_config.get("seq_len")
    return given if type(given) is int and given > 0 else DEFAULT_SEQUENCE_LENGTH


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def _check_types(config: Config, family: str, where: str) -> None:
    for name in NUMBERS:
        if name in config and not _is_positive(config[name]):
            raise ConfigInvalid(
                f"{where} gives {shown(name, config[name])}, and it is to be a positive number. {PUT_RIGHT}"
            )
    for name in COUNTS & read_of(family).keys():
        value = config.get(name, 1)
        if type(value) is not int or value < 1:
            raise ConfigInvalid(f"{where} gives {shown(name, value)}, and it is to be a positive integer. {PUT_RIGHT}")
    if not isinstance(activation := config.get("hidden_act", OF_KERNELS[0]), str):
        raise ConfigInvalid(f"{where} gives {shown('hidden_act', activation)}, and it is to be a name. {PUT_RIGHT}")


def _check_changes(config: Config, family: str, where: str) -> None:
    for name, change in CHANGES.items():
        value = config.get(name)
        if value is None or any(_is_same(value, each) for each in without_change(name, family)):
            continue
        if not _is_scale_in_force(name, value, config):
            raise LayoutRefused(
                f"{where} gives {shown(name, value)}: {change.what}, and neither engine computes that. {WITHOUT_IT}"
            )


def _is_same(value: object, other: object) -> bool:
    """1 and 1.0 are; 1 and true are not, nor 1 and [1]."""
    if other is ALL_ONES:
        return isinstance(value, list) and bool(value) and all(_is_same(each, 1) for each in value)
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _is_scale_in_force(name: str, value: object, config: Config) -> bool:
    """Whether it says how attention is scaled anyway, by the size of a head."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    size = config.get("head_dim")
    if size is None and type(hidden) is int and type(heads) is int and heads > 0:
        size = hidden // heads
    if type(size) is not int or size < 1 or not _is_positive(value):
        return False
    scale = {"attention_multiplier": size**-0.5, "attn_scale": size**-0.5, "query_pre_attn_scalar": size}.get(name)
    return scale is not None and math.isclose(value, scale, rel_tol=1e-6)  # type: ignore[arg-type]


# Positions.


def _check_positions(config: Config, family: str, length: int, where: str) -> None:
    scaling = config.get(OLD)
    if not isinstance(scaling, Mapping):
        return
    kind = str(kind_of(scaling))
    said = f"{where} gives rotary position embeddings of type {kind[:40]!r} (rope_parameters or {OLD})"
    if kind not in KINDS:
        raise LayoutRefused(f"{said}, and what is computed here is one of {', '.join(KINDS)}. Use another checkpoint.")
    if kind != "default" and family not in SCALED:
        raise LayoutRefused(
            f"{said}, and NxD Inference computes {family} models without any scaling of positions. {WITHOUT_IT}"
        )
    for name in KINDS[kind]:
        if not _is_positive(value := scaling.get(name)):
            raise ConfigInvalid(f"{said} and {shown(name, value)}, which has to be a positive number. {PUT_RIGHT}")
    longest = _longest_unscaled(config, scaling, kind)
    if kind in OF_LENGTHS and length > longest:
        raise LayoutRefused(
            f"{said}, whose frequencies depend on a sequence's length beyond {longest} tokens, and those of a compiled "
            f"graph do not: seq_len is {length}. Lower it to {longest}, or use another checkpoint."
        )


def _longest_unscaled(config: Config, scaling: Config, kind: str) -> int:
    places = (config.get("max_position_embeddings"),)
    if kind in OF_TRAINED_LENGTH:
        places = (scaling.get(TRAINED), config.get(TRAINED), *places)  # type: ignore[assignment]
    return next((each for each in places if type(each) is int), 0)


def _other_trained_length(config: Config, where: str) -> Iterator[str]:
    scaling, beside = config.get(OLD), config.get(TRAINED)
    if not isinstance(scaling, Mapping) or kind_of(scaling) != "llama3" or beside is None:
        return
    if (within := scaling.get(TRAINED)) != beside:
        yield (
            f"{where} gives {shown(TRAINED, beside)} beside rotary position embeddings of type 'llama3', and they are "
            f"computed with {within!r}, as transformers 5 does: with the one within rope_parameters or {OLD}, or else "
            "with max_position_embeddings. Check which is meant."
        )


# Windows.


def _check_windows(config: Config, family: str, length: int, where: str) -> None:
    chunk = config.get("attention_chunk_size")
    if chunk is not None and not (type(chunk) is int and chunk >= length):
        raise LayoutRefused(
            f"{where} gives {shown('attention_chunk_size', chunk)}, less than seq_len={length}: attention in chunks is "
            f"not what transformers computes of a {family} model. {WITHOUT_IT}"
        )
    window = _window(config, family, where)
    is_open = window is None or window >= length
    kinds = _layer_types(config, where)
    if others := sorted(kinds - {FULL, SLIDING}):
        raise LayoutRefused(
            f"{where} gives layers of type {others[0][:40]!r} (layer_types), and neither engine computes that. "
            "Use another checkpoint."
        )
    in_every_layer = family == "mistral" and FULL not in kinds
    if SLIDING in kinds and (window is None or not (is_open or in_every_layer)):
        given = shown("sliding_window", config.get("sliding_window"))
        raise LayoutRefused(
            f"{where} gives layers of type {SLIDING!r} (layer_types) with {given}, and NxD Inference computes "
            f"attention within a window in all layers of a mistral model or in none. {WITHOUT_IT}"
        )
    if is_open or family == "mistral" or (kinds == {FULL} and family in ("qwen2", "qwen3")):
        return
    why = (
        "transformers pays no heed to it in this family, and NxD Inference would"
        if family == "llama"
        else "NxD Inference computes this family without a window"
    )
    raise LayoutRefused(
        f"{where} gives {shown('sliding_window', window)}, less than seq_len={length}: {why}. Lower seq_len to "
        f"{window}, or take the field out of config.json where the model is meant to be computed without it."
    )


def _window(config: Config, family: str, where: str) -> int | None:
    """In tokens; None where no layer has one."""
    window = config.get("sliding_window", 4096 if family.startswith(("mistral", "qwen")) else None)
    if window is not None and (type(window) is not int or window < 1) and window is not False:
        raise ConfigInvalid(
            f"{where} gives {shown('sliding_window', window)}, and it is to be a number of tokens. {PUT_RIGHT}"
        )
    if not window or (family not in WINDOW_OF_EVERY_LAYER and not config.get("use_sliding_window")):
        return None
    first, layers = config.get("max_window_layers", 28), config.get("num_hidden_layers", 32)
    if (
        family in ("qwen2", "qwen3")
        and config.get("layer_types") is None
        and isinstance(first, int)
        and isinstance(layers, int)
    ):
        return int(window) if first < layers else None
    return int(window)


def _layer_types(config: Config, where: str) -> frozenset[str]:
    given = config.get("layer_types")
    if given is None:
        return frozenset()
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ConfigInvalid(
            f"{where} gives {shown('layer_types', given)}, and it is to be a list of names. {PUT_RIGHT}"
        )
    return frozenset(given)


# The rest.


def _check_activation(config: Config, family: str, neuron_config: Mapping[str, object], where: str) -> None:
    """The kernels of dense models compute their own."""
    activation = config.get("hidden_act", OF_KERNELS[0])
    kernel = next((name for name in KERNELS if neuron_config.get(name)), None)
    if kernel and family in DENSE and activation not in OF_KERNELS:
        raise LayoutRefused(
            f"{where} gives {shown('hidden_act', activation)}, and {kernel} computes {OF_KERNELS[0]} instead, or "
            f"{OF_KERNELS[-1]}. Set {kernel} to false."
        )


def _check_experts(config: Config, family: str, where: str) -> Iterator[str]:
    if family != "qwen3_moe" or config.get("norm_topk_prob") is True:
        return
    normed = "NxD Inference scales the weights of a token's experts to a sum of 1, which is norm_topk_prob true"
    if config.get("norm_topk_prob") is not None:
        raise LayoutRefused(
            f"{where} gives {shown('norm_topk_prob', config['norm_topk_prob'])}, and {normed}. Use another checkpoint."
        )
    yield f"{where} gives no norm_topk_prob, which transformers takes for false, and {normed}. Check what is meant."


def _unread(config: Config, family: str, where: str) -> Iterator[str]:
    known = read_of(family).keys() | WITHOUT_EFFECT.keys() | CHANGES.keys()
    unread = {name: value for name, value in config.items() if name not in known and not _says_nothing(name, value)}
    scaling = config.get(OLD)
    if isinstance(scaling, Mapping):
        kind = str(kind_of(scaling))
        of_kind = {*TYPES, *KINDS.get(kind, ()), *OTHERS.get(kind, ())}
        unread |= {f"{OLD}.{name}": each for name, each in scaling.items() if name not in of_kind}
    if unread:
        fields = ", ".join(shown(repr(name)[1:-1], value) for name, value in list(unread.items())[:SHOWN])
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        yield (
            f"{where} gives {fields}{more}, which nothing here reads: the model is computed without. Check that this "
            "changes nothing that matters."
        )


SHOWN: Final = 20


def _says_nothing(name: str, value: object) -> bool:
    """False may be the change, as in `use_rope`."""
    if any(_is_same(value, each) for each in UNREMARKABLE.get(name, ())):
        return True
    return value is None or (isinstance(value, list | dict) and not value)
