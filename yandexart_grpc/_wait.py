"""The waiting machine: decides when to ask about an operation, and when to stop. It performs nothing and never sleeps.

A server that holds reads is asked once and answers when the operation is done. Any other is asked by the plan, within the
budget of the client. A read is safe to repeat, so after a failure that may pass the question is asked again.
"""

import logging
from collections.abc import Generator
from math import inf

from grpc import RpcError, StatusCode

from yandexart_grpc._pace import Pace
from yandexart_grpc._plan import backoff, between
from yandexart_grpc._step import Answer, Leave, Step, Steps
from yandexart_grpc._submit import submit
from yandexart_grpc.errors import OperationTimeout
from yandexart_grpc.failures import about, failure, from_rpc, is_local_limit, retry_after
from yandexart_grpc.stubs import GetOperationRequest, ImageGenerationRequest, Operation

log = logging.getLogger("yandexart_grpc")

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

LONGEST_HOLD = 30.0
"""Seconds for which a server is asked to hold a read."""
LAST_READ = 0.3
"""Seconds, or a tenth of the whole wait, that are kept for the last question before the deadline."""
SHORTEST_SLEEP = 0.0005
"""Seconds that are not worth sleeping."""


def finished(operation: Operation) -> bool:
    """Whether there is nothing left to wait for; `error` may be set before `done` (contract/service.md, "The answer")."""
    return operation.done or operation.WhichOneof("result") == "error"


def is_cancelled(operation: Operation) -> bool:
    """Whether the operation ended because it was cancelled."""
    return operation.WhichOneof("result") == "error" and operation.error.code == StatusCode.CANCELLED.value[0]


def order(request: ImageGenerationRequest, pace: Pace, deadline: float, key: str) -> Steps:
    """Submit, then watch: see there."""
    operation = yield from submit(request, pace, deadline, key)
    if finished(operation):
        return operation
    return (yield from watch(operation.id, pace, deadline, model=request.model_uri, born=pace.now()))


def watch(
    operation_id: str,
    pace: Pace,
    deadline: float,
    *,
    model: str | None = None,
    born: float | None = None,
    leave: Leave | None = None,
) -> Steps:
    """Ask until the operation is done or failed, and return it.

    `deadline` and `born`, when it was submitted, are times on the clock of `pace`. Of an operation that was picked up by id,
    neither that is known nor its `model`. `leave` is asked before each read.

    Raises `OperationTimeout` when the time is up, chained to the last passing failure, and what `from_rpc` gives for a
    final one.
    """
    wait = _Wait(operation_id, pace, deadline, model, born, leave)
    try:
        with about(operation_id):
            operation = yield from wait.steps()
    finally:
        pace.end(wait.law, teaches=wait.teaches)
    log.info("operation %s done", operation_id)
    return operation


class _Wait:
    """What is known of one operation, and what follows from it."""

    __slots__ = (
        "asked",
        "attached",
        "born",
        "by_plan",
        "deadline",
        "failure",
        "failures",
        "last_call",
        "law",
        "leave",
        "pace",
        "request",
        "retry_at",
        "sent",
        "start",
        "teaches",
    )

    def __init__(
        self, operation_id: str, pace: Pace, deadline: float, model: str | None, born: float | None, leave: Leave | None
    ) -> None:
        self.leave = leave
        self.request = GetOperationRequest(operation_id=operation_id)
        self.pace = pace
        self.law = pace.law(model)
        self.teaches = pace.begin(self.law)
        self.start = pace.now()
        self.deadline = deadline
        self.last_call = deadline - min(LAST_READ, (deadline - self.start) / 10)
        self.attached = born is None
        self.born = self.start if born is None else born
        self.asked = 0.0  # the age at which it was not done
        self.sent = -inf  # when it was asked about last
        self.failures = 0
        self.failure: RpcError | None = None
        self.retry_at = 0.0
        self.by_plan = False  # although the server holds reads

    def steps(self) -> Steps:
        while (yield from self._sleep()):
            hold = self._hold()
            self.sent = self.pace.now()
            timeout = min(self.deadline - self.sent, self.pace.rpc_timeout + (hold or 0))
            try:
                answer = yield Step(request=self.request, timeout=timeout, hold=hold, reconnect=self.failures > 0)
            except RpcError as error:
                self._failed(error)
                continue
            assert answer is not None  # drivers answer every call
            if finished(answer.operation):
                self._learn(answer.operation, hold)
                answer.operation.id = self.request.operation_id  # whatever the server calls it
                return answer.operation
            self._not_yet(answer.holds, hold)
        span = round(self.deadline - self.start, 3)
        raise OperationTimeout(
            f"operation {self.request.operation_id} was not done within {span} s; its id picks it up again",
            code=StatusCode.DEADLINE_EXCEEDED,
            operation_id=self.request.operation_id,
        ) from self.failure

    def _sleep(self) -> Generator[Step, Answer | None, bool]:
        """Sleep until it is time to ask, and return whether there is still something to ask."""
        while (wait := min(self._due(), self.last_call) - self.pace.now()) > SHORTEST_SLEEP:
            yield Step(wait)
        if self.sent >= self.last_call - SHORTEST_SLEEP or self.pace.now() >= self.deadline:
            return False
        if not self._is_held() and not (yield from self.pace.reads.turn(self.deadline)):
            return False
        if self.leave is None:
            return True
        yield Step(request=self.leave)
        return self.pace.now() < self.deadline

    def _due(self) -> float:
        """When to ask next. It may change while somebody sleeps until then."""
        if self.failures:
            return self.retry_at
        if self._is_held() or (self.attached and self.sent == -inf):
            return self.pace.now()
        return self.born + self.law.next_age(self.asked, self.pace.patience)

    def _is_held(self) -> bool:
        """Whether the server is known to hold reads, and there is time for it."""
        return bool(self.pace.holds) and not self.by_plan and self._hold() is not None

    def _hold(self) -> int | None:
        """For how many whole seconds (RFC 7240) to let the server hold the next read."""
        if self.by_plan or self.pace.holds is False or not (self.pace.holds or self.attached):
            return None
        return int(min(LONGEST_HOLD, self.last_call - self.pace.now())) or None

    def _not_yet(self, holds: bool, hold: int | None) -> None:
        now = self.pace.now()
        self.failures = 0
        self.asked = (self.sent if hold is None else now) - self.born
        if hold is not None:
            self.pace.holds = holds
            self.by_plan = now - self.sent < hold / 2

    def _failed(self, error: RpcError) -> None:
        """Plan to ask again, or raise what cannot pass."""
        code = failure(error).code()
        if code not in PASSING or is_local_limit(error):
            raise from_rpc(error, "reading", operation_id=self.request.operation_id) from error
        self.failure = error
        self.failures += 1
        told = retry_after(error)
        if code is StatusCode.RESOURCE_EXHAUSTED:
            self.pace.reads.slow_down()
        if told is not None:
            self.pace.reads.pause(told)
        self.retry_at = self.pace.now() + (backoff(self.failures) if told is None else told)

    def _learn(self, operation: Operation, hold: int | None) -> None:
        """Take in how long the image took: what the server stamped, or else what the last two questions tell."""
        if self.attached or not self.teaches or operation.WhichOneof("result") != "response":
            return
        modified, created = operation.modified_at, operation.created_at
        stamped = modified.seconds - created.seconds + (modified.nanos - created.nanos) / 1e9
        if stamped > 0:
            self.pace.learn(self.law, min(max(stamped, self.asked), self.pace.now() - self.born))
        elif hold is None:
            self.pace.learn(self.law, between(self.asked, self.sent - self.born))
