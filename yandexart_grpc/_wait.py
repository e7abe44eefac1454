"""The waiting machine: decides when to ask about an operation, and when to stop. It performs nothing and never sleeps.

A read is always safe to repeat, so whatever may pass is asked again until the deadline; the rest is final. The schedule is
`_plan`'s; the calls are `_drive`'s.
"""

from collections.abc import Callable, Generator
from math import inf

from grpc import RpcError, StatusCode

from yandexart_grpc import _plan
from yandexart_grpc._plan import Step
from yandexart_grpc.errors import OperationTimeout, failure, from_rpc, is_local_limit
from yandexart_grpc.stubs import Operation

PASSING = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.ABORTED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Codes after which a read is repeated."""

SHORTEST_READ = 0.02
"""With less than this many seconds left, no read can bring anything."""


def finished(operation: Operation) -> bool:
    """Whether there is nothing left to wait for; `error` may be set before `done` (contract/service.md, "The answer")."""
    return operation.done or operation.WhichOneof("result") == "error"


def is_cancelled(operation: Operation) -> bool:
    """Whether the operation ended because it was cancelled."""
    return operation.WhichOneof("result") == "error" and operation.error.code == StatusCode.CANCELLED.value[0]


def watch(
    operation_id: str, *, timeout: float | None, rpc_timeout: float, now: Callable[[], float], ask_at_once: bool
) -> Generator[Step, Operation, Operation]:
    """Ask until the operation is done or failed, and return it.

    `timeout` is in seconds from now, None for no end; `rpc_timeout` bounds each read; `now` is a monotonic clock. `ask_at_once`
    is for an operation of which nothing has been seen yet.

    Raises `OperationTimeout` when the time is up, chained to the last passing failure, and what `from_rpc` gives for a final one.
    """
    start = now()
    deadline = inf if timeout is None else start + timeout
    due = start if ask_at_once else start + _plan.next_age(0)
    last: RpcError | None = None
    while (left := deadline - now()) > SHORTEST_READ:
        # Of the time that is left, the last tenth is kept for the read itself.
        after = max(0.0, min(due - now(), 0.9 * left))
        try:
            operation = yield Step(after, min(left - after, rpc_timeout))
        except RpcError as error:
            if failure(error).code() not in PASSING or is_local_limit(error):
                raise from_rpc(error, "reading", operation_id=operation_id) from error
            last = error
        else:
            if finished(operation):
                return operation
        due = start + _plan.next_age(now() - start)
    raise OperationTimeout(
        f"operation {operation_id} was not done within {timeout} s; it goes on, and its id picks it up again",
        code=StatusCode.DEADLINE_EXCEEDED,
        operation_id=operation_id,
    ) from last
