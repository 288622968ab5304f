"""Constants that cannot be derived from a plan, each with its source. docs/sizing.md explains them to users.

"Device memory" is the page of that name in AWS's Neuron documentation (Neuron Runtime). An allowance is our own
estimate, because no figure is published. Allowances of device memory are low, since a model that does not fit is
refused.
"""

from typing import Final

from neuronmodel_api.config import Engine
from neuronmodel_api.machines import GIB

MIB: Final = 1 << 20

FRAMEWORK_BYTES: Final = {Engine.CPU: 640 * MIB, Engine.NEURON: 4 * GIB}
"""Host memory of libraries, tokenizer and server. CPU: measured, 237 MiB with PyTorch, 55 MiB with transformers and a
vocabulary of 49,000 tokens (175 MiB with one of 152,000); activations have to fit too. Neuron: allowance for PyTorch,
the SDK and the compiled model's programs."""
RUNTIME_BYTES_A_CORE: Final = 128 * MIB
"""Host memory of the Neuron Runtime per logical core: allowance."""

VLLM_BYTES: Final = 4 * GIB
"""Additional host memory of vLLM's processes: allowance."""
VLLM_BYTES_A_RANK: Final = 1 * GIB
"""Host memory of each of vLLM's processes that compute on processors, without weights and cache: 0.9 GiB were measured
with vLLM 0.24."""
VLLM_SHARED_BYTES: Final = 2 * GIB
"""Shared memory: the sizeLimit in the Kubernetes example of vLLM's documentation. The container runtime's default is 64
MB. No public source says that the Neuron Runtime needs any within one process."""

WORK_BYTES: Final = {Engine.CPU: 64 * MIB, Engine.NEURON: 16 * GIB}
"""Scratch volume. CPU: only small files were seen. Neuron: allowance for the compiler's work folder, its cache, logs,
and temporary files of the SDK."""

MICROCODE_BYTES_A_PHYSICAL_CORE: Final = 96 * MIB
""""Device memory": 96 MB per physical core, part of "model code"."""
SCRATCHPAD_PAGE_MIB: Final = 512
""""Device memory": the scratchpad is allocated in pages of 512 MB unless another size is set; this is one page."""
RINGS_AND_COLLECTIVES_BYTES: Final = GIB
"""Allowance for DMA rings, collectives and the programs' own code. Out-of-memory reports on Inferentia 2 show more: 1.5
GB of rings, 0.4 GB of collectives, 0.4 GB of code (transformers-neuronx issue 92, Llama 3 70B); 6.5 GB of rings, 0.5 GB
of collectives, 0.1 GB of code (issue 49, Llama 2). Transfers whose descriptors Trainium 2 generates itself need no
rings."""
