"""Spans of OpenTelemetry, and the context of a trace in headers, for programs that have loaded its API.

Nothing here loads it: whoever wants telemetry sets an SDK up, and that does. So until then all of this costs one look into the
table of modules, and what runs before the SDK is there goes on untold.
"""

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache

log = logging.getLogger("yandexart_grpc")

OLDEST = (1, 30)
"""The oldest API that has everything that is used here."""
Attributes = Mapping[str, str | bool | int | float]

PROVIDER = "yandex"
"""What the GenAI conventions call `gen_ai.provider.name`; they have no word of their own for Yandex."""
OPERATION = "generate_content"
"""Their `gen_ai.operation.name` for whatever is not text alone."""

BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
"""Bounds of the buckets of seconds: those of the GenAI conventions, and two more for images."""
READS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
"""Bounds of the buckets of reads."""

_NOTHING = nullcontext()


def is_loaded() -> bool:
    """Whether the program has loaded the API, and it is not too old."""
    return "opentelemetry.trace" in sys.modules and _is_new_enough()


def span(
    name: str, attributes: Attributes, *, kind: str = "INTERNAL", headers: Mapping[str, str] | None = None
) -> AbstractContextManager[None]:
    """A span for as long as the `with` block lasts: below the one that the headers tell of, or the current one where that is part
    of the same trace, or they tell of none.

    `kind` is a name of `SpanKind`. Of an error that ends the block, the class alone is told: its words may hold a prompt.
    """
    if not is_loaded():
        return _NOTHING
    from yandexart_grpc._spans import opened

    return opened(name, attributes, kind, headers)


def tell(attributes: Attributes, *, error: str | None = None) -> None:
    """Add to the current span; `error` is the class of the error with which what it is about has ended."""
    if is_loaded():
        from yandexart_grpc._spans import current, fail

        current().set_attributes(attributes)
        if error is not None:
            fail(current(), error)


def carried() -> dict[str, str]:
    """The headers that tell another server of the current span, as the propagator that is set up writes them."""
    if not is_loaded():
        return {}
    from yandexart_grpc._spans import headers_of

    return dict(headers_of(None))


def traceparent() -> str:
    """The current span as W3C Trace Context writes it; empty where there is none."""
    if not is_loaded():
        return ""
    from yandexart_grpc._spans import traceparent_of

    return traceparent_of()


@cache
def _is_new_enough() -> bool:
    from opentelemetry.version import __version__ as found

    if tuple(map(int, re.findall(r"\d+", found)[:2])) >= OLDEST:
        return True
    log.warning("OpenTelemetry %s is told nothing: that takes %d.%d or newer", found, *OLDEST)
    return False


def about(model_uri: str) -> dict[str, str]:
    """The attributes of everything that is said of an order for a model, whose folder is left out."""
    model = model_uri.removeprefix("art://").partition("/")[2]
    return {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
    }
