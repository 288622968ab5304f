"""The operators that a traced model calls, as torch-neuronx brings them: what they "load" stays in host memory.

A traced model cannot be opened before they are registered, just as the real one. Each has a result that is used:
TorchScript leaves out what has none.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from . import machine
from .failures import INITIALIZATION, happens, runtime_says
from .record import is_wanted, record

Shard = Mapping[str, torch.Tensor]

# What stands for the devices leaves the processors to others: threads that wait for each other where many models share
# them take a hundred times as long.
torch.set_num_threads(1)


def executing() -> Any:
    """A context: without TorchScript's optimizations, which take longer than the few tokens of a test."""
    return torch.jit.optimized_execution(False)  # type: ignore[attr-defined]


_library: Any = torch.library.Library("neuron", "DEF")  # type: ignore[no-untyped-call]
_library.define("_parallel_load(Dict(str, Tensor)[] checkpoint) -> Dict(str, Tensor)[]")
_library.define("_load_neff(int logical_core_config, int version, int cores) -> int")
_library.define("_state(int count, int[] size, ScalarType dtype) -> Tensor[]")
_library.define("_execute(Tensor input_ids) -> Tensor")


def parallel_load(checkpoint: Sequence[Shard]) -> list[dict[str, torch.Tensor]]:
    """Copies to the devices; nothing of names, shapes or dtypes is looked at."""
    _claim(len(checkpoint))
    if is_wanted():
        record("initialize", shards=[{name: described(tensor) for name, tensor in rank.items()} for rank in checkpoint])
    largest = max((sum(tensor.nbytes for tensor in rank.values()) for rank in checkpoint), default=0)
    if happens("device-memory") or largest > machine.core_bytes():
        runtime_says("TDRV:dmem_alloc_internal", f"Failed to alloc DEVICE memory: {largest}")
        raise RuntimeError('nrt_tensor_allocate status=4 message="Allocation Failure"')
    if happens("host-memory"):
        raise RuntimeError('nrt_tensor_allocate status=11 message="NRT_FAIL_HOST_MEM_ALLOC"')
    return [{name: tensor.clone() for name, tensor in rank.items()} for rank in checkpoint]


def load_neff(logical_core_config: int, version: int, cores: int) -> int:
    if happens("neff-version") or version != machine.NEFF_VERSION:
        runtime_says(
            "NEFF:neff_parse", f"NEFF version mismatch supported: {machine.NEFF_VERSION}.0 received: {version}.1"
        )
        raise RuntimeError("nrt_load_collectives status=10")
    if happens("logical-cores") or logical_core_config != machine.logical_core_config():
        of_runtime = machine.logical_core_config()
        runtime_says(
            "NRT:nrt_load_util",
            f"Logical NeuronCore config of NEFF ({logical_core_config}) and runtime ({of_runtime}) differ",
        )
        raise RuntimeError("nrt_load_collectives status=2")
    if happens("hardware"):
        runtime_says("NRT:nrt_infodump", "HBM uncorrectable error on nd0")
        raise RuntimeError("nrt_load_collectives status=1201")
    if happens("runtime-unknown"):
        raise RuntimeError('nrt_load_collectives status=1 message="Non specific failure"')
    return cores


def state(count: int, size: Sequence[int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Key/value caches; an operator of its own, as TorchScript shares two `torch.zeros` of one shape."""
    return [torch.zeros(list(size), dtype=dtype) for _ in range(count)]


def execute(input_ids: torch.Tensor) -> torch.Tensor:
    if happens("warmup"):
        raise RuntimeError('nrt_execute status=101 message="NRT_EXEC_UNIT_UNRECOVERABLE"')
    return input_ids.clone()


def described(tensor: torch.Tensor) -> list[object]:
    """Dtype, shape and digest, as the golden files name them."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(data).hexdigest()[:24]]


def _claim(cores: int) -> None:
    if happens("no-device") or machine.devices() == 0:
        runtime_says("TDRV:tdrv_get_dev_info", "No neuron device available")
        raise RuntimeError("Neuron runtime cannot be initialized; cannot determine the number of available NeuronCores")
    if happens("cores-busy"):
        size = machine.logical_core_config()
        message = f"Logical Neuron Core(s) not available - Requested:{cores} Available:0 Logical Core size:{size}"
        runtime_says("NRT:nrt_allocate_neuron_cores", message)
        raise RuntimeError(INITIALIZATION)
    if cores > machine.visible_cores():
        runtime_says("NRT:nrt_load", f"Not enough NC: {cores} > {machine.visible_cores()}")
        raise RuntimeError("nrt_load_collectives status=9")


for name, function in (
    ("_parallel_load", parallel_load),
    ("_load_neff", load_neff),
    ("_state", state),
    ("_execute", execute),
):
    _library.impl(name, function, "CompositeExplicitAutograd")
