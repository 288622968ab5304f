"""NxD Inference's application for a checkpoint. All functions here import the Neuron SDK when they are called."""

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from neuronmodel_worker.engines.nxdi.neuron_failures import ModelTypeWithoutApplication
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.fields import NO_FIELD, is_left_out

TASK = "causal-lm"


class Application(Protocol):
    """The part of NxD Inference's NeuronApplicationBase that is used here."""

    neuron_config: Any
    config: Any
    traced_model: Any
    load_weights: Callable[..., None]

    def compile(self, compiled_model_path: str) -> None: ...

    def shard_weights(self, compiled_model_path: str) -> None: ...

    def load(
        self,
        compiled_model_path: str,
        start_rank_id: int | None = None,
        local_ranks_size: int | None = None,
        skip_warmup: bool = False,
    ) -> None: ...

    def warmup(self) -> None: ...

    def reset(self) -> None: ...


def make_application(model_type: str, source: str, fields: Mapping[str, Any]) -> Application:
    """The application for the checkpoint's config.json and NeuronConfig's `fields`, made as in `inference_demo`.

    Raises ModelTypeWithoutApplication, and FlagsRefused for what the library itself does not accept.
    """
    from neuronx_distributed_inference.utils.hf_adapter import load_pretrained_config

    application = application_class(model_type)
    with _library_errors():
        with _refuse_unknown_fields(fields):
            neuron_config = application.get_neuron_config_cls()(**arguments(fields))
        config = application.get_config_cls()(neuron_config, load_config=load_pretrained_config(source))
        made: Application = application(source, config)
    return made


def application_class(model_type: str) -> Any:
    """The library's class for a model type. Raises ModelTypeWithoutApplication."""
    from neuronx_distributed_inference.utils.constants import MODEL_TYPES

    if TASK not in MODEL_TYPES.get(model_type, {}):
        known = sorted(name for name, tasks in MODEL_TYPES.items() if TASK in tasks)
        raise ModelTypeWithoutApplication(
            f"The installed NxD Inference has no model of type {model_type[:100]!r}; it has {', '.join(known)}. Use a "
            "checkpoint of one of these types, set spec.model.type where one of them computes it, or use an image with "
            "a release that knows it."
        )
    return MODEL_TYPES[model_type][TASK]


def arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` as NeuronConfig's arguments, with the objects that `inference_demo` makes: PyTorch's types,
    OnDeviceSamplingConfig, and with a quantized cache KVQuantizationConfig. Everything is a copy, because NeuronConfig
    sorts and converts in place."""
    import torch
    from neuronx_distributed_inference.models.config import OnDeviceSamplingConfig

    given = copy.deepcopy({name: value for name, value in fields.items() if name not in NO_FIELD})
    for name in ("torch_dtype", "rpl_reduce_dtype", "attention_dtype"):
        if isinstance(given.get(name), str):
            given[name] = getattr(torch, given[name])
    if isinstance(given.get("on_device_sampling_config"), dict):
        given["on_device_sampling_config"] = OnDeviceSamplingConfig(**given["on_device_sampling_config"])
    if given.get("kv_cache_quant") or isinstance(given.get("kv_quant_config"), dict):
        given["kv_quant_config"] = _cache_quantization(given.get("kv_quant_config") or {})
    return given


def _cache_quantization(given: Mapping[str, Any]) -> Any:
    """KVQuantizationConfig, with the defaults of `inference_demo`."""
    import torch
    from neuronx_distributed.quantization.quantization_config import KVQuantizationConfig, QuantizationType

    methods = {name: QuantizationType(given.get(name, "per_tensor_symmetric")) for name in KV_METHODS}
    kind = getattr(torch, str(given.get("quant_dtype", "float8_e4m3fn")))
    others = {name: value for name, value in given.items() if name not in (*KV_METHODS, "quant_dtype")}
    return KVQuantizationConfig(**{**methods, "quant_dtype": kind, "direct_cast": True, **others})


KV_METHODS: Sequence[str] = ("k_quant_method", "v_quant_method")


class _UnknownArguments(logging.Handler):
    """Collects the names in NeuronConfig's warning of unexpected arguments."""

    names: frozenset[str] = frozenset()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "nexpected keyword argument" in message:
            self.names |= frozenset(re.findall(r"'(\w+)':", message))
        if logging.root.handlers == [self] and logging.lastResort:
            logging.lastResort.handle(record)  # as without this handler


@contextmanager
def _refuse_unknown_fields(fields: Mapping[str, Any]) -> Iterator[None]:
    """Raises FlagsRefused for fields that the installed release does not know: NeuronConfig only warns and
    continues."""
    handler, logger = _UnknownArguments(), logging.getLogger()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    asked_for = {name for name, value in fields.items() if not is_left_out(name, value)}
    if unknown := sorted(handler.names & asked_for):
        raise FlagsRefused(
            f"The installed NxD Inference has no field {unknown[0]} and would go on without it. Remove it from "
            "spec.compile, or use an image with a release that has it."
        )


@contextmanager
def _library_errors() -> Iterator[None]:
    """Turns errors of the library's own checks, which are mostly assertions, into FlagsRefused. FileNotFoundError is
    one of them, because flags may name folders."""
    try:
        yield
    except (
        AssertionError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, FileNotFoundError
    ) as error:  # fmt: skip
        what = str(error).strip() or "it gives no reason"
        raise FlagsRefused(
            f"NxD Inference does not accept these flags for this checkpoint ({type(error).__name__}): {what[:500]}. "
            "Change spec.compile, or the checkpoint's config.json."
        ) from error
