"""What a Hugging Face checkpoint holds, learnt from its config.json and the headers of its safetensors files alone.

No weight is read here. A header is believed only as far as the safetensors library would believe it: whatever that
library refuses is refused, with a sentence that names the file. What is no such checkpoint is told for what it is.
"""

from neuronmodel_worker.checkpoint.files import refuse_stand_ins
from neuronmodel_worker.checkpoint.folder import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, Checkpoint, open_checkpoint
from neuronmodel_worker.checkpoint.generation import GENERATION_FILE, read_generation_config
from neuronmodel_worker.checkpoint.header import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    SourceFile,
    TensorSource,
    header_digest,
    read_header,
)
from neuronmodel_worker.checkpoint.naming import ends_instead, named_instead
from neuronmodel_worker.checkpoint.purpose import refuse_what_is_not_for_language
from neuronmodel_worker.checkpoint.refused import refuse_quantized, refuse_what_is_no_text_model
from neuronmodel_worker.checkpoint.stand_ins import StandIn, recognised

__all__ = [
    "CONFIG_FILE",
    "DTYPE_BITS",
    "GENERATION_FILE",
    "INDEX_FILE",
    "MAX_HEADER_BYTES",
    "SINGLE_FILE",
    "Checkpoint",
    "SourceFile",
    "StandIn",
    "TensorSource",
    "ends_instead",
    "header_digest",
    "named_instead",
    "open_checkpoint",
    "read_generation_config",
    "read_header",
    "recognised",
    "refuse_quantized",
    "refuse_stand_ins",
    "refuse_what_is_no_text_model",
    "refuse_what_is_not_for_language",
]
