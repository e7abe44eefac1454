"""The SDK of OpenTelemetry with exporters that keep everything, set up once in a process: its API takes no second one.

It is loaded when a test asks for it, so that whatever is tested before runs without.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Recorded:
    """Spans that have ended, and what was counted since it was asked last."""

    def __init__(self) -> None:
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        trace.set_tracer_provider(provider)
        self.api = trace
        since: dict[type, AggregationTemporality] = dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)
        self._reader = InMemoryMetricReader(preferred_temporality=since)
        metrics.set_meter_provider(MeterProvider([self._reader]))

    def clear(self) -> None:
        """Forget what was recorded."""
        self._spans.clear()
        self._reader.get_metrics_data()

    @property
    def spans(self) -> "list[ReadableSpan]":
        """Those that have ended, in this order."""
        return list(self._spans.get_finished_spans())

    def named(self, name: str) -> "list[ReadableSpan]":
        """The spans of that name, or whose name begins with it and a space."""
        return [span for span in self.spans if span.name.split(" ")[0] == name]

    def counted(self) -> dict[str, list[Any]]:
        """The points of each metric."""
        found: dict[str, list[Any]] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found

    def text(self) -> str:
        """Everything that was exported."""
        return "\n".join([*(span.to_json() for span in self.spans), str(self.counted())])


@contextmanager
def recording() -> Iterator[Recorded]:
    """What is recorded in the block; what is tested after it runs without, as if the program had not loaded the API."""
    recorded = _recorded()
    sys.modules["opentelemetry.trace"] = recorded.api
    recorded.clear()
    try:
        yield recorded
    finally:
        del sys.modules["opentelemetry.trace"]
        recorded.clear()


@cache
def _recorded() -> Recorded:
    """That of this process."""
    return Recorded()


def said(span: "ReadableSpan") -> dict[str, Any]:
    """What is said of a span."""
    return dict(span.attributes or {})


def trace_of(span: "ReadableSpan") -> int:
    """The trace that a span is part of."""
    return _name(span)[0]


def below(span: "ReadableSpan", parent: "ReadableSpan") -> bool:
    """Whether one span is directly below the other."""
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == _name(parent)


def carries(header: str, span: "ReadableSpan") -> bool:
    """Whether a `traceparent` names the span, and says that it is recorded."""
    _, trace_id, span_id, flags = header.split("-")
    return (int(trace_id, 16), int(span_id, 16)) == _name(span) and int(flags, 16) & 1 == 1


def _name(span: "ReadableSpan") -> tuple[int, int]:
    assert span.context
    return span.context.trace_id, span.context.span_id
