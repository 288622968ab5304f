"""The operator's own metrics; those of the models are at each worker's /metrics."""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Verdicts = tuple[tuple[str, str], ...]
"""Conditions of one NeuronModel and their status."""


class Metrics:
    """Holds counters, and computes the other metrics when it is scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "neuronmodel_operator_reconciles", "Passes over a NeuronModel.", ["outcome"], registry=self.registry
        )
        """outcome: Done, Failed, Gone."""
        self.seconds = Histogram(
            "neuronmodel_operator_reconcile_duration_seconds",
            "One pass over a NeuronModel.",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.errors = Counter("neuronmodel_operator_errors", "Passes that failed.", ["kind"], registry=self.registry)
        """kind: the API server's reason (Conflict, NoAnswer, …) or the name of an exception of ours."""
        self.report_errors = Counter(
            "neuronmodel_operator_report_errors",
            "Questions to a worker without an answer that counts.",
            ["reason"],
            registry=self.registry,
        )
        self.calls = Counter(
            "neuronmodel_operator_api_calls",
            "Requests to the API server beside watches, code 0: no answer.",
            ["verb", "kind", "code"],
            registry=self.registry,
        )

    def show_readiness(self, is_ready: Callable[[], bool]) -> None:
        gauge = Gauge("neuronmodel_operator_ready", "Whether /readyz says so.", registry=self.registry)
        gauge.set_function(is_ready)

    def count_call(self, verb: str, kind: str, code: int) -> None:
        self.calls.labels(verb, kind, str(code)).inc()

    def count_report_error(self, reason: str) -> None:
        self.report_errors.labels(reason).inc()

    def show_mirrors(self, sizes: Callable[[], Collection[tuple[str, int, int]]]) -> None:
        """Adds what is remembered of children to later scrapes: kind, objects and bytes."""
        self.registry.register(_Mirrors(sizes))

    def show_watches(self, ages: Callable[[], Mapping[str, float]]) -> None:
        """Adds how long each watch has been silent to later scrapes: seconds by kind."""
        self.registry.register(_Watches(ages))

    def follow(
        self,
        verdicts: Callable[[], Collection[Verdicts]],
        overdue_seconds: Callable[[], float],
        num_waiting: Callable[[], int],
    ) -> None:
        """Adds the models by condition, how late the latest pass is and how many wait for theirs to later scrapes."""
        self.registry.register(_State(verdicts, overdue_seconds, num_waiting))


class _State(Collector):
    def __init__(
        self,
        verdicts: Callable[[], Collection[Verdicts]],
        overdue_seconds: Callable[[], float],
        num_waiting: Callable[[], int],
    ) -> None:
        self._verdicts = verdicts
        self._overdue_seconds = overdue_seconds
        self._num_waiting = num_waiting

    def collect(self) -> Iterator[GaugeMetricFamily]:
        models = self._verdicts()
        tally = Tally(chain.from_iterable(models))
        by_condition = GaugeMetricFamily(
            "neuronmodel_operator_models", "NeuronModels by condition and its status.", labels=["condition", "status"]
        )
        for (condition, status), count in sorted(tally.items()):
            by_condition.add_metric([condition, status], count)
        yield by_condition
        yield GaugeMetricFamily("neuronmodel_operator_followed_models", "NeuronModels followed.", value=len(models))
        yield GaugeMetricFamily(
            "neuronmodel_operator_overdue_seconds",
            "How late the latest pass is; 0: none is.",
            value=self._overdue_seconds(),
        )
        yield GaugeMetricFamily(
            "neuronmodel_operator_waiting_models",
            "NeuronModels whose pass is due and waits for its turn.",
            value=self._num_waiting(),
        )


class _Mirrors(Collector):
    def __init__(self, sizes: Callable[[], Collection[tuple[str, int, int]]]) -> None:
        self._sizes = sizes

    def collect(self) -> Iterator[GaugeMetricFamily]:
        objects = GaugeMetricFamily(
            "neuronmodel_operator_mirrored_objects", "Children that are remembered.", labels=["kind"]
        )
        taken = GaugeMetricFamily("neuronmodel_operator_mirrored_bytes", "What they take, compressed.", labels=["kind"])
        for kind, num_objects, num_bytes in sorted(self._sizes()):
            objects.add_metric([kind], num_objects)
            taken.add_metric([kind], num_bytes)
        yield from (objects, taken)


class _Watches(Collector):
    def __init__(self, ages: Callable[[], Mapping[str, float]]) -> None:
        self._ages = ages

    def collect(self) -> Iterator[GaugeMetricFamily]:
        age = GaugeMetricFamily(
            "neuronmodel_operator_watch_age_seconds", "For how long a watch has been silent.", labels=["kind"]
        )
        for kind, seconds in sorted(self._ages().items()):
            age.add_metric([kind], seconds)
        yield age
