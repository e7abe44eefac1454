"""What `_otel` does where OpenTelemetry is loaded. Only this module and `_tale` import it, and they are imported late."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from yandexart_grpc._otel import Attributes
from yandexart_grpc._version import __version__

TRACER = trace.get_tracer("yandexart_grpc", __version__)
"""Makes spans with whatever SDK is set up, also where that is later than this."""

current = trace.get_current_span
_W3C = TraceContextTextMapPropagator()


@contextmanager
def opened(name: str, attributes: Attributes, kind: str, headers: Mapping[str, str] | None) -> Iterator[None]:
    """`_otel.span`."""
    parent = None if headers is None else propagate.extract(headers, Context())
    told = current(parent).get_span_context()
    if not told.is_valid or told.trace_id == current().get_span_context().trace_id:
        parent = None  # which is the current one
    with TRACER.start_as_current_span(
        name, parent, SpanKind[kind], attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            fail(span, type(error).__name__)
            raise


def fail(span: Span, kind: str) -> None:
    """Say how what the span is about ended."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def headers_of(context: Context | None) -> tuple[tuple[str, str], ...]:
    """What carries a context on, with names as gRPC wants them; None is the current context."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return tuple([(name.lower(), value) for name, value in carrier.items()])


def traceparent_of() -> str:
    """`_otel.traceparent`."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent", "")
