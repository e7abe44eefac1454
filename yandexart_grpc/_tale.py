"""What OpenTelemetry is told of an image that a client orders or waits for: one span, and what is counted (docs/telemetry.md).

Looks at a machine of the core from outside: what it sends, what it is answered, and how it ends. Nothing is decided here, and no
word of an error is told, because it may hold a prompt.
"""

import json
import os
import threading
from functools import lru_cache
from typing import NamedTuple

from grpc import RpcError, StatusCode
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanContext, SpanKind

from yandexart_grpc._otel import BOUNDS, OPERATION, READS, Attributes, about
from yandexart_grpc._pace import NOTED, Pace
from yandexart_grpc._spans import TRACER, fail, headers_of
from yandexart_grpc._step import Answer, Step, Steps
from yandexart_grpc._version import __version__
from yandexart_grpc._wait import finished
from yandexart_grpc.errors import YandexArtError
from yandexart_grpc.failures import class_of
from yandexart_grpc.stubs import GetOperationRequest, ImageGenerationRequest, Operation

ORDERS = "yandex.cloud.ai.foundation_models.v1.image_generation.ImageGenerationAsyncService/Generate"
WAITS = "yandex.cloud.operation.OperationService/Get"
"""The methods that order, and that read."""
CAPTURES = os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").upper() in (
    "TRUE",
    "SPAN_ONLY",
    "SPAN_AND_EVENT",
)
"""Whether somebody asked for prompts in spans, as one asks every instrumentation for GenAI."""
ABANDONED = "abandoned"
"""The outcome where nobody waits any more: the task was cancelled, or the block left."""

_meter = metrics.get_meter("yandexart_grpc", __version__)
_DURATION = _meter.create_histogram(
    "gen_ai.client.operation.duration",
    "s",
    "Seconds from the order of an image to its end.",
    explicit_bucket_boundaries_advisory=BOUNDS,
)
_LAG = _meter.create_histogram(
    "yandexart.client.lag",
    "s",
    "Seconds from an image being ready to its being received, where the server tells when it was.",
    explicit_bucket_boundaries_advisory=BOUNDS,
)
_READS = _meter.create_histogram(
    "yandexart.client.reads", "{read}", "Reads that one wait took.", explicit_bucket_boundaries_advisory=READS
)
_IN_FLIGHT = _meter.create_up_down_counter("yandexart.client.in_flight", "{image}", "Images that are ordered or waited for now.")
_OUTCOMES = _meter.create_counter(
    "yandexart.client.outcomes", "{image}", "Images that were received or failed, by class of error."
)


class _Ordered(NamedTuple):
    """What is remembered of an order, for the wait; times are on the clock of the client."""

    span: SpanContext
    born: float
    """When somebody wanted it."""
    sent: float


_lock = threading.Lock()
_ordered: dict[str, _Ordered] = {}
"""The orders that were accepted last, by operation."""


def _remember(operation_id: str, ordered: _Ordered) -> None:
    with _lock:
        _ordered[operation_id] = ordered
        if len(_ordered) > NOTED:
            del _ordered[next(iter(_ordered))]


class _Kind(NamedTuple):
    """What many images have in common."""

    span: str
    known: Attributes
    """Attributes of the metrics."""
    start: Attributes
    """Attributes with which a span begins."""


@lru_cache(1000)
def _kind(target: str, model_uri: str | None, method: str) -> _Kind:
    """That of orders, or of waits, for a model; it is not known of an operation that was picked up by id."""
    rpc = {"rpc.method": method, "rpc.system.name": "grpc"}
    found = about(model_uri or "")
    if model_uri is None:
        del found["gen_ai.request.model"]
    host, _, port = target.rpartition("/")[2].rpartition(":")
    known: Attributes = {**found, "server.address": host.strip("[]"), "server.port": int(port)}
    if method == ORDERS:
        return _Kind(f"{OPERATION} {found['gen_ai.request.model']}", known, {**known, **rpc})
    return _Kind("wait", known, {**found, **rpc})  # reads may go elsewhere than orders


def tell(steps: Steps, pace: Pace, subject: ImageGenerationRequest | str, model: str | None) -> Steps:
    """The same machine, and its tale is told."""
    tale = _Tale(pace, subject, model)
    try:
        step = next(steps)
        while True:
            if step.request is None:
                yield step
                step = steps.send(None)
                continue
            try:
                answer = yield tale.asked(step)
            except (RpcError, YandexArtError) as error:
                step = steps.throw(error)
            else:
                assert answer is not None  # drivers answer every call
                tale.heard(step, answer)
                step = steps.send(answer)
    except StopIteration as finished:
        tale.came(finished.value)
        operation: Operation = finished.value
        return operation
    except YandexArtError as error:
        name = type(error).__name__
        tale.failed(ABANDONED if name.startswith("_") else name, error.code)
        raise
    except BaseException:
        tale.failed(ABANDONED)
        raise
    finally:
        steps.close()
        tale.end()


