"""The core, driven by hand: no clock, no server."""

import asyncio
import inspect
from collections.abc import Callable
from itertools import pairwise
from math import inf
from typing import Any, Self

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
    InvalidRequest,
    NotFound,
    OperationTimeout,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
    Unavailable,
    YandexArtError,
)
from yandexart_grpc._budget import SLOW_FOR
from yandexart_grpc._drive import AsyncNaps, Naps, adrive, drive
from yandexart_grpc._pace import Pace
from yandexart_grpc._plan import LONGEST_BACKOFF
from yandexart_grpc._step import Answer, Leave, Probe, Step, Steps
from yandexart_grpc._submit import connect, submit
from yandexart_grpc._wait import LONGEST_HOLD, PASSING, order, watch
from yandexart_grpc.settings import Limits
from yandexart_grpc.stubs import GetOperationRequest, ImageGenerationRequest, Operation, Status

MODEL = "art://b1g/yandex-art/latest"
REQUEST = ImageGenerationRequest(model_uri=MODEL)
KEY = "k1"
SERVER = Probe("host:1")
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
        self.initial: list[tuple[str, str]] | None = None
        self.trailing = [("x-request-id", "r1"), *((key.replace("_", "-"), value) for key, value in trailing.items())]

    def announcing(self, scope: str | None) -> Self:
        """The same failure of a server that announces where it keeps idempotency keys."""
        self.initial = [("idempotency-scope", scope)] if scope else None
        return self

    def code(self) -> StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    def initial_metadata(self) -> Any:
        return self.initial

    def trailing_metadata(self) -> Any:
        return self.trailing


class Unreached(Failed):
    """A failed call of which no server knows."""

    def __init__(self, code: StatusCode = StatusCode.UNAVAILABLE) -> None:
        super().__init__(code, "said nobody")
        self.trailing = []


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
    connected: bool = True,
    scope: str | None = None,
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
    pace = Pace(limits, clock, {MODEL: [seen] * 64} if seen else {}, plans_changed, SERVER.target)
    pace.connected, pace.scope = connected, scope
    return pace


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

    def fail(self, error: Exception) -> Step:
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


def watching(pace: Pace, *, timeout: float = inf, attached: bool = False, leave: Leave | None = None) -> Driven:
    known: dict[str, Any] = {} if attached else {"model": MODEL, "born": pace.now()}
    assert isinstance(pace.now, Clock)
    return Driven(watch("x", pace, pace.now() + timeout, leave=leave, **known), pace.now)


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


async def _nobody() -> None:
    """Who is asked for leave; a script answers in his place."""


def test_leave_is_asked_before_each_read() -> None:
    """The age at which the operation was not done is that of the read, however long the leave took."""
    clock, leave = Clock(), Leave(_nobody)
    pace = pace_on(clock)
    waiting = watching(pace, leave=leave)
    assert waiting.called == Step(request=leave)
    assert waiting.answer(Answer(Operation()), after=7.0) == Step(request=READ, timeout=30.0)
    asked = clock.time
    assert waiting.answer(NOT_YET) == Step(request=leave)
    assert clock.time == pytest.approx(pace.law(MODEL).next_age(asked, 0.1))
    assert waiting.answer(Answer(Operation())) == Step(request=READ, timeout=30.0)
    assert waiting.end(done()).id == "x"


def test_a_leave_that_comes_too_late_is_not_taken() -> None:
    """Nothing is asked after the deadline."""
    waiting = watching(pace_on(Clock(), seen=1.0), timeout=9.0, leave=Leave(_nobody))
    waiting.clock.time += 9.0
    with pytest.raises(OperationTimeout):
        waiting.steps.send(Answer(Operation()))


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


# ── submits: money ────────────────────────────────────────────────────────────────────────────────────────────────────


ORDER = Step(request=REQUEST, timeout=30.0, key=KEY)
UNKNOWN = ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED", "DATA_LOSS"]
LOST = Failed(StatusCode.UNAVAILABLE, "lost")


def here(scope: str | None = "s1") -> Answer:
    """What a probe brings."""
    return Answer(Operation(), scope=scope)


