"""Whether the engines compute everything that config.json asks for.

Shards do not depend on most of it. But they are used to compute the model, and a field that nobody reads makes it
another model than the checkpoint's: so such a field is refused where that is known, and warned of where it is not.
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
from neuronmodel_worker.layouts.legacy_config import (
    FULL,
    OF_TRAINED_LENGTH,
    OLD,
    PUT_RIGHT,
    THETA,
    TRAINED,
    TYPES,
    scaling_kind,
)
from neuronmodel_worker.neuron_config.families import WindowRule, traits_of
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
"""The kinds of scaling that transformers 4 knows, with the numbers that each needs."""
OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "yarn": (TRAINED, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "dynamic": (TRAINED,),
    "longrope": (TRAINED, "factor", "attention_factor", "short_factor", "long_factor"),
}
"""The other fields that each kind reads."""
LENGTH_DEPENDENT: Final = ("dynamic", "longrope")
"""Kinds whose frequencies depend on the length of a sequence."""

NUMBERS: Final = ("rms_norm_eps", THETA)
COUNTS: Final = frozenset({"max_position_embeddings", "num_experts_per_tok"})
SLIDING: Final = "sliding_attention"
KERNELS: Final = ("mlp_kernel_enabled", "mlp_tkg_nki_kernel_enabled", "quantized_mlp_kernel_enabled")
KERNEL_ACTIVATIONS: Final = ("silu", "swish", "gelu_pytorch_tanh")

WITHOUT_IT: Final = (
    "Use another checkpoint, or take the field out of config.json where the model is meant to be computed without it."
)


def check_config(config: Config, family: str, neuron_config: Mapping[str, object], where: str) -> list[str]:
    """Check config.json in its older form (`layouts.legacy_config`); `where` begins a sentence. Returns warnings.
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
    if not isinstance(activation := config.get("hidden_act", KERNEL_ACTIVATIONS[0]), str):
        raise ConfigInvalid(f"{where} gives {shown('hidden_act', activation)}, and it is to be a name. {PUT_RIGHT}")


def _check_changes(config: Config, family: str, where: str) -> None:
    for name, change in CHANGES.items():
        value = config.get(name)
        if value is None or any(_is_same(value, each) for each in without_change(name, family)):
            continue
        if not _is_default_scale(name, value, config):
            raise LayoutRefused(
                f"{where} gives {shown(name, value)}: {change.what}, and neither engine computes that. {WITHOUT_IT}"
            )


def _is_same(value: object, other: object) -> bool:
    """Whether two values mean the same: 1 and 1.0 do; 1 and true do not, nor 1 and [1]."""
    if other is ALL_ONES:
        return isinstance(value, list) and bool(value) and all(_is_same(each, 1) for each in value)
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _is_default_scale(name: str, value: object, config: Config) -> bool:
    """Whether a value is the scale that attention has anyway, by the size of a head."""
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
    kind = str(scaling_kind(scaling))
    given = f"{where} gives rotary position embeddings of type {kind[:40]!r} (rope_parameters or {OLD})"
    if kind not in KINDS:
        raise LayoutRefused(f"{given}, and what is computed here is one of {', '.join(KINDS)}. Use another checkpoint.")
    if kind != "default" and not traits_of(family).scales_positions:
        raise LayoutRefused(
            f"{given}, and NxD Inference computes {family} models without any scaling of positions. {WITHOUT_IT}"
        )
    for name in KINDS[kind]:
        if not _is_positive(value := scaling.get(name)):
            raise ConfigInvalid(f"{given} and {shown(name, value)}, which has to be a positive number. {PUT_RIGHT}")
    longest = _longest_unscaled(config, scaling, kind)
    if kind in LENGTH_DEPENDENT and length > longest:
        raise LayoutRefused(
            f"{given}, whose frequencies depend on a sequence's length beyond {longest} tokens, and those of a "
            f"compiled graph do not: seq_len is {length}. Lower it to {longest}, or use another checkpoint."
        )


def _longest_unscaled(config: Config, scaling: Config, kind: str) -> int:
    places = (config.get("max_position_embeddings"),)
    if kind in OF_TRAINED_LENGTH:
        places = (scaling.get(TRAINED), config.get(TRAINED), *places)  # type: ignore[assignment]
    return next((each for each in places if type(each) is int), 0)


def _other_trained_length(config: Config, where: str) -> Iterator[str]:
    scaling, top_level = config.get(OLD), config.get(TRAINED)
    if not isinstance(scaling, Mapping) or scaling_kind(scaling) != "llama3" or top_level is None:
        return
    if (within := scaling.get(TRAINED)) != top_level:
        yield (
            f"{where} gives {shown(TRAINED, top_level)} beside rotary position embeddings of type 'llama3', and they "
            f"are computed with {within!r}, as transformers 5 does: with the one within rope_parameters or {OLD}, or "
            "else with max_position_embeddings. Check which is meant."
        )


# Windows.


