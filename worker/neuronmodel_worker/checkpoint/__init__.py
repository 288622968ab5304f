"""Hugging Face checkpoints, read from config.json and the headers of the safetensors files alone.

No weight is read here. A header is accepted only if the safetensors library accepts it: whatever that library refuses
is refused, with a sentence that names the file. Where a folder is no such checkpoint, the refusal says what it is.
"""

from neuronmodel_worker.checkpoint.causal_lm import require_causal_lm
from neuronmodel_worker.checkpoint.checkpoint import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, Checkpoint, open_checkpoint
from neuronmodel_worker.checkpoint.file_signatures import WrongContent, identify_content
from neuronmodel_worker.checkpoint.files import refuse_wrong_content
from neuronmodel_worker.checkpoint.generation_config import GENERATION_FILE, read_generation_config
from neuronmodel_worker.checkpoint.header import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    TensorSource,
    header_digest,
    read_header,
    read_source_header,
)
from neuronmodel_worker.checkpoint.tensor_names import explain_other_names, explain_tied_names
from neuronmodel_worker.checkpoint.unsupported import refuse_quantized, refuse_unsupported

__all__ = [
    "CONFIG_FILE",
    "DTYPE_BITS",
    "GENERATION_FILE",
    "INDEX_FILE",
    "MAX_HEADER_BYTES",
    "SINGLE_FILE",
    "Checkpoint",
    "TensorSource",
    "WrongContent",
    "explain_other_names",
    "explain_tied_names",
    "header_digest",
    "identify_content",
    "open_checkpoint",
    "read_generation_config",
    "read_header",
    "read_source_header",
    "refuse_quantized",
    "refuse_unsupported",
    "refuse_wrong_content",
    "require_causal_lm",
]