def submitting(pace: Pace | None = None, deadline: float = inf) -> Driven:
    pace = pace or pace_on(Clock())
    assert isinstance(pace.now, Clock)
    return Driven(submit(REQUEST, pace, deadline, KEY), pace.now)


def keeping(clock: Clock | None = None) -> Pace:
    """A client whose server has announced where it keeps idempotency keys."""
    return pace_on(clock or Clock(), scope="s1")


def ends(driven: Driven, error: Exception, kind: type[YandexArtError], words: str) -> YandexArtError:
    """The error with which the machine ends when its call fails so."""
    with pytest.raises(kind, match=words) as caught:
        driven.fail(error)
    assert type(caught.value) is kind
    return caught.value


def test_a_submit_is_one_call() -> None:
    """A submit is one call with its key, at once, and returns the operation; what the server announces is remembered."""
    pace = pace_on(Clock())
    driven = submitting(pace, deadline=5.0)
    assert driven.called == ORDER._replace(timeout=5.0)
    assert driven.end(NOT_YET._replace(holds=True, scope="s1")) is NOT_YET.operation
    assert (pace.holds, pace.scope) == (True, "s1")


def test_an_order_begins_with_a_harmless_question() -> None:
    """Where it is not known that the server is there, that is asked first, and what it announces is remembered."""
    pace = pace_on(Clock(), connected=False)
    driven = submitting(pace, deadline=5.0)
    assert driven.called == Step(request=SERVER, timeout=5.0)
    assert driven.answer(here(), after=1.0) == ORDER._replace(timeout=4.0)
    assert (pace.connected, pace.scope) == (True, "s1")
    assert submitting(pace).called == ORDER


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED])
def test_a_server_that_is_not_there_has_got_nothing(code: StatusCode) -> None:
    """Before anything was sent, an attempt to connect that fails is a clean failure at once."""
    driven = submitting(pace_on(Clock(), connected=False))
    error = ends(driven, Unreached(code), Unavailable, "host:1 cannot be reached, and nothing was ordered")
    assert (error.billed, error.resend, driven.clock.time) == ("no", "safe", 0)


