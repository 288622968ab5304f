"""The Neuron engine: NxD Inference, with the readers of this project in the place of its own weight loading.

The Neuron SDK is imported only when a model is compiled, in a process of its own, or opened.
"""

import hashlib
import importlib
import json
import logging
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from neuronmodel_api.config import Server, WorkerConfig
from neuronmodel_api.report import Devices
from neuronmodel_worker.engines.interface import Limits, Ranks, Steps
from neuronmodel_worker.engines.nxdi import sdk
from neuronmodel_worker.engines.nxdi.application import Application, make_application
from neuronmodel_worker.engines.nxdi.batching import SHORTEST_PROMPT, GenerationSettings, LoadedNeuronModel
from neuronmodel_worker.engines.nxdi.captured_output import captured_output
from neuronmodel_worker.engines.nxdi.compilation import ChildRunner, ChildTask
from neuronmodel_worker.engines.nxdi.compiled import CompiledFiles, complete, describe, read_compiled
from neuronmodel_worker.engines.nxdi.device_sampling import on_device
from neuronmodel_worker.engines.nxdi.flag_checks import local_ranks, logical_cores, max_lengths
from neuronmodel_worker.engines.nxdi.hardware import Hardware, count_devices, find_devices, logical_core_size
from neuronmodel_worker.engines.nxdi.load_directory import checkpoint_of, library_path, make_load_directory, readable
from neuronmodel_worker.engines.nxdi.neuron_failures import CompilerFailed, classify
from neuronmodel_worker.engines.nxdi.settings import (
    PLATFORM_VARIABLE,
    Purpose,
    check_settings,
    graph_fields,
    machine,
    platform,
    with_purpose,
)
from neuronmodel_worker.engines.nxdi.weight_loading import checked_weights, installed
from neuronmodel_worker.engines.vllm_arguments import check_extra_arguments
from neuronmodel_worker.failures import ArtifactDamaged, ConfigInvalid, WorkerFailure
from neuronmodel_worker.layouts.legacy_config import legacy_config_of
from neuronmodel_worker.neuron_config.derived import derived
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan
from neuronmodel_worker.store import compiled_key

