"""The core, driven by hand: no clock, no server."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from yandexart_grpc import (
    ConfigurationError,
    NotFound,
    OperationTimeout,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
)
from yandexart_grpc._drive import adrive, drive
from yandexart_grpc._plan import LONGEST, SHORTEST, Step, next_age
from yandexart_grpc._submit import submit
from yandexart_grpc._wait import PASSING, watch
from yandexart_grpc.stubs import Operation, Status

Steps = Generator[Step, Operation, Operation]
NOT_YET = Operation(id="x")
DONE = Operation(id="x", done=True)


class Failed(grpc.RpcError):
    """A failed call, as grpc raises it."""

    def __init__(self, code: StatusCode, details: str = "said the server") -> None:
        self.status, self.text = code, details

    def code(self) -> StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    def trailing_metadata(self) -> Any:
        return (("x-request-id", "r1"),)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def waiting(clock: Clock, *, timeout: float | None = 60.0, ask_at_once: bool = False) -> Steps:
    return watch("x", timeout=timeout, rpc_timeout=30.0, now=clock, ask_at_once=ask_at_once)


def result_of(steps: Steps, reply: Operation) -> Operation:
    """What the generator returns when it is sent this reply."""
    with pytest.raises(StopIteration) as stop:
        steps.send(reply)
    value: Operation = stop.value.value
    return value


def perform(steps: Steps, call: Callable[[Step], Operation]) -> Operation:
    """What `drive` does, without the sleep: the calls move the clock."""
    step = next(steps)
    while True:
        try:
            reply = call(step)
        except grpc.RpcError as error:
            step = steps.throw(error)
        else:
            step = steps.send(reply)


@given(st.floats(0, 1e6))
def test_the_next_question_comes_later_but_not_much(age: float) -> None:
    """The next question comes after the last, by no less than the shortest pause and no more than the longest."""
    assert SHORTEST - 1e-6 <= next_age(age) - age <= LONGEST + 1e-6


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_older_operations_are_asked_about_later(one: float, other: float) -> None:
    """Of two operations, the older one is asked about later."""
    assert next_age(min(one, other)) <= next_age(max(one, other))


def test_a_wait_pauses_first_and_returns_the_finished_operation() -> None:
    """A wait for a new operation pauses before it asks, and returns what is done."""
    steps = waiting(Clock())
    assert next(steps) == Step(0.1, 30.0)
    assert steps.send(NOT_YET).after == pytest.approx(0.1)
    assert result_of(steps, DONE) is DONE


def test_an_attached_operation_is_asked_about_at_once() -> None:
    """An operation picked up by id is asked about without a pause."""
    assert next(waiting(Clock(), ask_at_once=True)).after == 0.0


def test_an_error_ends_the_wait_before_done_does() -> None:
    """An operation with an error is finished even while it does not say done."""
    steps = waiting(Clock())
    next(steps)
    failed = Operation(id="x", error=Status(code=13))
    assert result_of(steps, failed) is failed


@pytest.mark.parametrize("code", sorted(PASSING, key=str))
def test_a_read_that_failed_in_passing_is_repeated(code: StatusCode) -> None:
    """A read is safe to repeat, so a failure that may pass is followed by another read."""
    steps = waiting(Clock())
    next(steps)
    assert steps.throw(Failed(code)).after > 0
    assert result_of(steps, DONE) is DONE


@pytest.mark.parametrize(("code", "error"), [(StatusCode.NOT_FOUND, NotFound), (StatusCode.PERMISSION_DENIED, PermissionDenied)])
def test_a_final_failure_of_a_read_is_raised(code: StatusCode, error: type[Exception]) -> None:
    """A failure that cannot pass is raised at once, with the id of the operation and of the request."""
    steps = waiting(Clock())
    next(steps)
    with pytest.raises(error) as caught:
        steps.throw(Failed(code))
    assert (caught.value.operation_id, caught.value.request_id) == ("x", "r1")  # type: ignore[attr-defined]  # a YandexArtError


def test_an_answer_above_the_receive_limit_is_final_and_names_the_option() -> None:
    """An image above our own receive limit is not taken for a quota: one error names the option, and nothing is repeated."""
    steps = waiting(Clock())
    next(steps)
    with pytest.raises(ConfigurationError, match="max_message_bytes") as caught:
        steps.throw(Failed(StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5000000 vs. 4194304)"))
    assert (caught.value.billed, caught.value.resend) == ("yes", "unsafe")


@given(timeout=st.floats(0.1, 100), took=st.floats(0, 2))
def test_a_wait_ends_with_its_time_and_never_after(timeout: float, took: float) -> None:
    """No step reaches past the deadline, and when the time is up the error carries the id and the last failure."""
    clock = Clock()
    steps = waiting(clock, timeout=timeout)

    def call(step: Step) -> Operation:
        assert step.after >= 0
        assert clock.time + step.after + step.timeout <= timeout + 1e-6
        clock.time += step.after + max(0.01, min(took, step.timeout))
        raise Failed(StatusCode.UNAVAILABLE)

    with pytest.raises(OperationTimeout) as caught:
        perform(steps, call)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.operation_id == "x"
    assert isinstance(caught.value.__cause__, Failed)


def test_a_wait_without_end_goes_on() -> None:
    """With no timeout, the wait goes on after a day."""
    clock = Clock()
    steps = waiting(clock, timeout=None)
    next(steps)
    clock.time += 86_400
    assert steps.send(NOT_YET) == Step(1.0, 30.0)


def test_a_submit_is_made_once() -> None:
    """A submit is one call, at once, and returns the operation."""
    steps = submit(5.0)
    assert next(steps) == Step(0.0, 5.0)
    assert result_of(steps, NOT_YET) is NOT_YET


UNKNOWN = ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED", "DATA_LOSS"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_lost_answer_is_an_unknown_outcome(name: str) -> None:
    """When the request may have arrived, the error says that the picture may be paid for and that resending is unsafe."""
    steps = submit(5.0)
    next(steps)
    with pytest.raises(OutcomeUnknown) as caught:
        steps.throw(Failed(StatusCode[name]))
    assert (caught.value.billed, caught.value.resend, caught.value.code) == ("unknown", "unsafe", StatusCode[name])
    assert caught.value.request_id == "r1"


@pytest.mark.parametrize("code", [code for code in StatusCode if code.name not in [*UNKNOWN, "OK"]])
def test_a_refusal_has_bought_nothing(code: StatusCode) -> None:
    """When the server refuses, the error says that nothing is paid for and that resending is safe."""
    steps = submit(5.0)
    next(steps)
    with pytest.raises(Exception, match="said the server") as caught:
        steps.throw(Failed(code))
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")  # type: ignore[attr-defined]  # a YandexArtError


def test_a_quota_is_told_apart_from_an_answer_that_is_too_large() -> None:
    """Both are RESOURCE_EXHAUSTED: the quota refused before work, the too large answer came after it."""
    steps = submit(5.0)
    next(steps)
    with pytest.raises(QuotaExceeded):
        steps.throw(Failed(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed: allowed 10 requests"))
    steps = submit(5.0)
    next(steps)
    with pytest.raises(OutcomeUnknown):
        steps.throw(Failed(StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max"))


def test_an_operation_without_an_id_may_be_paid_for() -> None:
    """An accepted request whose operation has no id breaks the contract, and may have been bought."""
    steps = submit(5.0)
    next(steps)
    with pytest.raises(ProtocolError) as caught:
        steps.send(Operation())
    assert (caught.value.billed, caught.value.resend) == ("unknown", "unsafe")


def script() -> Steps:
    """Ask, fail, ask, and return what came."""
    try:
        yield Step(0.0, 1.0)
    except grpc.RpcError:
        return (yield Step(0.0, 2.0))
    raise AssertionError("the failure was not thrown in")


def test_both_drivers_perform_the_same_steps() -> None:
    """Both drivers make the calls that the generator asks for, throw failures in and return its result."""

    def call(step: Step) -> Operation:
        if step.timeout == 1.0:
            raise Failed(StatusCode.UNAVAILABLE)
        return DONE

    async def acall(step: Step) -> Operation:
        return call(step)

    assert drive(script(), call) is DONE
    assert asyncio.run(adrive(script(), acall)) is DONE


def test_other_errors_pass_through_the_drivers() -> None:
    """An error that is not a failed call is not the generator's business."""

    def call(step: Step) -> Operation:
        raise ConfigurationError("closed")

    async def acall(step: Step) -> Operation:
        return call(step)

    with pytest.raises(ConfigurationError, match="closed"):
        drive(script(), call)
    with pytest.raises(ConfigurationError, match="closed"):
        asyncio.run(adrive(script(), acall))
