"""The figures of the worker's own server under the names, labels and meanings that vLLM gives them, so that dashboards
and autoscalers made for vLLM show them. They are those of VLLM_VERSION; a server that is vLLM has its own."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

VLLM_VERSION: Final = "0.29.0"
"""The version whose names these are; `tests/vllm` compares them with those of a real one."""
ENGINE: Final = "0"
"""vLLM numbers its engines; this server has one."""
_LABELS: Final = ("model_name", "engine")
_SECONDS: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_TOKENS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class VllmMetrics:
    """The metrics of one server, which serves `model_name`."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self._registry = registry
        self._values = (model_name, ENGINE)
        self.running = self._gauge("num_requests_running", "Requests that are being computed")
        self.waiting = self._gauge("num_requests_waiting", "Requests that wait to be computed")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self.generated_tokens = self._counter("generation_tokens", "Tokens of answers")
        self._ended = Counter(
            "vllm:request_success", "Answers that have ended", (*_LABELS, "finished_reason"), registry=registry
        )
        self.first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token", _SECONDS
        )
        self.between_tokens_seconds = self._histogram(
            "inter_token_latency_seconds", "From one token of an answer to the next", _SECONDS
        )
        self.answer_seconds = self._histogram(
            "e2e_request_latency_seconds", "From a request's arrival to the end of its answer", _SECONDS
        )
        self.queue_seconds = self._histogram("request_queue_time_seconds", "Time that a request waited", _SECONDS)
        self.tokens_of_prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt", _TOKENS)
        self.tokens_of_answer = self._histogram("request_generation_tokens", "Tokens of an answer", _TOKENS)

    def ended(self, reason: str) -> None:
        """Counts an answer; `reason` is stop, length or abort."""
        self._ended.labels(*self._values, reason).inc()

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*self._values)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*self._values)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vllm:{name}", text, _LABELS, buckets=buckets, registry=self._registry).labels(*self._values)