def _check_windows(config: Config, family: str, length: int, where: str) -> None:
    chunk = config.get("attention_chunk_size")
    if chunk is not None and not (type(chunk) is int and chunk >= length):
        raise LayoutRefused(
            f"{where} gives {shown('attention_chunk_size', chunk)}, less than seq_len={length}: attention in chunks is "
            f"not what transformers computes of a {family} model. {WITHOUT_IT}"
        )
    rule = traits_of(family).window
    window = _window(config, rule, where)
    is_open = window is None or window >= length
    kinds = _layer_types(config, where)
    if others := sorted(kinds - {FULL, SLIDING}):
        raise LayoutRefused(
            f"{where} gives layers of type {others[0][:40]!r} (layer_types), and neither engine computes that. "
            "Use another checkpoint."
        )
    in_every_layer = rule.is_computed and FULL not in kinds
    if SLIDING in kinds and (window is None or not (is_open or in_every_layer)):
        given = shown("sliding_window", config.get("sliding_window"))
        raise LayoutRefused(
            f"{where} gives layers of type {SLIDING!r} (layer_types) with {given}, and NxD Inference computes "
            f"attention within a window in all layers of a mistral model or in none. {WITHOUT_IT}"
        )
    if is_open or rule.is_computed or (kinds == {FULL} and rule.is_by_layer):
        return
    why = (
        "transformers pays no heed to it in this family, and NxD Inference would"
        if rule.is_ignored
        else "NxD Inference computes this family without a window"
    )
    raise LayoutRefused(
        f"{where} gives {shown('sliding_window', window)}, less than seq_len={length}: {why}. Lower seq_len to "
        f"{window}, or take the field out of config.json where the model is meant to be computed without it."
    )


def _window(config: Config, rule: WindowRule, where: str) -> int | None:
    """The window of attention in tokens; None where no layer has one."""
    window = config.get("sliding_window", rule.default)
    if window is not None and (type(window) is not int or window < 1) and window is not False:
        raise ConfigInvalid(
            f"{where} gives {shown('sliding_window', window)}, and it is to be a number of tokens. {PUT_RIGHT}"
        )
    if not window or (rule.has_switch and not config.get("use_sliding_window")):
        return None
    first, layers = config.get("max_window_layers", 28), config.get("num_hidden_layers", 32)
    if rule.is_by_layer and config.get("layer_types") is None and isinstance(first, int) and isinstance(layers, int):
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


# Activations, experts, and fields that nothing reads.


def _check_activation(config: Config, family: str, neuron_config: Mapping[str, object], where: str) -> None:
    """Raises LayoutRefused for an activation that a kernel of dense models does not compute."""
    activation = config.get("hidden_act", KERNEL_ACTIVATIONS[0])
    kernel = next((name for name in KERNELS if neuron_config.get(name)), None)
    if kernel and traits_of(family).is_dense and activation not in KERNEL_ACTIVATIONS:
        raise LayoutRefused(
            f"{where} gives {shown('hidden_act', activation)}, and {kernel} computes {KERNEL_ACTIVATIONS[0]} instead, "
            f"or {KERNEL_ACTIVATIONS[-1]}. Set {kernel} to false."
        )


def _check_experts(config: Config, family: str, where: str) -> Iterator[str]:
    if not traits_of(family).scales_experts_to_one or config.get("norm_topk_prob") is True:
        return
    normed = "NxD Inference scales the weights of a token's experts to a sum of 1, which is norm_topk_prob true"
    if config.get("norm_topk_prob") is not None:
        raise LayoutRefused(
            f"{where} gives {shown('norm_topk_prob', config['norm_topk_prob'])}, and {normed}. Use another checkpoint."
        )
    yield f"{where} gives no norm_topk_prob, which transformers takes for false, and {normed}. Check what is meant."


def _unread(config: Config, family: str, where: str) -> Iterator[str]:
    known = read_of(family).keys() | WITHOUT_EFFECT.keys() | CHANGES.keys()
    unread = {name: value for name, value in config.items() if name not in known and not _is_empty(name, value)}
    scaling = config.get(OLD)
    if isinstance(scaling, Mapping):
        kind = str(scaling_kind(scaling))
        of_kind = {*TYPES, *KINDS.get(kind, ()), *OPTIONAL.get(kind, ())}
        unread |= {f"{OLD}.{name}": each for name, each in scaling.items() if name not in of_kind}
    if unread:
        fields = ", ".join(shown(repr(name)[1:-1], value) for name, value in list(unread.items())[:SHOWN])
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        yield (
            f"{where} gives {fields}{more}, which nothing here reads: the model is computed without. Check that this "
            "changes nothing that matters."
        )


SHOWN: Final = 20


def _is_empty(name: str, value: object) -> bool:
    """Whether a value cannot change the model. False can, as in `use_rope`."""
    if any(_is_same(value, each) for each in UNREMARKABLE.get(name, ())):
        return True
    return value is None or (isinstance(value, list | dict) and not value)
