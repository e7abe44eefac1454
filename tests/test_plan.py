"""When to ask, and how often: the schedule, the budget, and the file that keeps what was learned."""

import json
import logging
from math import exp, inf, isclose
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_core import Clock
from yandexart_grpc import _history
from yandexart_grpc._budget import SLOW_FOR, Budget
from yandexart_grpc._plan import LONGEST_PAUSE, WINDOW, Law, default_patience

DURATIONS = st.lists(st.floats(1e-9, 36_000.0), max_size=80)
AGES = st.floats(0.0, 100_000.0)
PATIENCES = st.floats(0.001, 10.0)


@given(DURATIONS, AGES, PATIENCES)
def test_the_next_question_comes_later_but_not_too_late(durations: list[float], asked: float, patience: float) -> None:
    """Whatever was learned, the next age is greater than the last, by half a minute at the most."""
    age = Law(durations).next_age(asked, patience)
    assert asked < age <= asked + LONGEST_PAUSE + 1e-6


@given(DURATIONS, AGES, PATIENCES, PATIENCES)
def test_more_patience_never_asks_sooner(durations: list[float], asked: float, one: float, other: float) -> None:
    """The next age grows with patience."""
    law = Law(durations)
    sooner, later = law.next_age(asked, min(one, other)), law.next_age(asked, max(one, other))
    assert sooner <= later or isclose(sooner, later, rel_tol=1e-9)


@pytest.mark.parametrize("duration", [1e-12, 1e-9, 0.001, 3.0, 3600.0, 1e6])
def test_identical_durations_are_harmless(duration: float) -> None:
    """When all operations take the same time, however long, they are found with few questions and little delay."""
    law = Law()
    for _ in range(100):
        law.learn(duration)
    age, reads = 0.0, 0
    while age < duration:
        age, reads = law.next_age(age, 0.1), reads + 1
    assert reads <= 20 + duration / LONGEST_PAUSE
    assert age - duration <= max(0.5, 0.1 * min(duration, 300.0))


@given(st.lists(st.floats(0.5, 60.0), min_size=1, max_size=64), PATIENCES)
def test_the_rule_is_kept(durations: list[float], patience: float) -> None:
    """At the next age, the image is expected to have lain ready for `patience` seconds: checked by summing over the law."""
    law = Law(durations)
    knots = law._knots
    age = law.next_age(0.0, patience)
    if age >= min(knots.ages[-1], LONGEST_PAUSE):
        return
    expected = 0.0
    for at, (start, end) in enumerate(zip(knots.ages, knots.ages[1:], strict=False)):
        upper = min(end, age)
        if upper > start:
            # An image that becomes ready between start and upper lies until age, on average since their middle.
            expected += knots.slopes[at] * (upper - start) * (age - (start + upper) / 2)
    assert expected == pytest.approx(patience, rel=1e-6)


def test_real_durations_drive_out_the_guesses() -> None:
    """A law that begins with guesses follows what it sees: after a few durations, the first question is near them."""
    law = Law()
    for _ in range(5):
        law.learn(100.0)
    assert law.next_age(0.0, 0.1) == LONGEST_PAUSE
    law = Law()
    for _ in range(5):
        law.learn(1.0)
    assert 0.5 < law.next_age(0.0, 0.1) < 2.0


def test_only_the_latest_durations_count() -> None:
    """The window moves: old durations are forgotten."""
    law = Law([1.0] * 500)
    assert len(law.durations) == WINDOW
    for _ in range(WINDOW):
        law.learn(20.0)
    assert set(law.durations) == {20.0}


def test_reads_and_lag_are_those_of_the_study() -> None:
    """With 64 durations learned of a lognormal law, median 12 s, an image costs about six reads and 0.65 s of lag."""
    random = Random(1)

    def draw() -> float:
        return 12 * exp(0.35 * random.gauss(0, 1))

    law, reads, lag = Law([draw() for _ in range(WINDOW)]), 0, 0.0
    for _ in range(2000):
        ready, asked, age = draw(), 0.0, 0.0
        while age < ready:
            asked, age, reads = age, law.next_age(age, 0.1), reads + 1
        lag += age - ready
        law.learn((asked + age) / 2)
    assert reads / 2000 == pytest.approx(6.1, abs=0.6)
    assert lag / 2000 == pytest.approx(0.65, abs=0.06)
    # At the optimum, mean lag is patience times mean reads.
    assert lag / reads == pytest.approx(0.1, rel=0.15)


def test_patience_follows_the_number_in_flight() -> None:
    """Alone, a wait is impatient; many are patient enough to fit the budget."""
    assert default_patience(1, 45) == 0.01
    assert default_patience(100, 45) == pytest.approx(0.0968, rel=1e-3)
    assert default_patience(1000, 45) == 0.2
    assert default_patience(1000, inf) == 0.01


