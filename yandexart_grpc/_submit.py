"""The submit rule: what a failed order means for money, and when it may be sent again.

A server that refuses has bought nothing, and one that was never reached has not even heard of the order. When the request may
have left and no clear answer came back, the picture may have been bought: only a server that announces where it keeps
idempotency keys, and still keeps them there when it is asked again, is sent the same order with the same key once more.
"""

import logging
import re

from grpc import RpcError, StatusCode

from yandexart_grpc._pace import Pace
from yandexart_grpc._plan import backoff
from yandexart_grpc._step import Answer, Probe, Step, Steps, Talk
from yandexart_grpc.errors import OutcomeUnknown, ProtocolError, QuotaExceeded, Unavailable, YandexArtError
from yandexart_grpc.failures import failure, from_rpc, is_local_limit, is_unsent, retry_after
from yandexart_grpc.stubs import ImageGenerationRequest, Operation

log = logging.getLogger("yandexart_grpc")

UNKNOWN = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.ABORTED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
    }
)
"""Codes of `Generate` after which nobody knows whether the request was accepted. The connection was ready before it was
sent, so UNAVAILABLE is one of them."""
OURS = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})
"""Codes that gRPC gives without a server; any other was said by one."""
EACH_TIME = frozenset({StatusCode.INVALID_ARGUMENT, StatusCode.OUT_OF_RANGE, StatusCode.ALREADY_EXISTS})
"""Codes that judge the request alone, and so tell that no earlier attempt was accepted either."""

SHORTEST_REFUSAL, LONGEST_REFUSAL = 1.0, 10.0
"""Seconds before an order that a quota refused is sent again, where the server does not say how long to wait."""

_DAILY = re.compile(r"(?<![a-z])da(y|ily)|сут(ки|ок|очн)|д(ень\b|невн)", re.IGNORECASE)
"""How a quota says that waiting for it takes until tomorrow."""


def submit(request: ImageGenerationRequest, pace: Pace, deadline: float, key: str) -> Steps:
    """Send the request once it is its turn, and return the operation it became.

    Raises `Unavailable` when the server cannot be reached, `QuotaExceeded` when the turn, or the end of the quota, would come
    after the deadline, `OutcomeUnknown` when the request may have been accepted, and what `from_rpc` gives for a refusal.
    """
    doubt: _Doubt | None = None
    refusals = 0
    try:
        while True:
            if not (yield from pace.submits.turn(deadline)):
                raise QuotaExceeded(
                    f"submitting: no turn of submits_per_minute={pace.submits.rate * 60:g} comes before the timeout"
                )
            if doubt is not None:
                yield from doubt.settle()
            elif not pace.connected:
                yield from connect(pace.target, pace, deadline)
            scope = pace.scope
            try:
                answer = yield Step(request=request, timeout=_time_left(pace, deadline), key=key)
            except RpcError as error:
                if doubt is None and is_unsent(error):
                    raise _unreachable(pace.target, error, failure(error).details() or "") from error
                if failure(error).code() in UNKNOWN or is_local_limit(error):
                    doubt = doubt or _Doubt(pace, deadline, key, scope)
                    doubt.grow(error)
                else:
                    refusals += 1
                    yield from _pause(pace, _until_welcome(error, pace, deadline, refusals))
            else:
                assert answer is not None  # drivers answer every call
                return _accepted(answer, pace)
    except YandexArtError as error:
        if doubt is None or error.billed != "no" or error.code in EACH_TIME:
            raise
        raise doubt.error(f"and then: {error}") from error


def connect(target: str, pace: Pace, deadline: float, *, again: bool = False) -> Talk[str | None]:
    """Make sure that the server answers, and return the scope that it announces.

    gRPC can also be asked for the state of a channel, but without the reason, and the thread that it starts for this breaks
    when the channel is closed soon after.

    Raises `Unavailable` at the first attempt to connect that fails, unless it is made `again`, or when the time is up.
    """
    timeout = _time_left(pace, deadline)
    try:
        answer = yield Step(request=Probe(target), timeout=timeout, reconnect=again)
    except RpcError as error:
        _require_answer(error, target, timeout)
        answer = Answer.heard(Operation(), failure(error).initial_metadata())
    assert answer is not None  # drivers answer every call
    if target == pace.target:
        pace.connected, pace.scope = True, answer.scope
    return answer.scope


