"""The renewal rule, driven by hand: no clock, no server."""

import logging
from collections.abc import Generator
from math import inf
from typing import Any

import pytest
from grpc import StatusCode

from tests.test_core import Failed
from yandexart_grpc import Unauthenticated, Unavailable, YandexArtError
from yandexart_grpc._step import Answer, Probe, Renewal, Step, Talk
from yandexart_grpc._token import LONGEST_USE, NAP, PATIENCE, PAUSE, SHORT_PATIENCE, SHORT_PAUSE, Tokens
from yandexart_grpc.auth import Header, Token
from yandexart_grpc.stubs import GetOperationRequest, ImageGenerationRequest, Operation

READ = GetOperationRequest(operation_id="x")
ORDER = ImageGenerationRequest()
ANSWER = Answer(Operation(id="x"))
REFUSED = Failed(StatusCode.UNAUTHENTICATED)


class Source:
    """Where tokens come from; the test answers in its place."""

    def token(self) -> Token:
        raise AssertionError


class World:
    """Calls of one client, which share its token, at a time that the test sets."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.woken = 0
        self.source = Source()
        self.tokens = Tokens(self.source, lambda: self.time, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def call(self, request: Any = READ, timeout: float = 30.0) -> "Call":
        return Call(self.tokens.signed(one(Step(request=request, timeout=timeout))))

    def holding(self, text: str, expires_in: float | None) -> None:
        """Let a call fetch that token."""
        call = self.call()
        call.send(token(text, expires_in))
        assert bearer(call.step) == text
        call.send(ANSWER)


class Call:
    """One call under way."""

    def __init__(self, steps: Generator[Step, Answer | None, Answer]) -> None:
        self.steps = steps
        self.answer: Answer | None = None
        self.step = next(steps)

    def send(self, answer: Answer | None) -> None:
        try:
            self.step = self.steps.send(answer)
        except StopIteration as ended:
            self.answer = ended.value

    def throw(self, error: Exception) -> None:
        self.step = self.steps.throw(error)

    @property
    def renews(self) -> bool:
        return isinstance(self.step.request, Renewal)

    @property
    def waits(self) -> bool:
        return self.step == Step(NAP)


def one(step: Step) -> Talk[Answer]:
    """A machine of one call."""
    answer = yield step
    assert answer is not None
    return answer


def token(text: str, expires_in: float | None = 43200.0) -> Answer:
    return Answer(Operation(), token=Token(text, expires_in))


def bearer(step: Step) -> str:
    """The token that a call is made with."""
    assert isinstance(step.authorization, Header)
    return str.removeprefix(step.authorization, "Bearer ")


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_call_fetches_the_token_and_the_others_use_it(world: World) -> None:
    """One renewal, and then every call is one step."""
    first = world.call()
    assert first.step == Step(request=Renewal(world.source), timeout=PATIENCE)
    first.send(token("t1.a"))
    assert first.step == Step(request=READ, timeout=30.0, authorization=first.step.authorization)
    assert bearer(first.step) == "t1.a"
    first.send(ANSWER)
    assert first.answer is ANSWER
    assert bearer(world.call().step) == "t1.a"


@pytest.mark.parametrize(
    ("expires_in", "due"), [(43200.0, LONGEST_USE), (3600.0, 3240.0), (100.0, 90.0), (None, LONGEST_USE), (inf, LONGEST_USE)]
)
def test_a_token_is_renewed_hourly_or_at_a_tenth_of_its_life(world: World, expires_in: float | None, due: float) -> None:
    """Whichever comes first; one that nobody knows the end of, hourly."""
    world.holding("t1.a", expires_in)
    world.time += due - 0.1
    assert bearer(world.call().step) == "t1.a"
    world.time += 0.2
    call = world.call()
    assert call.step == Step(request=Renewal(world.source), timeout=SHORT_PATIENCE)
    call.send(token("t1.b"))
    assert bearer(call.step) == bearer(world.call().step) == "t1.b"


def test_many_wait_for_one_renewal(world: World) -> None:
    """Of those who need a token one renews; the others wait, and go on with what it brought."""
    leader, *others = [world.call() for _ in range(200)]
    assert leader.renews
    assert all(other.waits for other in others)
    others[0].send(None)
    assert others[0].waits
    leader.send(token("t1.a"))
    assert world.woken == 1
    for other in others:
        other.send(None)
        assert bearer(other.step) == "t1.a"


def test_many_share_the_failure_of_one_renewal(world: World) -> None:
    """They fail with it, each with an error of its own."""
    leader, *others = [world.call() for _ in range(200)]
    with pytest.raises(Unavailable, match="said the server"):
        leader.throw(Failed(StatusCode.UNAVAILABLE))
    failures = []
    for other in others:
        with pytest.raises(Unavailable, match="exchanging") as caught:
            other.send(None)
        failures.append(caught.value)
    assert len(set(map(id, failures))) == 199
    assert {(failed.billed, failed.request_id) for failed in failures} == {("no", "r1")}
    world.time += SHORT_PAUSE
    assert world.call().renews


def test_nobody_waits_for_a_renewal_while_the_old_token_holds(world: World) -> None:
    """One renews a token that is due; the others go on with it at once."""
    world.holding("t1.a", 100.0)
    world.time += 95
    leader = world.call()
    assert leader.renews
    assert bearer(world.call().step) == "t1.a"


def test_a_token_is_used_until_it_ends_where_it_cannot_be_renewed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A renewal that fails is repeated after a pause, and the old token used; when that has ended, the error says why."""
    world.holding("t1.a", 1000.0)
    world.time += 950
    call = world.call()
    with caplog.at_level(logging.WARNING, "yandexart_grpc"):
        call.throw(Failed(StatusCode.UNAVAILABLE))
    assert bearer(call.step) == "t1.a"
    assert "holds for 50 s more could not be renewed: exchanging" in caplog.text
    world.time += PAUSE - 1
    assert bearer(world.call().step) == "t1.a"
    world.time += 2
    call = world.call()
    assert call.renews
    call.throw(Failed(StatusCode.UNAVAILABLE))
    assert bearer(call.step) == "t1.a"
    world.time += 20
    call = world.call()
    assert call.step == Step(request=Renewal(world.source), timeout=PATIENCE)  # no pause: there is nothing to go on with
    with pytest.raises(Unavailable, match=r"exchanging .* for a token: UNAVAILABLE: said the server"):
        call.throw(Failed(StatusCode.UNAVAILABLE))
    world.time += SHORT_PAUSE
    call = world.call()
    call.send(token("t1.b"))
    assert bearer(call.step) == "t1.b"