class _Tale:
    """What there is to tell of one machine."""

    __slots__ = ("born", "headers", "held", "known", "outcome", "pace", "reads", "sent", "span", "told")

    def __init__(self, pace: Pace, subject: ImageGenerationRequest | str, model: str | None) -> None:
        self.pace = pace
        self.born: float | None = None
        self.sent: float | None = None
        self.reads, self.held = 0, False
        self.outcome: str | None = None
        """"image", or the class of an error; None where nothing has ended yet."""
        self.told: dict[str, str | bool | int | float] = {}
        """Attributes that are added at the end."""
        parent = None
        if isinstance(subject, str):
            kind = _kind(pace.target, model, WAITS)
            attributes = {**kind.start, "yandexart.operation.id": subject}
            if ordered := _ordered.get(subject):
                parent = trace.set_span_in_context(trace.NonRecordingSpan(ordered.span))
                self.born, self.sent = ordered.born, ordered.sent
        else:
            self.born = pace.now()
            kind = _kind(pace.target, subject.model_uri, ORDERS)
            attributes = {**kind.start, "gen_ai.request.seed": subject.generation_options.seed}
            if CAPTURES:
                attributes["gen_ai.input.messages"] = _messages(subject)
        self.known = kind.known
        self.span = TRACER.start_span(kind.span, parent, SpanKind.CLIENT, attributes)
        self.headers = headers_of(trace.set_span_in_context(self.span))
        _IN_FLIGHT.add(1, self.known)

    def asked(self, step: Step) -> Step:
        """A call is about to be made: what it sends carries the trace on."""
        if isinstance(step.request, GetOperationRequest):
            self.reads += 1
        elif isinstance(step.request, ImageGenerationRequest):
            if self.sent is not None:
                self.span.add_event("resent")
            self.sent = self.pace.now()
        else:
            return step
        return Step(*step[:-1], self.headers)  # `context` stands last; `_replace` takes four times as long

    def heard(self, step: Step, answer: Answer) -> None:
        """What a call brought."""
        if step.hold is not None:
            self.held = answer.holds
        elif isinstance(step.request, ImageGenerationRequest):
            self.span.add_event("submitted")
            self.told["yandexart.operation.id"] = answer.operation.id

    def came(self, operation: Operation) -> None:
        """The machine came to that operation."""
        if operation.WhichOneof("result") == "error":
            self.failed(class_of(operation.error).__name__)
        elif finished(operation):
            self.outcome = "image"
            stamps = operation.modified_at, operation.created_at
            took = stamps[0].seconds - stamps[1].seconds + (stamps[0].nanos - stamps[1].nanos) / 1e9
            if took > 0 and self.sent is not None:
                self.told["yandexart.lag"] = lag = max(0.0, self.pace.now() - self.sent - took)
                _LAG.record(lag, self.known)
        elif self.born is not None and self.sent is not None:
            _remember(operation.id, _Ordered(self.span.get_span_context(), self.born, self.sent))

    def failed(self, kind: str, code: StatusCode | None = None) -> None:
        """The machine, or the operation, ended with an error of that class."""
        self.outcome = kind
        fail(self.span, kind)
        if code is not None:
            self.told["rpc.response.status_code"] = code.name

    def end(self) -> None:
        """Tell it all."""
        if self.reads:
            self.told |= {"yandexart.reads": self.reads, "yandexart.waiting": "held" if self.held else "planned"}
        self.span.set_attributes(self.told)
        self.span.end()
        _IN_FLIGHT.add(-1, self.known)
        if self.outcome is None:
            return
        _OUTCOMES.add(1, {**self.known, "yandexart.outcome": self.outcome})
        if self.reads:
            _READS.record(self.reads, self.known)
        if self.born is not None:
            attributes = self.known if self.outcome == "image" else {**self.known, "error.type": self.outcome}
            _DURATION.record(self.pace.now() - self.born, attributes)


def _messages(request: ImageGenerationRequest) -> str:
    """The prompt, as the GenAI conventions write messages."""
    parts = [{"type": "text", "content": message.text, "weight": message.weight} for message in request.messages]
    return json.dumps([{"role": "user", "parts": parts}], ensure_ascii=False)