class _Doubt:
    """What is known of an order of which nobody knows whether it was accepted."""

    __slots__ = ("deadline", "failed", "failures", "key", "lost", "pace", "scope")

    def __init__(self, pace: Pace, deadline: float, key: str, scope: str | None) -> None:
        self.pace, self.deadline, self.key = pace, deadline, key
        self.scope = scope  # where the server that may have accepted it keeps its keys
        self.failures = 0

    def grow(self, error: RpcError) -> None:
        """Take note of an answer that was lost. Raises `OutcomeUnknown` where no repetition is safe, or of any use."""
        self.lost = self.failed = error
        self.failures += 1
        self.pace.connected = False
        said = Answer.heard(Operation(), failure(error).initial_metadata()).scope
        if said is not None and self.failures == 1:
            self.scope = said
        if self.scope is None or is_local_limit(error):
            raise self.error("so it was not sent again") from error
        self._require_same(said or self.scope)

    def settle(self) -> Talk[None]:
        """Wait until the server answers again, and make sure that it is the one that would know the key."""
        if not (yield from self.pace.resends.turn(self.deadline)):
            raise self.error("and too many orders wait to be sent again before the timeout") from self.failed
        while True:
            due = self.pace.now() + backoff(self.failures)
            if due >= self.deadline:
                raise self.error("and no answer came until the timeout") from self.failed
            yield from _pause(self.pace, due)
            try:
                scope = yield from connect(self.pace.target, self.pace, self.deadline, again=True)
            except Unavailable as error:
                self.failures += 1
                if isinstance(error.__cause__, RpcError):
                    self.failed = error.__cause__
            else:
                return self._require_same(scope)

    def error(self, why: str) -> OutcomeUnknown:
        """What to raise, and `why` the order is not sent again."""
        known = from_rpc(self.lost, "submitting")
        unknown = OutcomeUnknown(
            f"{known}; the request may have been accepted and paid for, {why}; where the server honours it, "
            f"idempotency_key={self.key!r} asks again without buying twice",
            code=known.code,
            details=known.details,
            request_id=known.request_id,
        )
        unknown.client_request_id = known.client_request_id
        return unknown

    def _require_same(self, scope: str | None) -> None:
        if scope != self.scope:
            told = "keeps idempotency keys in another store now" if scope else "does not announce any more that it keeps keys"
            raise self.error(f"and the server {told}, so it was not sent again") from self.lost


def _until_welcome(error: RpcError, pace: Pace, deadline: float, refusals: int) -> float:
    """When to come again after a quota. Raises what is final, as is a quota that lasts beyond the deadline or for the day."""
    known = from_rpc(error, "submitting")
    if not isinstance(known, QuotaExceeded) or _DAILY.search(known.details or ""):
        raise known from error
    told = retry_after(error)
    until = pace.now() + (backoff(refusals, SHORTEST_REFUSAL, LONGEST_REFUSAL) if told is None else told)
    if until >= deadline:
        raise known from error
    if told is None:
        pace.submits.slow_down()
    else:
        pace.submits.pause(told)
    return until


def _accepted(answer: Answer, pace: Pace) -> Operation:
    pace.holds, pace.scope = answer.holds, answer.scope
    if answer.scope is not None:
        pace.credit()
    if not answer.operation.id:
        raise ProtocolError("submitting: the operation in the answer has no id; the picture may have been bought")
    pace.note(answer.operation.id, answer.request_id)
    log.info("operation %s submitted", answer.operation.id)
    return answer.operation


def _require_answer(error: RpcError, target: str, timeout: float) -> None:
    """Raise `Unavailable` unless the failure came from the server, as did all metadata."""
    status = failure(error)
    if status.code() in OURS and not status.trailing_metadata() and not status.initial_metadata():
        late = status.code() is StatusCode.DEADLINE_EXCEEDED
        why = f"no answer within {timeout:g} s" if late else status.details() or "no reason given"
        raise _unreachable(target, error, why) from error


def _unreachable(target: str, error: RpcError, why: str) -> Unavailable:
    text = f"{target} cannot be reached, and nothing was ordered: {why}"
    return Unavailable(text, code=failure(error).code(), details=why)


def _time_left(pace: Pace, deadline: float) -> float:
    """The seconds for one call. Raises `Unavailable` when there are none."""
    left = min(deadline - pace.now(), pace.rpc_timeout)
    if left <= 0:
        raise Unavailable("submitting: the time was up before anything was ordered")
    return left


def _pause(pace: Pace, until: float) -> Talk[None]:
    """Sleep until that time, whatever plans change."""
    while (left := until - pace.now()) > 0:
        yield Step(left)