def test_a_refused_token_is_renewed_once_and_the_call_made_once_more(world: World) -> None:
    """Also an order, because it was refused before work; a second refusal is the error."""
    world.holding("t1.a", None)
    call = world.call(ORDER)
    call.throw(REFUSED)
    assert call.renews
    call.send(token("t1.b"))
    assert call.step == Step(request=ORDER, timeout=30.0, authorization=call.step.authorization)
    assert bearer(call.step) == "t1.b"
    with pytest.raises(Failed) as caught:
        call.throw(REFUSED)
    assert caught.value is REFUSED


def test_many_that_are_refused_share_one_renewal(world: World) -> None:
    """Each makes its call once more; one whose refusal arrives later does so with the token that is there by then."""
    world.holding("t1.a", None)
    leader, *others, late = [world.call() for _ in range(200)]
    leader.throw(REFUSED)
    for other in others:
        other.throw(REFUSED)
        assert other.waits
    leader.send(token("t1.b"))
    for other in others:
        other.send(None)
    late.throw(REFUSED)
    assert {bearer(call.step) for call in (leader, *others, late)} == {"t1.b"}


def test_a_probe_that_is_refused_renews_nothing(world: World) -> None:
    """Its refusal is an answer: the server is there."""
    world.holding("t1.a", None)
    call = world.call(Probe("host:1"))
    with pytest.raises(Failed):
        call.throw(REFUSED)


def test_another_failure_is_the_machines_own(world: World) -> None:
    """Everything else that happens to a call is thrown into the machine."""
    world.holding("t1.a", None)
    with pytest.raises(Failed):
        world.call().throw(Failed(StatusCode.UNAVAILABLE))


def test_one_that_goes_away_leaves_the_renewal_to_another(world: World) -> None:
    """A call that is cancelled while it renews wakes the others, and one of them renews."""
    leader, other = world.call(), world.call()
    leader.steps.close()
    assert world.woken == 1
    other.send(None)
    assert other.renews


def test_the_time_for_a_token_is_part_of_the_time_for_the_call(world: World) -> None:
    """What is left is the call's; an order for which none is left is not sent, and a read fails as one that took too long."""
    call = world.call(ORDER, timeout=8)
    assert call.step.timeout == 8
    world.time += 5
    call.send(token("t1.a", 0.0))
    assert call.step.timeout == 3
    call = world.call(ORDER, timeout=8)
    world.time += 9
    with pytest.raises(Unavailable, match="nothing was sent") as caught:
        call.send(token("t1.b", 0.0))
    assert caught.value.billed == "no"
    call = world.call(READ, timeout=8)
    world.time += 9
    call.send(token("t1.c", 0.0))
    assert call.step.timeout == 0.001


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (StatusCode.UNAVAILABLE, Unavailable),
        (StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (StatusCode.UNAUTHENTICATED, Unauthenticated),
        (StatusCode.INVALID_ARGUMENT, Unauthenticated),
        (StatusCode.NOT_FOUND, Unauthenticated),
    ],
)
def test_a_failed_exchange_is_about_the_credential(world: World, code: StatusCode, error: type[YandexArtError]) -> None:
    """What IAM refuses is no fault of the request that wanted the token."""
    with pytest.raises(error, match=f"{code.name}: said the server") as caught:
        world.call(ORDER).throw(Failed(code))
    assert (caught.value.code, caught.value.request_id, caught.value.billed) == (code, "r1", "no")
