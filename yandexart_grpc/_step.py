"""What the core says to its drivers, and what it is told: the words between deciding and performing."""

from collections.abc import Generator
from typing import NamedTuple

from yandexart_grpc.stubs import GetOperationRequest, ImageGenerationRequest, Operation


class Step(NamedTuple):
    """Make a call; or, without a request, sleep for `after` seconds or until plans change."""

    after: float = 0.0
    request: ImageGenerationRequest | GetOperationRequest | None = None
    timeout: float = 0.0
    """Seconds for the answer."""
    hold: int | None = None
    """Seconds that the server may hold a read until the operation is done."""
    reconnect: bool = False
    """Whether to wait for a broken connection to be mended instead of failing at once."""


def is_read(step: Step) -> bool:
    """Whether the call asks about an operation; otherwise it orders one."""
    return isinstance(step.request, GetOperationRequest)


class Answer(NamedTuple):
    """What a call brought."""

    operation: Operation
    holds: bool = False
    """Whether the server announced that it holds reads."""


Steps = Generator[Step, Answer | None, Operation]
"""A machine of the core: yields a `Step`, is sent its `Answer` (None after a mere sleep) or has its failure thrown in, and
returns the operation."""
