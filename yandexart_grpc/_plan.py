"""When to ask next: pure arithmetic, no clock.

The rule: ask when the image is expected to have lain ready, unseen, for `patience` seconds since the last question. With F the
distribution of durations, S = 1 - F and G the integral of F, the question at age s is followed by the one at the age t where

    E[(t - T)+ | T > s]  =  (G(t) - G(s) - (t - s) F(s)) / S(s)  =  patience

F is learned from the durations seen so far (polling.md; after Keller 1974, "Optimum checking schedules for systems subject to
random failure"). It is piecewise linear, so that t is found by bisection and one square root.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from math import exp, log, sqrt
from operator import mul, sub
from typing import NamedTuple

WINDOW = 64
"""How many durations are remembered."""
GUESSES = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Durations in seconds to begin with. Each real one drives out the guess that is farthest from what is known."""
SHORTEST_DURATION = 1e-6
LONGEST_PAUSE = 30.0
"""Seconds between two questions at the most."""
NEWS = 8
"""The plan changes as soon as there is one new duration for so many known ones."""

LATENESS = 0.8
"""Of an operation that the question at one age found done, it is taken that it was not done at this share of that age."""


SHORTEST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0
"""Seconds before what failed is tried again."""


def backoff(failures: int, shortest: float = SHORTEST_BACKOFF, longest: float = LONGEST_BACKOFF) -> float:
    """How long to wait after so many failures in a row, in seconds: twice as long after each."""
    return min(shortest * 2.0 ** min(failures - 1, 10), longest)


def between(asked: float, found: float) -> float:
    """How long an operation is taken to have lasted that was not done at the age `asked` and was at the age `found`.

    The middle, but not of all the time before a first question: most is done shortly before the age at which a plan asks first.
    Never `found` itself: a plan that learned that would lock itself into being late.
    """
    return (max(asked, LATENESS * found) + found) / 2


def default_patience(in_flight: int, rate: float) -> float:
    """The patience in seconds that keeps `in_flight` waits within `rate` reads a second."""
    return min(0.2, max(0.01, (0.14 * in_flight / rate) ** 2))


class Knots(NamedTuple):
    """A piecewise linear distribution: at each age, its value, its integral up to there, and its slope from there on."""

    ages: Sequence[float]
    values: list[float]
    integrals: list[float]
    slopes: list[float]


class Law:
    """How long operations of one model take."""

    def __init__(self, durations: Iterable[float] = ()) -> None:
        """Begin with durations in seconds that were seen earlier, oldest first."""
        self.durations = deque(durations, WINDOW)
        self.learned = 0
        """How many durations were taken in since."""
        self._knots = _smear(_with_guesses(self.durations))
        self._news = 0
        self.teachers = 0
        """How many operations are under way that it will learn from."""

    def learn(self, duration: float) -> None:
        """Take in one more duration, in seconds. When much is known, a few of them change the plan together."""
        self.learned += 1
        self.durations.append(max(duration, SHORTEST_DURATION))
        self._news += 1
        if self._news * NEWS >= len(self.durations):
            self._news = 0
            self._knots = _smear(_with_guesses(self.durations))

    def next_age(self, asked: float, patience: float) -> float:
        """The age in seconds at which to ask again about an operation that was not done at the age `asked`."""
        knots = self._knots  # read once: another thread may put new ones in place
        if asked >= knots.ages[-1]:
            # Older than anything known: survival falls as 1 / age, and the rule becomes this.
            return asked + min(LONGEST_PAUSE, sqrt(2 * patience * max(asked, SHORTEST_DURATION)))
        at = bisect_right(knots.ages, asked) - 1
        since, slope = asked - knots.ages[at], knots.slopes[at]
        value = knots.values[at] + slope * since
        integral = knots.integrals[at] + (knots.values[at] + slope * since / 2) * since
        # In H(t) = G(t) - t F(s), which never falls after s, the rule reads: H(t) = H(s) + patience S(s).
        reached, excess, start = integral - asked * value, 0.0, asked
        target = reached + patience * (1 - value)
        passed = bisect_right(
            range(at + 1, len(knots.ages)), target, key=lambda knot: knots.integrals[knot] - knots.ages[knot] * value
        )
        if passed:
            at += passed
            start, slope, excess = knots.ages[at], knots.slopes[at], knots.values[at] - value
            reached = knots.integrals[at] - start * value
        missing = target - reached
        pause = 2 * missing / (excess + sqrt(excess * excess + 2 * slope * missing))
        return min(start + pause, asked + LONGEST_PAUSE)


def _with_guesses(durations: Collection[float]) -> list[float]:
    """The durations, and as many guesses as are not yet driven out."""
    if len(durations) >= len(GUESSES):
        return sorted(durations)
    centre = sum(map(log, durations)) / len(durations) if durations else 0.0
    guesses = sorted(GUESSES, key=lambda guess: abs(log(guess) - centre))
    return sorted([*durations, *guesses[: len(GUESSES) - len(durations)]])


def _smear(durations: list[float]) -> Knots:
    """The distribution that these durations are drawn from, as far as they tell.

    Each is spread evenly over a range around it, the wider the more they differ and the fewer there are. A little mass lies
    before the first range and after the last.
    """
    count = len(durations)
    logs = [log(duration) for duration in durations]
    centre = sum(logs) / count
    spread = sqrt((sum((value - centre) ** 2 for value in logs) + 0.18) / (count + 2))
    width = exp(0.9 * spread * count**-0.2)
    mass = (1 - 0.6 / (count + 2)) / count
    rise = mass / (width - 1 / width)
    turns = [(duration / width, rise / duration) for duration in durations]
    turns += [(duration * width, -rise / duration) for duration in durations]
    turns.sort()
    first, slope = turns[0][0], 0.1 / (count + 2) / turns[0][0]
    ages, changes = zip((0.0, slope), (first, -slope), *turns, strict=True)
    slopes = [max(0.0, slope) for slope in accumulate(changes)]
    slopes[-1] = 0.0
    gaps = [*map(sub, ages[1:], ages)]
    values = [*accumulate(map(mul, slopes, gaps), initial=0.0)]
    areas = [gap * (value + following) / 2 for gap, value, following in zip(gaps, values, values[1:], strict=False)]
    return Knots(ages, values, [*accumulate(areas, initial=0.0)], slopes)
