"""Chooses the next token with temperature, top-k and top-p, with one random generator for each answer."""

import torch

from neuronmodel_worker.engines.interface import Sampling
from neuronmodel_worker.engines.logit_checks import check_finite


class Sampler:
    """The sampler of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed & (2**63 - 1))

    def choose(self, logits_V: torch.Tensor) -> int:  # noqa: N803
        if self._sampling.temperature == 0 or self._sampling.top_k == 1:
            return int(logits_V.argmax())
        sorted_V, tokens_V = torch.sort(logits_V / self._sampling.temperature, descending=True)  # noqa: N806
        kept_V = torch.softmax(self._cut(sorted_V), dim=-1)  # noqa: N806
        return int(tokens_V[torch.multinomial(kept_V, 1, generator=self._generator)])

    def _cut(self, sorted_V: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """The sorted logits with minus infinity for all but the likeliest tokens that together reach top_p, and the
        likeliest top_k."""
        before_V = torch.softmax(sorted_V, dim=-1).cumsum(-1).roll(1)  # noqa: N806
        before_V[0] = 0.0
        dropped_V = before_V >= self._sampling.top_p  # noqa: N806
        dropped_V[0] = False
        if self._sampling.top_k is not None:
            dropped_V[self._sampling.top_k :] = True
        return sorted_V.masked_fill(dropped_V, float("-inf"))


class CheckedGreedy:
    """The sampler of a warm-up, which checks the logits."""

    def choose(self, logits_V: torch.Tensor) -> int:  # noqa: N803
        """Raises LogitsNotFinite."""
        check_finite(logits_V, masked=True)
        return int(logits_V.argmax())
