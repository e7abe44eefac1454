"""The core, driven by hand: no clock, no server."""

import asyncio
import inspect
from collections.abc import Callable
from math import inf
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from yandexart_grpc import (
    ConfigurationError,
    NotFound,
    OperationTimeout,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
)
from yandexart_grpc._budget import SLOW_FOR
from yandexart_grpc._drive import AsyncNaps, Naps, adrive, drive
from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Answer, Step, Steps
from yandexart_grpc._submit import submit
from yandexart_grpc._wait import LONGEST_BACKOFF, LONGEST_HOLD, PASSING, order, watch
from yandexart_grpc.settings import Limits
from yandexart_grpc.stubs import GetOperationRequest, ImageGenerationRequest, Operation, Status

MODEL = "art://b1g/yandex-art/latest"
REQUEST = ImageGenerationRequest(model_uri=MODEL)
READ = GetOperationRequest(operation_id="x")
NOT_YET = Answer(Operation(id="x"))


def done(seconds: float | None = None) -> Answer:
    """A finished operation, stamped by the server as having taken that long."""
    operation = Operation(id="x", done=True)
    operation.response.SetInParent()
    if seconds is not None:
        operation.created_at.FromSeconds(100)
        operation.modified_at.FromNanoseconds(100_000_000_000 + int(seconds * 1e9))
    return Answer(operation)


class Failed(grpc.RpcError):
    """A failed call, as grpc raises it."""

    def __init__(self, code: StatusCode, details: str = "said the server", **trailing: str | bytes) -> None:
        self.status, self.text = code, details
        self.trailing = [("x-request-id", "r1"), *((key.replace("_", "-"), value) for key, value in trailing.items())]

    def code(self) -> StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    def trailing_metadata(self) -> Any:
        return self.trailing


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def pace_on(
    clock: Clock,
    *,
    patience: float | None = 0.1,
    reads: float = 1000.0,
    submits: float = 6000.0,
    seen: float | None = None,
    plans_changed: Callable[[], None] = lambda: None,
) -> Pace:
    """What waits share, with 64 durations of `seen` seconds already learned where that is given."""
    limits = Limits(
        timeout=60,
        rpc_timeout=30.0,
        max_message_bytes=1000,
        patience=patience,
        reads_per_second=reads,
        submits_per_minute=submits,
    )
    return Pace(limits, clock, {MODEL: [seen] * 64} if seen else {}, plans_changed)


class Driven:
    """A machine, the clock it lives on, and the calls it makes; a sleep moves the clock at once."""

    def __init__(self, steps: Steps, clock: Clock) -> None:
        self.steps, self.clock = steps, clock
        self.called = self.sleep_to_call(next(steps))

    def sleep_to_call(self, step: Step) -> Step:
        while step.request is None:
            assert step.after > 0
            self.clock.time += step.after
            step = self.steps.send(None)
        return step

    def answer(self, answer: Answer, *, after: float = 0.0) -> Step:
        """The next call, when this one is answered so many seconds later."""
        self.clock.time += after
        self.called = self.sleep_to_call(self.steps.send(answer))
        return self.called

    def fail(self, error: Failed) -> Step:
        """The next call, when this one fails."""
        self.called = self.sleep_to_call(self.steps.throw(error))
        return self.called

    def end(self, answer: Answer, *, after: float = 0.0) -> Operation:
        """What the machine returns for this answer."""
        self.clock.time += after
        with pytest.raises(StopIteration) as stop:
            self.steps.send(answer)
        value: Operation = stop.value.value
        return value


def watching(pace: Pace, *, timeout: float = inf, attached: bool = False) -> Driven:
    known: dict[str, Any] = {} if attached else {"model": MODEL, "born": pace.now()}
    assert isinstance(pace.now, Clock)
    return Driven(watch("x", pace, pace.now() + timeout, **known), pace.now)


# ── reads by the plan ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_read_comes_when_the_plan_says() -> None:
    """The first question about a new operation comes when the law of its model says, and what is done is returned."""
    clock = Clock()
    pace = pace_on(clock, seen=12.0)
    waiting = watching(pace)
    assert waiting.called == Step(request=READ, timeout=30.0)
    assert clock.time == pytest.approx(pace.law(MODEL).next_age(0.0, 0.1))
    assert waiting.end(done()).id == "x"