def test_an_order_for_which_no_connection_could_be_made_was_not_sent() -> None:
    """The connection broke unnoticed, and gRPC says that it found no other: that is as clean."""
    refused = Failed(StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused")
    error = ends(submitting(pace_on(Clock())), refused, Unavailable, "host:1 cannot be reached, and nothing was ordered")
    assert (error.billed, error.resend) == ("no", "safe")


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
def test_any_answer_of_the_server_tells_that_it_is_there(code: StatusCode) -> None:
    """A server that does not know the question, or does not like it, is there all the same; it may announce its scope."""
    pace = pace_on(Clock(), connected=False)
    assert submitting(pace).fail(Failed(code).announcing("s1")) == ORDER
    assert pace.scope == "s1"


def test_whatever_announces_something_is_a_server() -> None:
    """A failure that comes with metadata came from the server, whichever code it has."""
    assert submitting(pace_on(Clock(), connected=False)).fail(Unreached().announcing("s1")) == ORDER


def test_only_the_server_that_takes_orders_tells_where_it_keeps_keys() -> None:
    """A server that is merely read from may be connected to; what it announces says nothing about orders."""
    pace = pace_on(Clock(), connected=False)
    asking = connect("host:2", pace, inf)
    assert next(asking).request == Probe("host:2")
    with pytest.raises(StopIteration):
        asking.send(here("s2"))
    assert (pace.connected, pace.scope) == (False, None)


def test_no_order_is_sent_after_its_time() -> None:
    """When the time is up before anything was sent, nothing is sent, and that is said."""
    driven = submitting(pace_on(Clock(), connected=False), deadline=1.0)
    with pytest.raises(Unavailable, match="the time was up before anything was ordered") as caught:
        driven.answer(here(), after=1.0)
    assert caught.value.billed == "no"


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
    driven = Driven(order(REQUEST, pace_on(clock), inf, KEY), clock)
    assert driven.answer(NOT_YET).request == READ
    assert driven.end(done()).done
    assert Driven(order(REQUEST, pace_on(clock), inf, KEY), clock).end(done()).done


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_lost_answer_is_an_unknown_outcome(name: str) -> None:
    """Toward a server that announces nothing, an order whose answer was lost is not repeated; the error tells the key."""
    error = ends(submitting(), Failed(StatusCode[name]), OutcomeUnknown, "not sent again.*idempotency_key='k1' asks again")
    assert (error.billed, error.resend, error.code) == ("unknown", "unsafe", StatusCode[name])
    assert error.request_id == "r1"


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_lost_answer_is_asked_for_again_where_the_key_is_known(name: str) -> None:
    """The server that announced a scope is asked whether it is there, and has it still; then it gets the same order again."""
    pace = keeping()
    driven = submitting(pace)
    assert driven.fail(Failed(StatusCode[name])) == Step(request=SERVER, timeout=30.0, reconnect=True)
    assert driven.clock.time == pytest.approx(0.1)
    assert not pace.connected
    assert driven.answer(here()) == ORDER
    assert driven.end(NOT_YET._replace(scope="s1")).id == "x"


def test_a_scope_may_be_announced_with_the_failure() -> None:
    """A client that did not know the scope when it sent the order learns it from the initial metadata of the failed call."""
    driven = submitting()
    assert driven.fail(Failed(StatusCode.INTERNAL).announcing("s1")).request == SERVER
    assert driven.answer(here()) == ORDER


@pytest.mark.parametrize(
    ("scope", "words"), [("s2", "another store now, so it was not sent again"), (None, "does not announce any more")]
)
def test_a_server_that_would_not_know_the_key_is_not_asked_again(scope: str | None, words: str) -> None:
    """When the server comes back with another store, or with none, the order is not repeated."""
    driven = submitting(keeping())
    driven.fail(LOST)
    with pytest.raises(OutcomeUnknown, match=words) as caught:
        driven.answer(here(scope))
    assert (caught.value.billed, caught.value.__cause__) == ("unknown", LOST)


def test_two_stores_that_may_both_have_the_order_end_it() -> None:
    """A repetition that reaches another store than the first attempt, and is lost as well, is the last one."""
    driven = submitting(keeping())
    driven.fail(LOST)
    driven.answer(here())
    ends(driven, Failed(StatusCode.INTERNAL).announcing("s2"), OutcomeUnknown, "another store")


def test_a_server_that_stays_away_is_asked_until_the_deadline() -> None:
    """Questions become rarer, up to one in five seconds; at the deadline the outcome is unknown, with the last failure."""
    driven = submitting(keeping(), deadline=60.0)
    times, gone = [0.0], Unreached()
    driven.fail(LOST)

    def ask() -> None:
        times.append(driven.clock.time)
        assert driven.called.request == SERVER
        driven.fail(gone)

    with pytest.raises(OutcomeUnknown, match=r"UNAVAILABLE: lost; .* no answer came until the timeout") as caught:
        repeat(ask)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    assert pauses[6:] == pytest.approx([5.0] * len(pauses[6:]))
    assert 55 <= times[-1] < 60
    assert caught.value.__cause__ is gone


def test_an_order_that_is_lost_again_is_made_sure_of_again() -> None:
    """Every repetition follows a question of its own, later each time."""
    driven = submitting(keeping())
    times = []
    for _ in range(5):
        assert driven.fail(LOST).request == SERVER
        times.append(driven.clock.time)
        assert driven.answer(here()) == ORDER
    assert times == pytest.approx([0.1, 0.3, 0.7, 1.5, 3.1])
    assert driven.end(NOT_YET)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (StatusCode.OUT_OF_RANGE, InvalidRequest),
        (StatusCode.ALREADY_EXISTS, InvalidRequest),
        (StatusCode.FAILED_PRECONDITION, OutcomeUnknown),
        (StatusCode.UNAUTHENTICATED, OutcomeUnknown),
        (StatusCode.PERMISSION_DENIED, OutcomeUnknown),
        (StatusCode.UNIMPLEMENTED, OutcomeUnknown),
    ],
)
def test_a_refusal_after_a_lost_answer(code: StatusCode, kind: type[YandexArtError]) -> None:
    """A refusal of the request holds for the attempt that was lost; one of the caller tells nothing of what came before."""
    driven = submitting(keeping())
    driven.fail(LOST)
    driven.answer(here())
    ends(driven, Failed(code), kind, f"{code.name}: said the server")


