"""NeuronApplicationBase: compile, shard, load. Whoever looks for a check of what is loaded looks in vain."""

import logging
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import neuronx_distributed.trace.hlo_utils as hlo_utils
import torch
from neuron_standin.record import record
from neuron_standin.runtime import executing
from neuronx_distributed.trace.model_builder import ModelBuilder
from safetensors.torch import load_file

from ..utils.runtime_env import set_env_vars
from .config import InferenceConfig, NeuronConfig, to_dict

COMPILED_MODEL_FILE_NAME = "model.pt"
logger = logging.getLogger("Neuron")

Hook = Callable[["NeuronApplicationBase"], None]


def normalize_path(path: str | os.PathLike[str]) -> str:
    """With a slash at its end."""
    return os.path.join(os.path.normpath(path), "")


def is_compiled(model_path: str) -> bool:
    return os.path.isfile(model_path + COMPILED_MODEL_FILE_NAME)


class NeuronApplicationBase(torch.nn.Module):
    _STATE_DICT_MODEL_PREFIX = "model."
    _NEW_STATE_DICT_MODEL_PREFIX = ""

    def __init__(
        self, model_path: str, config: InferenceConfig | None = None, neuron_config: NeuronConfig | None = None
    ) -> None:
        super().__init__()
        model_path = normalize_path(model_path)
        if config is None:
            config = self.get_config_cls().load(model_path)
        if neuron_config is not None:
            config.neuron_config = neuron_config
        self.validate_config(config)
        self.config = config
        self.neuron_config: Any = config.neuron_config
        self.fused_spec_config = config.fused_spec_config
        self.on_device_sampling = self.neuron_config.on_device_sampling_config is not None
        self.model_path = model_path
        self.models: list[Any] = []
        self.traced_model: Any = None
        self.is_compiled = is_compiled(model_path)
        self.is_loaded_to_neuron = False
        self._builder: ModelBuilder | None = None
        record("application", name=type(self).__name__, model_path=model_path)

    def get_builder(self, debug: bool = False) -> Any:
        if self._builder is None:
            flags = self.neuron_config
            self._builder = ModelBuilder(
                router=None,
                tp_degree=flags.tp_degree,
                pp_degree=flags.pp_degree,
                ep_degree=flags.ep_degree,
                world_size=flags.world_size,
                start_rank_id=flags.start_rank_id,
                local_ranks_size=flags.local_ranks_size,
                checkpoint_loader=self.checkpoint_loader_fn,
                compiler_workdir=os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"),
                debug=debug,
                num_cores_per_group=self.config.num_cores_per_group,
                logical_nc_config=flags.logical_nc_config,
                weights_to_skip_layout_optimization=flags.weights_to_skip_layout_optimization,
            )
            for model in self.models:
                self._builder.add(model.tag, self._described(), model.compiler_args)
        return self._builder

    def _described(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
        config = {key: value for key, value in to_dict(self.config).items() if key != "neuron_config"}
        flags = {**vars(self.neuron_config), "torch_dtype": str(self.neuron_config.torch_dtype).removeprefix("torch.")}
        return config, flags, to_dict(self.neuron_config.on_device_sampling_config)

    def forward(self, **kwargs: Any) -> Any:
        raise NotImplementedError("forward is each model's own")

    @classmethod
    def validate_config(cls, config: InferenceConfig) -> None:
        if not hasattr(config, "neuron_config"):
            raise ValueError("the configuration has no NeuronConfig")

    @classmethod
    def get_config_cls(cls) -> type[InferenceConfig]:
        raise NotImplementedError("get_config_cls is each model's own")

    @classmethod
    def get_neuron_config_cls(cls) -> type[NeuronConfig]:
        return cls.get_config_cls().get_neuron_config_cls()

    def get_compiler_args(self) -> str | None:
        return None

    def shard_weights(
        self, compiled_model_path: str, debug: bool = False, pre_shard_weights_hook: Hook | None = None
    ) -> None:
        compiled_model_path = normalize_path(compiled_model_path)
        folder = os.path.join(compiled_model_path, "weights/")
        if pre_shard_weights_hook:
            pre_shard_weights_hook(self)
        flags = self.neuron_config
        record("shard_weights", path=compiled_model_path, skip=flags.skip_sharding, save=flags.save_sharded_checkpoint)
        if flags.skip_sharding:
            logger.info("no sharding: skip_sharding")
        elif not flags.save_sharded_checkpoint:
            logger.info("no sharding now, but at each load")
        else:
            self.get_builder(debug).shard_checkpoint(serialize_path=folder)
            if hlo_utils.NXD_LAYOUT_TRANSFORMATION_OPTIONS in os.environ:
                self.get_builder(debug).transform_weight_layout_with_overriden_option(sharded_checkpoint_dir=folder)

    def compile(
        self,
        compiled_model_path: str,
        debug: bool = False,
        pre_shard_weights_hook: Hook | None = None,
        dry_run: bool = False,
        disable_fail_fast: bool = False,
    ) -> None:
        compiled_model_path = normalize_path(compiled_model_path)
        record("compile", path=compiled_model_path, environment=_neuron_environment())
        self.config.save(compiled_model_path)
        traced_model = self.get_builder(debug).trace(initialize_model_weights=False, dry_run=dry_run)
        self.config.save(self.get_builder().compiler_workdir)
        if dry_run:
            return
        torch.jit.save(traced_model, compiled_model_path + COMPILED_MODEL_FILE_NAME)  # type: ignore[no-untyped-call]
        del traced_model
        self.shard_weights(compiled_model_path, debug, pre_shard_weights_hook)
        self.is_compiled = True

    def load(
        self,
        compiled_model_path: str,
        start_rank_id: int | None = None,
        local_ranks_size: int | None = None,
        skip_warmup: bool = False,
    ) -> None:
        compiled_model_path = normalize_path(compiled_model_path)
        record(
            "load",
            path=compiled_model_path,
            start_rank_id=start_rank_id,
            local_ranks_size=local_ranks_size,
            skip_warmup=skip_warmup,
            environment=_neuron_environment(),
        )
        set_env_vars(self.neuron_config)
        self.traced_model = torch.jit.load(compiled_model_path + COMPILED_MODEL_FILE_NAME)  # type: ignore[no-untyped-call]
        self.load_weights(compiled_model_path, start_rank_id=start_rank_id, local_ranks_size=local_ranks_size)
        if self.neuron_config.torch_dtype != torch.float32:
            self.to(self.neuron_config.torch_dtype)
        for model_wrapper in self.models:
            model_wrapper.model = self.traced_model
        self.is_loaded_to_neuron = True
        if not self.neuron_config.skip_warmup and not skip_warmup:
            self.warmup()
        else:
            logger.info("no warm-up")

    def warmup(self) -> None:
        """Each submodel once; what goes wrong is only warned about."""
        start = time.monotonic()
        record("warmup")
        for model in self.models:
            for example in model.input_generator():
                try:
                    with executing():
                        model.model.nxd_model.forward(example)
                except RuntimeError as error:
                    named = re.findall("RuntimeError:.*Error", str(error))
                    logger.warning("%s in the warm-up of %s is ignored", (named or ["RuntimeError"])[-1], model.tag)
        logger.info("warm-up took %s s", time.monotonic() - start)

    def load_weights(
        self, compiled_model_path: str, start_rank_id: int | None = None, local_ranks_size: int | None = None
    ) -> None:
        """`save_sharded_checkpoint` alone decides between rank files and sharding again."""
        compiled_model_path = normalize_path(compiled_model_path)
        if self.traced_model is None:
            raise ValueError("load_weights before load")
        flags = self.neuron_config
        start = flags.start_rank_id if start_rank_id is None else start_rank_id
        count = flags.local_ranks_size if local_ranks_size is None else local_ranks_size
        record(
            "load_weights", path=compiled_model_path, start=start, count=count, from_files=flags.save_sharded_checkpoint
        )
        if flags.save_sharded_checkpoint:
            names = [f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in range(start, start + count)]
            weights = [load_file(os.path.join(compiled_model_path, name)) for name in names]
        else:
            weights = self.get_builder().shard_checkpoint()
        start_rank_tensor = torch.tensor([start], dtype=torch.int32, device="cpu")
        self.traced_model.nxd_model.initialize(weights, start_rank_tensor)

    def checkpoint_loader_fn(self, mmap: bool = False) -> dict[str, torch.Tensor]:
        """Of the path that the configuration names where that exists, else of the application's own."""
        path = getattr(self.config, "_name_or_path", None)
        if path is None or not os.path.exists(path):
            path = self.model_path
        if self.neuron_config.quantized:
            path = self.neuron_config.quantized_checkpoints_path
            if not os.path.exists(path):
                raise FileNotFoundError(f"there is no quantized checkpoint at {path}")
        record("checkpoint", path=path)
        state = self.get_state_dict(path, self.config)
        wanted = self.neuron_config.torch_dtype
        if wanted != torch.float32 and self.neuron_config.cast_type == "config":
            for name, tensor in state.items():
                if torch.is_floating_point(tensor) and tensor.dtype != wanted:
                    warnings.warn(f"{name} is {tensor.dtype} and becomes {wanted}", stacklevel=2)
        return state

    @classmethod
    def save_quantized_state_dict(cls, model_path: str, config: InferenceConfig) -> None:
        """For hours, with a model of some size."""
        flags: Any = config.neuron_config
        record("save_quantized_state_dict", path=flags.quantized_checkpoints_path)

    @classmethod
    def get_state_dict(cls, model_name_or_path: str, config: InferenceConfig) -> dict[str, torch.Tensor]:
        """Tensors by their names in the checkpoint, `model.safetensors` before an index."""
        folder = Path(model_name_or_path)
        single = folder / "model.safetensors"
        files = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"there is no checkpoint in {folder}")
        return {name: tensor for file in files for name, tensor in load_file(file).items()}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def reset(self) -> None:
        pass


def _neuron_environment() -> dict[str, str]:
    prefixes = ("NEURON_", "BASE_COMPILE_WORK_DIR", "TMPDIR", "NXD_")
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