def test_reads_follow_the_law() -> None:
    """Each question comes at the age that the law gives for the one before."""
    clock = Clock()
    pace = pace_on(clock)
    waiting = watching(pace)
    for _ in range(20):
        due = pace.law(MODEL).next_age(clock.time, 0.1)
        waiting.answer(NOT_YET)
        assert clock.time == pytest.approx(due)


def test_an_attached_operation_is_asked_about_at_once() -> None:
    """An operation picked up by id is asked about without a pause, and may be held from the first question on."""
    clock = Clock()
    waiting = watching(pace_on(clock), attached=True)
    assert clock.time == 0
    assert waiting.called.hold == LONGEST_HOLD
    waiting.answer(NOT_YET)
    assert clock.time > 1
    assert waiting.called.hold is None


def test_an_error_ends_the_wait_before_done_does() -> None:
    """An operation with an error is finished even while it does not say done."""
    failed = Operation(id="x", error=Status(code=13))
    assert watching(pace_on(Clock())).end(Answer(failed)) is failed


def test_an_answer_under_another_name_keeps_ours() -> None:
    """Whatever the server calls the operation, the result has the id that was asked for."""
    assert watching(pace_on(Clock())).end(Answer(Operation(done=True))).id == "x"


@pytest.mark.parametrize("code", sorted(PASSING, key=str))
def test_a_read_that_failed_in_passing_is_repeated(code: StatusCode) -> None:
    """A failure that may pass is followed by another read, later each time, which waits for the connection."""
    clock = Clock()
    waiting = watching(pace_on(clock))
    pauses = []
    for _ in range(9):
        before = clock.time
        assert waiting.fail(Failed(code)).reconnect
        pauses.append(clock.time - before)
    assert pauses[0] >= 0.1
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_BACKOFF)
    waiting.answer(NOT_YET)
    assert waiting.end(done())


