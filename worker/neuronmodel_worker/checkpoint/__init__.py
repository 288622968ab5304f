"""What a Hugging Face checkpoint holds, learnt from its config.json and the headers of its safetensors files alone.

No weight is read here. A header is believed only as far as the safetensors library would believe it: whatever that
library refuses is refused, with a sentence that names the file.
"""

from neuronmodel_worker.checkpoint.folder import INDEX_FILE, SINGLE_FILE, Checkpoint, open_checkpoint
from neuronmodel_worker.checkpoint.header import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    SourceFile,
    TensorSource,
    header_digest,
    read_header,
)

__all__ = [
    "DTYPE_BITS",
    "INDEX_FILE",
    "MAX_HEADER_BYTES",
    "SINGLE_FILE",
    "Checkpoint",
    "SourceFile",
    "TensorSource",
    "header_digest",
    "open_checkpoint",
    "read_header",
]
