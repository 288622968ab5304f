"""One prompt at a time, then a token for all that run: each sequence in its own line of a contiguous cache."""

from collections.abc import Mapping
from typing import Any

import torch
from neuronx_distributed_inference.modules.generation.sampling import prepare_sampling_params
from vllm.config import VllmConfig

from vllm_neuron.worker.neuronx_distributed_model_loader import get_neuron_model, sampled

MOST_TOP_K = 256


class NeuronWorker:
    def __init__(self, vllm_config: VllmConfig) -> None:
        self._config = vllm_config

    def load_model(self) -> None:
        config = self._config
        self._model = get_neuron_model(
            config.model_config,
            config.cache_config,
            config.parallel_config,
            config.scheduler_config,
            config.additional_config,
        )
        compiled = self._model.neuron_config.max_context_length
        wanted = config.model_config.max_prompt_length
        if wanted is not None and wanted != compiled:
            raise RuntimeError(f"max_prompt_length is {wanted}, and the model was compiled for {compiled}")

    @torch.inference_mode()
    def execute_model(self, running: Mapping[int, Any]) -> dict[int, int]:
        """The next token of each sequence by its slot: of those that have none yet of one alone."""
        new = [slot for slot, sequence in running.items() if not sequence.tokens][:1]
        if new:
            prompt = running[new[0]].prompt
            return self._step(running, new, torch.tensor([prompt]), torch.arange(len(prompt)).view(1, -1))
        slots = sorted(running)
        last = torch.tensor([[running[slot].tokens[-1]] for slot in slots])
        places = [[len(running[slot].prompt) + len(running[slot].tokens) - 1] for slot in slots]
        return self._step(running, slots, last, torch.tensor(places))

    def _step(self, running: Mapping[int, Any], slots: list[int], input_ids: Any, position_ids: Any) -> dict[int, int]:
        wishes = [running[slot].sampling for slot in slots]
        params = prepare_sampling_params(
            len(slots),
            [
                1 if wish["temperature"] == 0 else MOST_TOP_K if wish["top_k"] == -1 else wish["top_k"]
                for wish in wishes
            ],
            [wish["top_p"] for wish in wishes],
            [wish["temperature"] or 1.0 for wish in wishes],
        )
        output = self._model.forward(input_ids, torch.tensor(slots), position_ids=position_ids, sampling_params=params)
        if self._model.neuron_config.on_device_sampling_config:
            return dict(zip(slots, (int(token) for token in output), strict=True))
        temperatures = [wish["temperature"] for wish in wishes]
        return {slot: sampled(line, warm) for slot, line, warm in zip(slots, output, temperatures, strict=True)}
