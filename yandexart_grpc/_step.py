"""What the core says to its drivers, and what it is told: the words between deciding and performing."""

from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import NamedTuple, Self, TypeVar

from grpc import RpcError

from yandexart_grpc.auth import Header, Source, Token
from yandexart_grpc.errors import YandexArtError
from yandexart_grpc.failures import named_by_server
from yandexart_grpc.stubs import CancelOperationRequest, GetOperationRequest, ImageGenerationRequest, Operation

Result = TypeVar("Result")
Metadata = Iterable[tuple[str, str | bytes]] | None


class Probe(NamedTuple):
    """A question that changes nothing: whether the server at `target` is there."""

    target: str


class Renewal(NamedTuple):
    """A question for a new token."""

    source: Source


class Leave(NamedTuple):
    """A question whether an operation may be read now, of whoever counts the reads of many clients; the answer is that it may."""

    wait: Callable[[], Awaitable[None]]


class Step(NamedTuple):
    """Make a call; or, without a request, sleep for `after` seconds or until plans change."""

    after: float = 0.0
    request: ImageGenerationRequest | GetOperationRequest | CancelOperationRequest | Probe | Renewal | Leave | None = None
    timeout: float = 0.0
    """Seconds for the answer."""
    hold: int | None = None
    """Seconds that the server may hold a read until the operation is done."""
    reconnect: bool = False
    """Whether to wait for a broken connection to be mended instead of failing at once."""
    key: str | None = None
    """The idempotency key of an order."""
    authorization: Header | None = None
    """What authorises the call, where that is a token that is renewed."""
    context: tuple[tuple[str, str], ...] = ()
    """The headers that carry a trace on."""


def is_read(step: Step) -> bool:
    """Whether the call asks about an operation."""
    return isinstance(step.request, GetOperationRequest)


class Answer(NamedTuple):
    """What a call brought."""

    operation: Operation
    """An empty one for a probe, a token and a leave."""
    holds: bool = False
    """Whether the server announced that it holds reads."""
    scope: str | None = None
    """The store in which the server announced that it keeps idempotency keys."""
    token: Token | None = None
    """The new one that was asked for."""
    request_id: str | None = None
    """What the server calls the request, for its support."""

    @classmethod
    def heard(cls, operation: Operation, metadata: Metadata) -> Self:
        """The answer with what the server announced in its initial metadata: `preference-applied` is of RFC 7240."""
        announced = dict(metadata or ())
        scope = announced.get("idempotency-scope")
        return cls(
            operation,
            announced.get("preference-applied") == "wait",
            str(scope) if scope else None,
            request_id=named_by_server(announced),
        )


Talk = Generator[Step, Answer | None, Result]
"""A machine of the core, or a part of one: yields a `Step`, is sent its `Answer` (None after a mere sleep) or has its failure
thrown in, and returns what it came to."""
Steps = Talk[Operation]
"""A machine that comes to an operation."""


def relayed(steps: Talk[Result], make: Callable[[Step], Talk[Answer | None]]) -> Talk[Result]:
    """The same machine, each step of which is made by `make`: what that comes to, or fails with, is what the machine hears."""
    resume: Callable[[], Step] = partial(next, steps)
    try:
        while True:
            step = resume()
            try:
                answer = yield from make(step)
            except (RpcError, YandexArtError) as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, answer)
    except StopIteration as finished:
        result: Result = finished.value
        return result
    finally:
        steps.close()
