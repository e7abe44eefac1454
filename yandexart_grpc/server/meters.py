"""What is counted of operations, by a meter of OpenTelemetry (docs/telemetry.md). No prompt and no caller is told.

It goes to the SDK that the operator has set up, and with `--metrics` to a page for Prometheus.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from yandexart_grpc._otel import BOUNDS, READS, about
from yandexart_grpc._version import __version__
from yandexart_grpc.errors import ConfigurationError, Unavailable
from yandexart_grpc.failures import class_of
from yandexart_grpc.server.callers import ANYBODY
from yandexart_grpc.server.events import Observer
from yandexart_grpc.server.operations import Operations
from yandexart_grpc.server.store import Left, Row
from yandexart_grpc.server.workers import Workers
from yandexart_grpc.stubs import Status

LOOK = 15.0
"""Seconds from one look at the quotas in the store to the next."""


class Meters(Observer):
    """Counts what happens, and tells how things stand whenever it is asked, for all servers that are given to it."""

    def __init__(self, meter: Meter) -> None:
        self._servers: dict[Workers, list[Left]] = {}
        """Who works, and what is left of the quotas there."""
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            "Seconds from an operation being accepted to its end.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        self._lag = meter.create_histogram(
            "yandexart.server.lag",
            "s",
            "Seconds from the end of an operation to the first answer that told it.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        self._reads = meter.create_histogram(
            "yandexart.server.reads", "{read}", "Reads until an operation was done.", explicit_bucket_boundaries_advisory=READS
        )
        self._outcomes = meter.create_counter("yandexart.server.outcomes", "{image}", "Operations that ended, by class of error.")
        meter.create_observable_gauge(
            "yandexart.server.queue",
            [self._sum(lambda workers: workers.waiting)],
            "{image}",
            "Operations that wait for their turn; on PostgreSQL, of all servers.",
        )
        meter.create_observable_gauge(
            "yandexart.server.in_flight",
            [self._sum(lambda workers: workers.running)],
            "{image}",
            "Operations that are worked on here.",
        )
        meter.create_observable_gauge(
            "yandexart.server.quota.left", [self._quotas], "{image}", "Images that a folder may still buy, by quota."
        )

    @asynccontextmanager
    async def watching(self, operations: Operations, workers: Workers, *, quotas: bool) -> AsyncIterator[None]:
        """Tell how things stand with them until the block ends; `quotas` is whether there are any to look after."""
        self._servers[workers] = []
        looking = asyncio.create_task(self._look(operations, workers)) if quotas else None
        try:
            yield
        finally:
            if looking:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            del self._servers[workers]

    def ended(self, row: Row) -> None:
        known = about(row.request.model_uri)
        error = class_of(row.outcome).__name__ if isinstance(row.outcome, Status) else None
        self._outcomes.add(1, known | {"yandexart.outcome": error or "image"})
        took = max(0.0, (row.ended or row.created) - row.created)  # another machine may have accepted it
        self._duration.record(took, known | ({"error.type": error} if error else {}))

    def handed(self, row: Row, lag: float, reads: int) -> None:
        known = about(row.request.model_uri)
        self._lag.record(lag, known)
        self._reads.record(reads, known)

    async def _look(self, operations: Operations, workers: Workers) -> None:
        while True:
            with suppress(Unavailable):  # then it is what it was
                self._servers[workers] = await operations.gallery.left(ANYBODY)
            await asyncio.sleep(LOOK)

    def _sum(self, count: Callable[[Workers], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """The callback of a gauge that adds up what all servers count. It is called by a thread of the SDK."""
        return lambda _: [Observation(sum(map(count, tuple(self._servers))))]

    def _quotas(self, _: CallbackOptions) -> Iterator[Observation]:
        for left in [left for lefts in tuple(self._servers.values()) for left in lefts]:
            for name, number in (("minute", left.minute), ("day", left.day)):
                if number is not None:
                    yield Observation(number, {"yandexart.folder": left.folder, "yandexart.quota": name})


@cache
def shared() -> Meters:
    """Those of the whole process, which go to whatever SDK is set up."""
    return Meters(metrics.get_meter("yandexart_grpc", __version__))


@contextmanager
def page() -> Iterator[tuple[Meters, Callable[[], bytes]]]:
    """Meters, and what makes the page of their figures for Prometheus. Raises `ConfigurationError`."""
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import REGISTRY, generate_latest
    except ImportError as error:
        needed = "pip install opentelemetry-exporter-prometheus"
        raise ConfigurationError(f"metrics: needs more packages: {needed} ({error})") from error
    provider = MeterProvider([PrometheusMetricReader()])
    try:
        yield Meters(provider.get_meter("yandexart_grpc", __version__)), lambda: generate_latest(REGISTRY)
    finally:
        provider.shutdown()
