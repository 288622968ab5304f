"""config.json in the form that transformers 4 writes, whichever release wrote it.

NxD Inference reads it with transformers 4, which ignores what release 5 writes differently: rotary position embeddings
as `rope_parameters` instead of `rope_theta` and `rope_scaling`, and the experts of some models under another name. Only
this module knows the newer form, and all others read the older one. What the older form cannot express is refused, and
so are two forms in one file that contradict each other.
"""

import reprlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import ConfigInvalid, LayoutRefused
from neuronmodel_worker.neuron_config.families import traits_of
from neuronmodel_worker.neuron_config.values import shown

NEW: Final = "rope_parameters"
OLD: Final = "rope_scaling"
THETA: Final = "rope_theta"
FULL: Final = "full_attention"
PARTIAL: Final = "partial_rotary_factor"
TRAINED: Final = "original_max_position_embeddings"
TYPES: Final = ("rope_type", "type")
"""The field with the kind of scaling; the second is its older name."""

OF_TRAINED_LENGTH: Final = ("llama3", "yarn", "longrope")
"""The kinds of scaling that need the length the model was trained with; where it is absent, transformers 5 takes
`max_position_embeddings`."""

PUT_RIGHT: Final = "Put the checkpoint's own config.json there, or correct it."

ConfigFields = dict[str, object]


def legacy_config_of(checkpoint: Checkpoint) -> Mapping[str, object]:
    """A checkpoint's config.json in the older form. Raises ConfigInvalid, LayoutRefused."""
    return to_legacy(checkpoint.config, where_of(checkpoint))


def where_of(checkpoint: Checkpoint) -> str:
    """The checkpoint's config.json, for the beginning of a sentence."""
    return f"config.json in {checkpoint.path}"


def to_legacy(config: Mapping[str, object], where: str) -> Mapping[str, object]:
    """`config` in the older form: itself where it is in that form already. `where` begins a sentence. Raises
    ConfigInvalid for contradictions, LayoutRefused for what the older form cannot express."""
    translated: ConfigFields = dict(config)
    for name, part in config.items():
        if isinstance(part, Mapping) and name.endswith("_config") and NEW in part:
            translated[name] = dict(to_legacy(part, f"{where}, in {name},"))
    _translate_names(translated, where)
    _translate_rotary(translated, where)
    return config if translated == config else translated


def scaling_kind(parameters: Mapping[str, object]) -> object:
    """The kind of scaling of positions, as transformers names it; "default" where it is absent."""
    return next((parameters[name] for name in TYPES if parameters.get(name) is not None), "default")


def _translate_names(config: ConfigFields, where: str) -> None:
    """Give the number of experts the name that transformers 4 reads, where it has the other one."""
    experts = traits_of(str(config.get("model_type"))).experts
    if experts and config.get(experts.other_name) is not None:
        name, other = experts.field, experts.other_name
        _require_equal(where, {name: config.get(name), other: config[other]})
        config.setdefault(name, config[other])
        if config[name] is None:
            config[name] = config[other]


def _translate_rotary(config: ConfigFields, where: str) -> None:
    new, old = (_parameters(config, name, where) for name in (NEW, OLD))
    config.pop(NEW, None)
    if config.get(OLD) == {}:
        config[OLD] = None
    inside, are_both = {NEW: new, OLD: old}, bool(new and old)
    if are_both and new.get(THETA) is not None and old.get(THETA) is None and config.get(THETA) is None:
        raise ConfigInvalid(
            f"{where} gives {shown(f'{NEW}.{THETA}', new[THETA])}, and {OLD} without one, which transformers 5 takes "
            f"instead, with its own default. Remove {NEW} or {OLD}, whichever is not meant."
        )
    for name in (THETA, PARTIAL):
        _lift(config, name, inside, where)
    if are_both and _meaning(new) != _meaning(old):
        raise ConfigInvalid(
            f"{where} says in {NEW} and in {OLD} different things of rotary position embeddings: "
            f"{shown(NEW, new)} and {shown(OLD, old)}. Remove the one that is not meant."
        )
    scaling = dict(old or _without_default(new))
    if scaling:
        _add_trained_length(config, scaling, where, is_new=bool(new))
        if scaling != _given(config.get(OLD)):
            config[OLD] = scaling


