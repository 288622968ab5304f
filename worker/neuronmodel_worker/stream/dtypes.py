"""How numpy holds the element types of safetensors files."""

from typing import Any

import ml_dtypes
import numpy as np

VALUES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I32": np.dtype(np.int32),
}
"""As numbers, to compute with."""

STORAGE: dict[str, np.dtype[Any]] = {**VALUES, "BF16": np.dtype(np.uint16)}
"""As held in memory: the types that `torch.from_numpy` takes."""
