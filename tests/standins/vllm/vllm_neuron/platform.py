"""What the platform makes of vLLM's configuration, in each process that makes one."""

import logging

from vllm.config import VllmConfig

logger = logging.getLogger("vllm")


class NeuronPlatform:
    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        cache, scheduler, model = vllm_config.cache_config, vllm_config.scheduler_config, vllm_config.model_config
        model.max_prompt_length = vllm_config.additional_config.get("max_prompt_length")
        if cache.num_gpu_blocks_override is not None and "_neuron_null_block_adjusted" not in cache.__dict__:
            cache.num_gpu_blocks_override += 1
            cache.__dict__["_neuron_null_block_adjusted"] = True
        parallel = vllm_config.parallel_config
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "vllm_neuron.worker.neuron_worker.NeuronWorker"
        if parallel.world_size > 1:
            parallel.distributed_executor_backend = "uni"
        scheduler.scheduler_cls = "vllm_neuron.core.scheduler.ContinuousBatchingNeuronScheduler"
        scheduler.enable_chunked_prefill = False
        scheduler.max_num_batched_tokens = 131072
        if not cache.enable_prefix_caching:
            cache.block_size = model.max_model_len
        else:
            assert cache.block_size is not None, "When prefix caching is enabled, block_size must be set."