def test_a_client_that_is_closed_in_doubt_says_so() -> None:
    """What ends an order between its attempts leaves the outcome unknown, whatever it is."""
    driven = submitting(keeping())
    driven.fail(LOST)
    ends(driven, ConfigurationError("this client is closed"), OutcomeUnknown, "lost; .* and then: this client is closed")
    ends(submitting(keeping()), ConfigurationError("this client is closed"), ConfigurationError, "^this client is closed$")


def test_repetitions_share_one_budget_of_the_process() -> None:
    """Of many orders that are lost together fifty are repeated at once, and five a second after that, whichever client's."""
    clock = Clock()
    machines = [Driven(submit(REQUEST, keeping(clock), inf, KEY), clock).steps for _ in range(60)]
    asleep = [(0.0, machine, machine.throw(LOST)) for machine in machines]
    repeated = []
    while asleep:
        start, machine, step = min(asleep, key=lambda nap: nap[0] + nap[2].after)
        asleep.remove((start, machine, step))
        clock.time = max(clock.time, start + step.after)
        step = machine.send(None)
        if step.request is None:
            asleep.append((clock.time, machine, step))
        else:
            repeated.append(clock.time)
    assert repeated[:50] == pytest.approx([0.1] * 50)
    assert repeated[50:] == pytest.approx([0.3 + 0.2 * number for number in range(10)])


def test_what_succeeds_pays_for_repetitions() -> None:
    """Ten orders that are accepted let one more be repeated; those of Yandex do not count."""
    clock = Clock()
    pace = keeping(clock)
    numbers = [pace.resends.take() for _ in range(60)]
    assert pace.resends.opens(numbers[50]) == pytest.approx(0.2)
    for _ in range(10):
        submitting(pace).end(NOT_YET._replace(scope="s1"))
    assert pace.resends.opens(numbers[50]) == pytest.approx(0.0)
    submitting(pace).end(NOT_YET)
    assert pace.resends.opens(numbers[51]) == pytest.approx(0.2)