@pytest.mark.parametrize("told", ["pushback", "details"])
def test_a_hint_of_the_server_is_obeyed_exactly(told: str) -> None:
    """When the server says after how long to come again, nobody comes earlier."""
    clock = Clock()
    pace = pace_on(clock)
    waiting = watching(pace)
    asked = clock.time
    status = Status(code=8)
    status.details.add(
        type_url="type.googleapis.com/google.rpc.RetryInfo",
        value=RetryInfo(retry_delay=Duration(seconds=7, nanos=250_000_000)).SerializeToString(),
    )
    hints: dict[str, dict[str, str | bytes]] = {
        "pushback": {"grpc_retry_pushback_ms": "7250"},
        "details": {"grpc_status_details_bin": status.SerializeToString()},
    }
    waiting.fail(Failed(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed", **hints[told]))
    assert clock.time == pytest.approx(asked + 7.25)


def test_a_quota_on_reads_halves_their_rate() -> None:
    """After RESOURCE_EXHAUSTED the client's reads come at half their rate, and after a while at the full one again."""
    clock = Clock()
    pace = pace_on(clock, reads=10)
    watching(pace).fail(Failed(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed"))
    start = clock.time
    opened = [pace.reads.opens(pace.reads.take()) - start for _ in range(200)]
    assert sum(time < SLOW_FOR for time in opened) == pytest.approx(SLOW_FOR * 5, abs=6)
    assert opened[-1] - opened[-11] == pytest.approx(1.0)


@pytest.mark.parametrize(("code", "error"), [(StatusCode.NOT_FOUND, NotFound), (StatusCode.PERMISSION_DENIED, PermissionDenied)])
def test_a_final_failure_of_a_read_is_raised(code: StatusCode, error: type[Exception]) -> None:
    """A failure that cannot pass is raised at once, with the id of the operation and of the request."""
    waiting = watching(pace_on(Clock()))
    with pytest.raises(error) as caught:
        waiting.fail(Failed(code))
    assert (caught.value.operation_id, caught.value.request_id) == ("x", "r1")  # type: ignore[attr-defined]  # a YandexArtError


def test_an_answer_above_the_receive_limit_is_final_and_names_the_option() -> None:
    """An image above our own receive limit is not taken for a quota: one error names the option, and nothing is repeated."""
    waiting = watching(pace_on(Clock()))
    with pytest.raises(ConfigurationError, match="max_message_bytes") as caught:
        waiting.fail(Failed(StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5000000 vs. 4194304)"))
    assert (caught.value.billed, caught.value.resend) == ("yes", "unsafe")


@given(timeout=st.floats(0.1, 100), took=st.floats(0, 2), holds=st.booleans(), fails=st.booleans())
def test_a_wait_ends_with_its_time_and_never_after(timeout: float, took: float, holds: bool, fails: bool) -> None:
    """No call reaches past the deadline, the last comes shortly before it, and the error carries the id and the last failure."""
    clock = Clock()
    pace = pace_on(clock)
    pace.holds = holds
    waiting = watching(pace, timeout=timeout)
    last = 0.0

    def go_on() -> None:
        nonlocal last
        last = clock.time
        step = waiting.called
        assert clock.time + step.timeout <= timeout + 1e-6
        assert clock.time + (step.hold or 0) <= timeout
        clock.time += max(0.001, min(step.hold or took, step.timeout))
        if fails:
            waiting.fail(Failed(StatusCode.UNAVAILABLE))
        else:
            waiting.answer(NOT_YET._replace(holds=holds))

    with pytest.raises(OperationTimeout) as caught:
        repeat(go_on)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.operation_id == "x"
    assert isinstance(caught.value.__cause__, Failed) == fails
    if not fails and took < 0.01:
        assert last >= timeout - 0.31


def repeat(action: Callable[[], None]) -> None:
    while True:
        action()


# ── what is learned ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_two_questions_tell_is_learned() -> None:
    """Without stamps, an operation is taken to have been done between the last two questions, and never when it was found."""
    clock = Clock()
    pace = pace_on(clock)
    watching(pace).end(done(), after=0.02)
    [first] = pace.history[MODEL]
    assert 0 < first < clock.time - 0.02
    start = clock.time
    waiting = watching(pace)
    asked = clock.time - start
    waiting.answer(NOT_YET, after=0.02)
    found = clock.time - start
    waiting.end(done(), after=0.02)
    assert asked < pace.history[MODEL][-1] < found


@given(stamped=st.floats(1e-6, 100))
def test_stamps_of_the_server_count_within_the_bracket(stamped: float) -> None:
    """A duration that the server stamps is believed as far as the questions allow it."""
    clock = Clock()
    pace = pace_on(clock)
    waiting = watching(pace)
    waiting.answer(NOT_YET)
    waiting.answer(NOT_YET)
    low = clock.time
    waiting.answer(NOT_YET)
    waiting.end(done(stamped), after=0.5)
    assert pace.history[MODEL] == [pytest.approx(min(max(stamped, low), clock.time), rel=1e-6)]


def test_errors_and_attached_operations_teach_nothing() -> None:
    """A refusal says nothing about how long images take, nor does an operation of unknown age."""
    pace = pace_on(Clock())
    watching(pace).end(Answer(Operation(id="x", error=Status(code=3))))
    watching(pace, attached=True).end(done(3.0))
    assert pace.history == {}


def test_who_sleeps_plans_anew_with_the_first_durations() -> None:
    """While little is known, each doubling of what is known ends all sleeps."""
    woken: list[int] = []
    pace = pace_on(Clock(), plans_changed=lambda: woken.append(len(pace.history[MODEL])))
    law = pace.law(MODEL)
    for _ in range(64):
        pace.learn(law, 3.0)
    assert woken == [1, 2, 4, 8, 16, 32, 64]


# ── held reads ────────────────────────────────────────────────────────────────────────────────────────────────────────


def holding(clock: Clock) -> Pace:
    pace = pace_on(clock, reads=0.001)
    pace.holds = True
    return pace


def test_a_held_read_is_made_at_once_and_again() -> None:
    """Where the server holds, reads follow one another without a pause, outside the budget, and teach by stamps alone."""
    clock = Clock()
    waiting = watching(holding(clock))
    for _ in range(10):
        assert waiting.called == Step(request=READ, timeout=60.0, hold=30)
        before = clock.time
        waiting.answer(NOT_YET._replace(holds=True), after=30)
        assert clock.time == before + 30
    assert waiting.end(done(), after=3).id == "x"


def test_a_server_that_stops_holding_is_noticed() -> None:
    """A held read that comes back early with nothing announced hands over to the plan, for all waits of the client."""
    clock = Clock()
    pace = holding(clock)
    waiting = watching(pace)
    assert waiting.answer(NOT_YET, after=0.01).hold is None
    assert pace.holds is False
    assert clock.time > 0.5
    assert watching(pace).called.hold is None


def test_a_server_that_announces_and_does_not_hold_is_noticed() -> None:
    """An announcement is not believed against the clock: a wait whose read came back early goes on by the plan."""
    clock = Clock()
    pace = holding(clock)
    waiting = watching(pace)
    assert waiting.answer(NOT_YET._replace(holds=True), after=0.01).hold is None
    assert clock.time > 0.5


def test_a_hold_that_breaks_is_tried_again() -> None:
    """When the server goes away during a held read, the next one waits for the connection and is held again."""
    clock = Clock()
    waiting = watching(holding(clock))
    step = waiting.fail(Failed(StatusCode.UNAVAILABLE))
    assert (step.hold, step.reconnect) == (30, True)


# ── submits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def submitting(pace: Pace | None = None, deadline: float = inf) -> Driven:
    pace = pace or pace_on(Clock())
    assert isinstance(pace.now, Clock)
    return Driven(submit(REQUEST, pace, deadline), pace.now)


def test_a_submit_is_made_once() -> None:
    """A submit is one call, at once, and returns the operation; what the server announces about holding is remembered."""
    pace = pace_on(Clock())
    driven = submitting(pace, deadline=5.0)
    assert driven.called == Step(request=REQUEST, timeout=5.0)
    assert driven.end(NOT_YET._replace(holds=True)) is NOT_YET.operation
    assert pace.holds is True


def test_submits_are_paced() -> None:
    """After a burst, submits come at their rate; one whose turn would come too late is refused and was not sent."""
    clock = Clock()
    pace = pace_on(clock, submits=60)
    times = []
    for _ in range(60):
        submitting(pace).end(NOT_YET)
        times.append(clock.time)
    assert times[49] == 0
    assert times[-1] == pytest.approx(10)
    with pytest.raises(QuotaExceeded, match="submits_per_minute=60") as caught:
        submitting(pace, deadline=clock.time + 0.5)
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")


def test_an_order_is_a_submit_and_a_wait() -> None:
    """An order goes from the request to the finished operation; one that is done at once is not asked about."""
    clock = Clock()
    driven = Driven(order(REQUEST, pace_on(clock), inf), clock)
    assert driven.answer(NOT_YET).request == READ
    assert driven.end(done()).done
    assert Driven(order(REQUEST, pace_on(clock), inf), clock).end(done()).done


UNKNOWN = ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED", "DATA_LOSS"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_lost_answer_is_an_unknown_outcome(name: str) -> None:
    """When the request may have arrived, the error says that the picture may be paid for and that resending is unsafe."""
    driven = submitting()
    with pytest.raises(OutcomeUnknown) as caught:
        driven.fail(Failed(StatusCode[name]))
    assert (caught.value.billed, caught.value.resend, caught.value.code) == ("unknown", "unsafe", StatusCode[name])
    assert caught.value.request_id == "r1"


@pytest.mark.parametrize("code", [code for code in StatusCode if code.name not in [*UNKNOWN, "OK"]])
def test_a_refusal_has_bought_nothing(code: StatusCode) -> None:
    """When the server refuses, the error says that nothing is paid for and that resending is safe."""
    driven = submitting()
    with pytest.raises(Exception, match="said the server") as caught:
        driven.fail(Failed(code))
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")  # type: ignore[attr-defined]  # a YandexArtError


def test_a_quota_is_told_apart_from_an_answer_that_is_too_large() -> None:
    """Both are RESOURCE_EXHAUSTED: the quota refused before work, the too large answer came after it."""
    driven = submitting()
    with pytest.raises(QuotaExceeded):
        driven.fail(Failed(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed: allowed 10 requests"))
    driven = submitting()
    with pytest.raises(OutcomeUnknown):
        driven.fail(Failed(StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max"))


def test_an_operation_without_an_id_may_be_paid_for() -> None:
    """An accepted request whose operation has no id breaks the contract, and may have been bought."""
    driven = submitting()
    with pytest.raises(ProtocolError) as caught:
        driven.answer(Answer(Operation()))
    assert (caught.value.billed, caught.value.resend) == ("unknown", "unsafe")


# ── the drivers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def script() -> Steps:
    """Sleep, ask, fail, ask, and return what came."""
    assert (yield Step(0.001)) is None
    try:
        yield Step(request=READ, timeout=1.0)
    except grpc.RpcError:
        answer = yield Step(request=READ, timeout=2.0)
        assert answer is not None
        return answer.operation
    raise AssertionError("the failure was not thrown in")


def test_both_drivers_perform_the_same_steps() -> None:
    """Both drivers sleep, make the calls that the machine asks for, throw failures in and return its result."""

    def call(step: Step) -> Answer:
        if step.timeout == 1.0:
            raise Failed(StatusCode.UNAVAILABLE)
        return NOT_YET

    async def acall(step: Step) -> Answer:
        return call(step)

    async def main() -> Operation:
        return await adrive(script(), acall, AsyncNaps().nap)

    assert drive(script(), call, Naps().nap) is NOT_YET.operation
    assert asyncio.run(main()) is NOT_YET.operation


def test_other_errors_pass_through_the_drivers_and_end_the_machine() -> None:
    """An error that is not a failed call is not the machine's business, but its last wishes are heard."""

    def call(step: Step) -> Answer:
        raise ConfigurationError("closed")

    async def acall(step: Step) -> Answer:
        return call(step)

    async def main(steps: Steps) -> Operation:
        return await adrive(steps, acall, AsyncNaps().nap)

    first, second = script(), script()
    with pytest.raises(ConfigurationError, match="closed"):
        drive(first, call, Naps().nap)
    with pytest.raises(ConfigurationError, match="closed"):
        asyncio.run(main(second))
    assert inspect.getgeneratorstate(first) == inspect.getgeneratorstate(second) == inspect.GEN_CLOSED


# ── all of it at random ───────────────────────────────────────────────────────────────────────────────────────────────


class AnyWait(RuleBasedStateMachine):
    """One wait after another, answered at random, beside a model that counts the reads."""

    @initialize(holds=st.sampled_from([None, False, True]), attached=st.booleans(), rate=st.sampled_from([0.5, 45.0]))
    def start(self, holds: bool | None, attached: bool, rate: float) -> None:
        self.clock = Clock()
        self.pace = pace_on(self.clock, reads=rate)
        self.pace.holds = holds
        self.rate = rate
        self.metered = 0
        self.wait(attached)

    def wait(self, attached: bool) -> None:
        self.over = False
        self.deadline = self.clock.time + 600.0
        self.waiting = watching(self.pace, timeout=600.0, attached=attached)
        self.count()

    @precondition(lambda self: self.over)
    @rule(attached=st.booleans())
    def wait_for_another(self, attached: bool) -> None:
        self.wait(attached)

    def count(self) -> None:
        """Take note of a call: unless it is held by a server known to hold, it costs a token of the budget."""
        if not (self.waiting.called.hold and self.pace.holds):
            self.metered += 1

    def go_on(self, action: Callable[[], Step]) -> None:
        try:
            action()
        except OperationTimeout:
            self.over = True
            assert self.clock.time <= self.deadline + 1e-6  # about the clock
        else:
            self.count()

    @precondition(lambda self: not self.over)
    @rule(took=st.floats(0.001, 1.0))
    def not_yet(self, took: float) -> None:
        self.go_on(lambda: self.waiting.answer(NOT_YET, after=min(took, self.waiting.called.timeout)))

    @precondition(lambda self: not self.over and self.waiting.called.hold)
    @rule()
    def held_to_the_end(self) -> None:
        hold = self.waiting.called.hold
        assert hold
        self.go_on(lambda: self.waiting.answer(NOT_YET._replace(holds=True), after=hold))

    @precondition(lambda self: not self.over)
    @rule(code=st.sampled_from(sorted(PASSING, key=str)))
    def fails_in_passing(self, code: StatusCode) -> None:
        self.go_on(lambda: self.waiting.fail(Failed(code)))

    @precondition(lambda self: not self.over)
    @rule()
    def fails_for_good(self) -> None:
        with pytest.raises(NotFound):
            self.waiting.fail(Failed(StatusCode.NOT_FOUND))
        self.over = True

    @precondition(lambda self: not self.over)
    @rule(error=st.booleans())
    def ends(self, error: bool) -> None:
        answer = Answer(Operation(id="x", error=Status(code=13))) if error else done()
        assert self.waiting.end(answer, after=0.01) is answer.operation
        self.over = True

    @invariant()
    def keeps_the_budget(self) -> None:
        if hasattr(self, "clock"):
            assert self.metered <= self.clock.time * self.rate + 5 + 1e-6


AnyWait.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnyWait = AnyWait.TestCase