def _parameters(config: Mapping[str, object], name: str, where: str) -> ConfigFields:
    """The parameters in `rope_parameters` or `rope_scaling`, which hold for all layers; empty where there are none."""
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigInvalid(f"{where} gives {shown(name, value)}, and it is to be an object. {PUT_RIGHT}")
    of_layers = {key: part for key, part in value.items() if isinstance(part, Mapping)}
    if not of_layers:
        return _check_parameters(value, name, where)
    flat = {key: part for key, part in value.items() if key not in of_layers}
    if flat.get(THETA) is not None and any(flat.get(key) is not None for key in TYPES):
        return _check_parameters(flat, name, where)
    if others := [key for key, part in value.items() if part is not None and key not in of_layers]:
        raise ConfigInvalid(
            f"{where} gives {name} by types of layers ({reprlib.repr(list(of_layers))}) and beside them "
            f"{shown(repr(others[0])[1:-1], value[others[0]])}. {PUT_RIGHT}"
        )
    return _common_to_layers(config, name, {**dict.fromkeys(value), **of_layers}, where)


def _common_to_layers(
    config: Mapping[str, object], name: str, by_type: Mapping[str, Mapping[str, object] | None], where: str
) -> ConfigFields:
    used = [each for each, part in by_type.items() if part is not None or by_type.get(FULL) is None]
    if isinstance(layers := config.get("layer_types"), Sequence) and not isinstance(layers, str) and layers:
        used = list(dict.fromkeys(map(str, layers)))
    for each in used:
        if by_type.get(each) is None:
            raise LayoutRefused(
                f"{where} gives {name} by types of layers, and none for layers of type {each[:40]!r}: layers without "
                "rotary position embeddings are not computed here. Use another checkpoint."
            )
    parameters = {each: _check_parameters(by_type[each] or {}, f"{name}.{repr(each)[1:-1]}", where) for each in used}
    for (one, first), (other, second) in pairwise(parameters.items()):
        if _meaning(first) != _meaning(second):
            raise LayoutRefused(
                f"{where} gives different rotary position embeddings to layers of type {one[:40]!r} and {other[:40]!r} "
                f"({name}), and here one {THETA} and one {OLD} hold for all layers. Use another checkpoint."
            )
    return parameters[used[0]]


def _check_parameters(parameters: Mapping[str, object], name: str, where: str) -> ConfigFields:
    """The parameters that are not null. Raises ConfigInvalid for a kind that is no name, or two that differ."""
    given = {key: value for key, value in parameters.items() if value is not None or key == THETA}
    kinds = {f"{name}.{key}": given[key] for key in TYPES if key in given}
    for key, kind in kinds.items():
        if not isinstance(kind, str):
            raise ConfigInvalid(f"{where} gives {shown(key, kind)}, and it is to be a name. {PUT_RIGHT}")
    _require_equal(where, kinds)
    return given


def _lift(config: ConfigFields, name: str, inside: Mapping[str, ConfigFields], where: str) -> None:
    """Move a field from `rope_parameters` to its place in the older form."""
    places = {f"{part}.{name}": parameters.pop(name) for part, parameters in inside.items() if name in parameters}
    if not places:
        return
    top = config.get(name)
    _require_equal(where, {**({name: top} if top is not None else {}), **places})
    if top is None and not (name == PARTIAL and next(iter(places.values())) == 1):
        config[name] = next(iter(places.values()))


def _require_equal(where: str, values: Mapping[str, object]) -> None:
    """Raises ConfigInvalid, which names both fields, where two values that are not null differ."""
    for (one, first), (other, second) in pairwise((name, each) for name, each in values.items() if each is not None):
        if first != second:
            raise ConfigInvalid(
                f"{where} gives {shown(one, first)} and {shown(other, second)}, which contradict each other. Remove "
                "the one that is not meant."
            )


def _meaning(parameters: Mapping[str, object]) -> dict[str, object]:
    rest = {name: value for name, value in parameters.items() if name not in TYPES}
    return {**rest, TYPES[0]: scaling_kind(parameters)}


def _without_default(parameters: Mapping[str, object]) -> ConfigFields:
    """The parameters as `rope_scaling`, which is absent where positions are not scaled."""
    meaning = _meaning(parameters)
    return {} if meaning == {TYPES[0]: "default"} else meaning


def _add_trained_length(config: ConfigFields, scaling: ConfigFields, where: str, is_new: bool) -> None:
    """Put the trained length where transformers 4 reads it: for longrope on the top level, for llama3 within
    `rope_scaling`. The value is the one that transformers 5 uses, which never reads the top level. The releases read an
    older longrope differently, so both places have to agree there."""
    kind, within = scaling_kind(scaling), scaling.get(TRAINED)
    if kind not in OF_TRAINED_LENGTH:
        return
    longest = config.get("max_position_embeddings")
    if kind == "longrope" and not is_new:
        _require_equal(where, {TRAINED: config.get(TRAINED), f"{OLD}.{TRAINED}": within})
    elif kind == "longrope":
        length = longest if within is None and config.get(TRAINED) is not None else within
        if length is not None:
            config[TRAINED] = length
    elif kind == "llama3" and within is None and longest is not None:
        scaling[TRAINED] = longest


def _given(value: object) -> object:
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, Mapping) else value