# ── the budget ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    rate=st.floats(0.1, 1000.0),
    burst=st.integers(1, 20),
    arrivals=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=100),
    slowed=st.sets(st.integers(0, 99), max_size=3),
)
def test_the_budget_is_never_exceeded(rate: float, burst: int, arrivals: list[float], slowed: set[int]) -> None:
    """However callers arrive, no stretch of time sees more than rate times its length and the burst, and they go in order."""
    clock = Clock()
    budget = Budget(rate, burst, clock)
    granted: list[float] = []
    for number, pause in enumerate(arrivals):
        clock.time += pause
        if number in slowed:
            budget.slow_down()
        for step in budget.turn():
            clock.time += step.after
        granted.append(clock.time)
    assert granted == sorted(granted)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + rate * (granted[last] - granted[first]) + 1 + 1e-6


def test_the_burst_is_free_and_then_the_rate_rules() -> None:
    """After a quiet time a few calls go at once, and the rest at the rate."""
    clock = Clock()
    budget = Budget(10.0, 5, clock)
    clock.time = 100.0
    opened = [budget.opens(budget.take()) for _ in range(8)]
    assert [time <= 100.0 for time in opened] == [True] * 5 + [False] * 3
    assert opened[5:] == pytest.approx([100.1, 100.2, 100.3])


def test_numbers_that_are_taken_open_later_when_the_rate_falls() -> None:
    """A slow-down holds for those who wait already, and ends by itself; a pause lets nothing go before it is over."""
    clock = Clock()
    budget = Budget(10.0, 1, clock)
    numbers = [budget.take() for _ in range(101)]
    assert budget.opens(numbers[100]) == pytest.approx(10.0)
    budget.slow_down()
    assert budget.opens(numbers[50]) == pytest.approx(SLOW_FOR)
    assert budget.opens(numbers[100]) == pytest.approx(SLOW_FOR + 5.0)
    budget.pause(3.0)
    assert budget.opens(numbers[1]) >= 3.0


def test_those_who_wake_late_do_not_catch_up_at_once() -> None:
    """When everybody was kept from waking in time, no more than the burst go together, and the rest at the rate."""
    clock = Clock()
    budget = Budget(10.0, 5, clock)
    turns = [budget.turn() for _ in range(60)]
    waiting = [turn for turn in turns if next(turn, None)]
    assert len(waiting) == 55
    clock.time = 3.0
    waiting = [turn for turn in waiting if next(turn, None)]
    assert len(waiting) >= 55 - 6
    clock.time = 3.5
    assert len([turn for turn in waiting if next(turn, None)]) >= len(waiting) - 6


def test_a_turn_that_comes_too_late_is_not_waited_for() -> None:
    """Beyond the deadline there is no turn, which is said at once."""
    budget = Budget(1.0, 1, Clock())
    budget.take()
    turn = budget.turn(deadline=0.5)
    with pytest.raises(StopIteration) as stop:
        next(turn)
    assert stop.value.value is False


def test_an_endless_rate_never_waits() -> None:
    """Without a limit every turn is now."""
    budget = Budget(inf, 5, Clock())
    assert [list(budget.turn()) for _ in range(100)] == [[]] * 100


# ── the history ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_learned_is_kept(tmp_path: Path) -> None:
    """The file holds the durations by model, and nothing else lies beside it."""
    path = tmp_path / "history.json"
    durations = {"art://b1g/one": [1.5, 2.5], "art://b1g/two": [3.0]}
    _history.save(path, durations)
    assert _history.load(path) == durations
    assert list(tmp_path.iterdir()) == [path]


def test_no_history_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing file is the usual start, and nothing learned makes no file."""
    assert _history.load(tmp_path / "none.json") == {}
    _history.save(tmp_path / "none.json", {})
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "durations": []}', '{"format": 2, "durations": {"m": [1]}}']
    + [json.dumps({"format": 1, "durations": {"m": value}}) for value in ([-1.0], ["x"], [0], [1e999], 5, None, [None])]
    + ['{"format": 1, "durations": {"m": [NaN]}}', "\x00\xff"],
)
def test_a_damaged_history_is_ignored_with_a_warning(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the file holds, the client starts; the log says that it was ignored."""
    path = tmp_path / "history.json"
    path.write_text(text, "latin-1")
    assert _history.load(path) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "is ignored" in caplog.text


def test_a_history_that_cannot_be_saved_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The images are not affected when the file cannot be written."""
    _history.save(tmp_path / "no folder" / "history.json", {"m": [1.0]})
    assert "cannot be saved" in caplog.text
