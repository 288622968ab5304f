"""Checks of the logits of a warm-up."""

import torch

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.failures import BadInput


class LogitsNotFinite(BadInput):
    """The model would give wrong answers, or none."""

    reason = Reason.LOGITS_NOT_FINITE


def check_finite(logits: torch.Tensor, *, masked: bool = False) -> None:
    """Raises LogitsNotFinite for NaN and infinity. With `masked` some may be minus infinity, as those of suppressed
    tokens are, but not all."""
    infinite = logits.isinf()
    if masked and not bool(infinite.all()):
        infinite = logits.isposinf()
    nan, infinities = int(logits.isnan().sum()), int(infinite.sum())
    if nan or infinities:
        raise LogitsNotFinite(
            f"The logits of the warm-up are not finite: of {logits.numel():,}, {nan:,} are NaN and {infinities:,} "
            "infinite. Weights of the checkpoint are NaN or infinite, or its numbers overflow in the type that it is "
            "computed in. Use a sound checkpoint, or set torch_dtype to bfloat16 or float32 in "
            "spec.compile."
        )