# The revision of what this engine itself writes into a compiled model: part of its version.
REVISION = 1
# Fields of config.json that do not affect the graph: names, versions, and what only a tokenizer or a sampler uses.
NOT_ARCHITECTURE = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "architectures", "bos_token_id", "eos_token_id"}
)
# A quantized cache and quantized weights of this type need these for correct results; `inference_demo` sets them too.
FLOAT8_ENVIRONMENT = {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"}
EXECUTION_SECONDS = "600"
"""The value of NEURON_RT_EXEC_TIMEOUT in AWS's command for the 405B model."""


class NeuronEngine:
    """Raises NoEngine and SdkPlaceholder where the SDK is not installed."""

    def __init__(self, config: WorkerConfig, hardware: Hardware | None = None) -> None:
        self.versions = sdk.versions()
        self._config = config
        self._hardware = hardware or Hardware()

    @property
    def _source(self) -> Path:
        """The checkpoint's folder; everything that needs it runs after the checkpoint was opened."""
        return Path(self._config.source_path or "")

    @property
    def _scratch(self) -> Path:
        return Path(self._config.scratch_path)

    @property
    def _fields(self) -> Mapping[str, Any]:
        return self._config.neuron_config

    def version(self) -> str:
        return " ".join((f"neuron-{REVISION}", *(f"{name}-{each}" for name, each in sorted(self.versions.items()))))

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        model_type = self._model_type(plan)
        model = legacy_config_of(plan.checkpoint)
        check_settings(neuron_config, model_type, self._config.server, model)
        if self._config.server is Server.VLLM:
            check_extra_arguments(self._config.extra_args)
        logical_core_size(logical_cores(neuron_config), machine(self._config), platform(self._config))
        config = {name: value for name, value in model.items() if name not in NOT_ARCHITECTURE}
        return {
            "model_type": model_type,
            "config": config,
            "neuron_config": graph_fields(neuron_config),
            "compiler_flags": os.environ.get("NEURON_CC_FLAGS", ""),
            "platform": platform(self._config),
            "ranks": [plan.ranks.start, plan.ranks.stop],
            "tensors": _digest(plan),
        }

    def _model_type(self, plan: ModelPlan) -> str:
        """The model type by the library's name: that of the spec, or that of config.json."""
        found = self._config.model_type or plan.checkpoint.config.get("model_type")
        if not isinstance(found, str):
            raise ConfigInvalid(
                "config.json names no model_type. Put the checkpoint's own there, or set spec.model.type."
            )
        return found

    def import_framework(self) -> None:
        """Import the SDK for `open`, if this is a start; `compile` and `shard` import it in a process of their own."""
        if self._config.compiled_key is not None:
            self._import()

    def _import(self) -> None:
        for name, value in self.runtime_environment().items():
            os.environ.setdefault(name, value)
        # transformers warns with every batch that padding is on the right and that top_k has no effect.
        logging.getLogger("transformers.generation").setLevel(logging.ERROR)
        try:
            importlib.import_module("torch_neuronx")
            importlib.import_module("neuronx_distributed_inference.utils.constants")
            importlib.import_module("neuronx_distributed_inference.utils.hf_adapter")
        except (ImportError, OSError) as error:
            raise sdk.cannot_be_imported(error) from error

    def compile(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        progress(0, 2)
        with readable(self._source, self._scratch) as source:
            task = self._task(plan, with_purpose(neuron_config, Purpose.COMPILE), directory, source)
            self._runner.compile(task)
        progress(1, 2)
        try:
            complete(directory, describe(plan, self.version(), task.model_type), source)
        except (ValueError, FileNotFoundError) as error:
            raise CompilerFailed(
                f"The Neuron compiler ended well, and left no whole model ({error}). Use an image of another release."
            ) from error
        progress(2, 2)

    def shard(self, plan: ModelPlan, neuron_config: Mapping[str, object], directory: Path, progress: Steps) -> None:
        progress(0, 1)
        with readable(plan.checkpoint.path, self._scratch) as source:
            self._runner.shard(self._task(plan, with_purpose(neuron_config, Purpose.SHARD), directory, source))
        progress(1, 1)

    def _task(self, plan: ModelPlan, fields: Mapping[str, Any], directory: Path, source: Path) -> ChildTask:
        graph = {
            "engine": self._config.engine,
            "version": self.version(),
            "graph": self.graph_inputs(plan, self._fields),
        }
        return ChildTask(compiled_key(graph)[:12], self._model_type(plan), source, fields, directory)

    @cached_property
    def _runner(self) -> ChildRunner:
        environment = {**os.environ, **self._library_environment()}
        if count_devices(self._hardware) == 0:
            environment[PLATFORM_VARIABLE] = platform(self._config)
        return ChildRunner(self._scratch, Path(self._config.artifacts_path), environment)

    def devices(self) -> Devices:
        return find_devices(
            self._hardware,
            ranks=len(local_ranks(self._fields)),
            logical_cores=logical_cores(self._fields),
            machine=machine(self._config),
            platform=platform(self._config),
            versions=self.versions,
        )

    def open(self, directory: Path, shards: Path | None = None) -> "CompiledNeuronModel":
        compiled = read_compiled(directory)
        purpose = Purpose.READ if shards is not None else Purpose.LOAD
        view = make_load_directory(self._scratch, compiled, self._source, purpose, shards)
        self._import()
        fields = with_purpose(self._fields, purpose)
        source = checkpoint_of(view, self._source)
        return CompiledNeuronModel(compiled, view, source, fields, self._settings, self._scratch)

    @property
    def _settings(self) -> GenerationSettings:
        fields = self._fields
        return GenerationSettings(
            limits=Limits(*max_lengths(fields), int(fields.get("batch_size") or 1), SHORTEST_PROMPT),
            source=self._source,
            generation=dict(self._config.generation_config),
            on_device=on_device(fields),
            skip_warmup=bool(fields.get("skip_warmup")),
            fills=not fields.get("is_continuous_batching"),
            equal_lengths=bool(fields.get("async_mode")),
        )

    def _library_environment(self) -> dict[str, str]:
        fields = derived(self._fields)
        needs_float8 = fields.get("kv_cache_quant") or (
            fields.get("quantized") and fields.get("quantization_dtype") == "f8e4m3"
        )
        return dict(FLOAT8_ENVIRONMENT) if needs_float8 else {}

    def runtime_environment(self) -> dict[str, str]:
        """The environment of a start, as defaults for variables that the pod does not set."""
        size = logical_cores(self._fields)
        return {
            **self._library_environment(),
            **({"NEURON_RT_VIRTUAL_CORE_SIZE": str(size)} if size else {}),
            "NEURON_RT_NUM_CORES": str(len(local_ranks(self._fields))),
            "NEURON_RT_EXEC_TIMEOUT": EXECUTION_SECONDS,
        }


class CompiledNeuronModel:
    """A compiled model that is open; `view` is the directory that it is loaded from."""

    def __init__(
        self,
        compiled: CompiledFiles,
        view: Path,
        source: Path,
        fields: Mapping[str, Any],
        settings: GenerationSettings,
        scratch: Path,
    ) -> None:
        self.view = view
        self._compiled = compiled
        self._source = source
        self._fields = fields
        self._settings = settings
        self._scratch = scratch

    def load(self, ranks: Ranks | None) -> LoadedNeuronModel:
        """Load the model. Raises ArtifactDamaged, FlagsRefused, and failures of the Neuron runtime."""
        expected = self._compiled.expected
        if ranks is None and expected.forms is not None:
            raise ArtifactDamaged(self._compiled.directory, "its graph takes ranks, and none came")
        application = make_application(self._compiled.description.model_type, str(self._source), self._fields)
        if ranks is None:
            self._load(application)
        else:
            expected.check(ranks)
            with installed(application, checked_weights(ranks, expected)):
                self._load(application)
        return LoadedNeuronModel(application, self._settings)

    def _load(self, application: Application) -> None:
        ranks, error = self._compiled.expected.ranks, None
        with captured_output(self._scratch) as output:
            try:
                application.load(
                    library_path(self.view),
                    start_rank_id=ranks.start,
                    local_ranks_size=len(ranks),
                    skip_warmup=True,
                )
            except WorkerFailure:
                raise
            except Exception as raised:
                error = raised
        if error:
            raise classify(f"{output.text}\n{type(error).__name__}: {error}") from error


def _digest(plan: ModelPlan) -> str:
    """A digest of the tensors that a rank has."""
    if not isinstance(plan, StreamedPlan):
        return "unchecked"
    tensors = [[each.name, each.dtype, list(each.shape)] for each in plan.tensors]
    return hashlib.sha256(json.dumps(tensors).encode()).hexdigest()[:32]