def test_a_fork_and_another_server_have_budgets_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of one process share the budget for one server, and no other."""
    clock = Clock()
    pace, other = keeping(clock), keeping(clock)
    ours = pace.resends
    assert other.resends is ours
    other.target = "host:2"
    assert other.resends is not ours
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert pace.resends is not ours


def test_no_repetition_waits_for_a_turn_beyond_the_deadline() -> None:
    """When too many orders wait to be repeated, that is said at once."""
    clock = Clock()
    pace = keeping(clock)
    for _ in range(100):
        pace.resends.take()
    ends(submitting(pace, deadline=5.0), LOST, OutcomeUnknown, "too many orders wait to be sent again")
    assert clock.time == 0


@pytest.mark.parametrize("code", [code for code in StatusCode if code.name not in [*UNKNOWN, "OK", "RESOURCE_EXHAUSTED"]])
def test_a_refusal_has_bought_nothing(code: StatusCode) -> None:
    """When the server refuses, the error says that nothing is paid for and that resending is safe."""
    driven = submitting(keeping())
    with pytest.raises(YandexArtError, match="said the server") as caught:
        driven.fail(Failed(code))
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")


def test_a_quota_is_waited_for() -> None:
    """A quota has refused before work: the same order goes again, later each time up to ten seconds, with no other question."""
    driven = submitting()
    times = [0.0]
    for _ in range(7):
        assert driven.fail(Failed(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed: allowed 10 requests")) == ORDER
        times.append(driven.clock.time)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == pytest.approx([1, 2, 4, 8, 10, 10, 10])
    assert driven.end(NOT_YET)


def test_a_quota_is_waited_for_as_long_as_the_server_says() -> None:
    """When the server says after how long to come again, nobody of the client comes earlier."""
    clock = Clock()
    pace = pace_on(clock)
    driven = submitting(pace)
    assert driven.fail(Failed(StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="7250")) == ORDER
    assert clock.time == pytest.approx(7.25)
    clock.time = 0.0
    assert submitting(pace).called == ORDER
    assert clock.time == pytest.approx(7.25)


def test_a_quota_slows_the_others_down() -> None:
    """After a refusal that names no time, the client submits at half its rate for a while."""
    clock = Clock()
    pace = pace_on(clock, submits=600)
    submitting(pace).steps.throw(Failed(StatusCode.RESOURCE_EXHAUSTED))
    opened = [pace.submits.opens(pace.submits.take()) for _ in range(60)]
    assert opened[-1] - opened[-6] == pytest.approx(1.0)


@pytest.mark.parametrize(("told", "deadline"), [({}, 0.9), ({"grpc_retry_pushback_ms": "7250"}, 7.0)])
def test_a_quota_that_outlasts_the_wait_is_said_at_once(told: dict[str, str], deadline: float) -> None:
    """When the next attempt would come after the deadline, nobody waits for it."""
    driven = submitting(deadline=deadline)
    error = ends(driven, Failed(StatusCode.RESOURCE_EXHAUSTED, "no more", **told), QuotaExceeded, "no more")
    assert (error.billed, error.resend, driven.clock.time) == ("no", "safe", 0)


@pytest.mark.parametrize(
    "words", ["5000 requests per day", "Daily limit reached", "requests_per_day", "превышена квота за сутки", "лимит на день"]
)
def test_the_quota_of_a_day_is_not_waited_for(words: str) -> None:
    """A quota that comes back tomorrow is an error at once."""
    driven = submitting()
    ends(driven, Failed(StatusCode.RESOURCE_EXHAUSTED, words), QuotaExceeded, words)
    assert driven.clock.time == 0


def test_a_quota_is_told_apart_from_an_answer_that_is_too_large() -> None:
    """Both are RESOURCE_EXHAUSTED: the too large answer came after work, and would be as large a second time."""
    error = Failed(StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max")
    ends(submitting(keeping()), error, OutcomeUnknown, "max_message_bytes")


def test_a_quota_after_a_lost_answer_leaves_the_outcome_unknown() -> None:
    """A repetition that a quota refuses is waited for as well, and says nothing about the attempt that was lost."""
    driven = submitting(keeping(), deadline=5.0)
    driven.fail(LOST)
    driven.answer(here())
    assert driven.fail(Failed(StatusCode.RESOURCE_EXHAUSTED)).request == SERVER
    assert driven.answer(here()).request == REQUEST
    ends(driven, Failed(StatusCode.RESOURCE_EXHAUSTED, "per day"), OutcomeUnknown, "lost; .* per day")


def test_an_operation_without_an_id_may_be_paid_for() -> None:
    """An accepted request whose operation has no id breaks the contract, and may have been bought."""
    driven = submitting()
    with pytest.raises(ProtocolError) as caught:
        driven.answer(Answer(Operation()))
    assert (caught.value.billed, caught.value.resend) == ("unknown", "unsafe")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.PERMISSION_DENIED, None]),
            st.sampled_from([None, "s1", "s2"]),
        )
    )
)
def test_no_order_is_ever_bought_twice(replies: list[tuple[StatusCode | None, str | None]]) -> None:
    """Whatever a server answers, an order that may have been accepted goes only to the store that the first one went to, and an
    error that claims that nothing was billed is true."""
    driven = submitting(pace_on(Clock(), connected=False), deadline=100.0)
    asked = bought = ended = None  # where the server said last that it keeps keys, where the order may have been accepted
    for code, scope in replies:
        probed = driven.called.request == SERVER
        if not probed and bought:
            assert (asked, driven.called.key) == (bought, KEY)
        if not probed and code is StatusCode.UNAVAILABLE:
            bought = bought or scope or asked or "nobody knows"
        asked = scope if probed else asked
        try:
            if code is None:
                driven.answer(here(scope) if probed else NOT_YET._replace(scope=scope))
            else:
                driven.fail(Failed(code).announcing(scope))
        except (StopIteration, YandexArtError) as error:
            ended = error
            break
    if isinstance(ended, YandexArtError):
        assert ended.billed == ("unknown" if bought else "no")


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
