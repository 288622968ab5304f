from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Values = Sequence[float] | float


def prepare_sampling_params(
    batch_size: int, top_k: Values = 1, top_p: Values = 1.0, temperature: Values = 1.0
) -> Tensor:
    """[B, 3]: top_k, top_p, temperature."""
    columns = []
    for given in (top_k, top_p, temperature):
        values = list(given) if isinstance(given, Sequence) else [given]
        assert len(values) in (1, batch_size), f"{len(values)} values for {batch_size} lines"
        columns.append(torch.tensor(values * (batch_size // len(values)), dtype=torch.float32))
    return torch.stack(columns, dim=1)


def validate_sampling_params(params: Tensor, on_device_sampling_config: Any) -> None:
    """Raises ValueError for a top_k beyond what the graph looks at."""
    assert params.shape[1] == 3
    if (params[:, 0] > on_device_sampling_config.global_topk).any():
        raise ValueError(f"top_k is beyond global_topk, {on_device_sampling_config.global_topk}")


class Sampler(torch.nn.Module):
    """On the processor, for a graph that gives logits."""

    def __init__(self, neuron_config: Any, do_sample: bool = True) -> None:
        super().__init__()
        self.neuron_config = neuron_config
        self.do_sample = do_sample

    def forward(self, logits: Tensor, sampling_params: Tensor) -> Tensor:
        if not self.do_sample:
            return logits.argmax(dim=-1)
        return torch.multinomial(torch.softmax(logits, dim=-1), 1).squeeze(1)
