"""What every door promises beside the contract, in metadata of gRPC and headers of HTTP: held reads and idempotency keys."""

import re
from collections.abc import Iterable

from yandexart_grpc.server.operations import Operations

HOLDS = ("preference-applied", "wait")
"""Announces that a read with `prefer: wait=<seconds>` is held until the operation is done (RFC 7240)."""
LONGEST_HOLD = 60.0
"""Seconds for which a read is held at the most, whatever is preferred."""


def preferred_wait(preferences: Iterable[str]) -> float:
    """The seconds for which the caller would like to be held, of all that it says under `prefer`; 0 where it does not say so."""
    for preference in preferences:
        if found := re.search(r"\bwait=(\d{1,6})\b", preference):
            return min(float(found[1]), LONGEST_HOLD)
    return 0.0


def scope_of(operations: Operations) -> tuple[str, str]:
    """Announces that a request with the `idempotency-key` of an earlier one is answered with the same operation.

    That holds as long as the same store is behind this door, so its id is told: after a lost answer, a client compares.
    """
    return ("idempotency-scope", operations.scope)
