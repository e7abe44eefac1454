"""The best schedule there can be, for a law of durations that is known: what a learned one is measured against.

Of all sequences of ages t1 < t2 < ... it minimises c * (mean number of reads) + (mean lag). Let W(s) be what is still to be paid
after the read at age s found nothing, times the chance of that. With F the law, G its integral, and t the age of the next read

    W(s) = min over t > s of  c (1 - F(s)) + G(t) - G(s) - (t - s) F(s) + W(t)

For one s this is the lowest of the lines y = -t x + G(t) + W(t) at x = F(s). Going from the last age to the first, both the
slopes and the places asked about are in order, so the lower envelope is kept in a queue, and all of W costs one pass over a grid
of ages.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

STEPS = 20_000
"""Ages in the grid."""


class Cost(NamedTuple):
    """What a schedule costs on average."""

    reads: float
    lag: float


class Optimum:
    """Best schedules for one law."""

    def __init__(self, cdf: Callable[[float], float], oldest: float) -> None:
        """`cdf` is the law, `oldest` an age in seconds that practically no operation reaches."""
        self._ages = [oldest * step / STEPS for step in range(STEPS + 1)]
        self._values = [cdf(age) for age in self._ages[:-1]] + [1.0]
        self._integrals = [0.0]
        for before, after in zip(self._values, self._values[1:], strict=False):
            self._integrals.append(self._integrals[-1] + (before + after) / 2 * oldest / STEPS)

    def at(self, reads: float) -> Cost:
        """The least lag for that mean number of reads."""
        low, high = 1e-5, 1e3
        for _ in range(40):
            price = (low * high) ** 0.5
            cost = self._cost(self._schedule(price))
            low, high = (price, high) if cost.reads > reads else (low, price)
        over, under = self._cost(self._schedule(low)), self._cost(self._schedule(high))
        # Between two neighbours on the grid a mixture of both is as good as it gets.
        share = (reads - under.reads) / (over.reads - under.reads) if over.reads > under.reads else 0.0
        return Cost(reads, under.lag + share * (over.lag - under.lag))

    def _schedule(self, price: float) -> list[int]:
        """The best ages, as places in the grid, where a read costs as much as `price` seconds of lag."""
        ages, values, integrals = self._ages, self._values, self._integrals
        following = [STEPS] * (STEPS + 1)
        envelope = deque([(ages[STEPS], integrals[STEPS], STEPS)])  # of each line: its falling slope, its start, its place
        for place in range(STEPS - 1, -1, -1):
            value = values[place]
            while len(envelope) > 1 and _at(envelope[1], value) <= _at(envelope[0], value):
                envelope.popleft()
            following[place] = envelope[0][2]
            left = price * (1 - value) - integrals[place] + ages[place] * value + _at(envelope[0], value)
            line = (ages[place], integrals[place] + left, place)
            while len(envelope) > 1 and _covers(envelope[-2], line, envelope[-1]):
                envelope.pop()
            envelope.append(line)
        return following

    def _cost(self, following: list[int]) -> Cost:
        reads = lag = 0.0
        place = 0
        while place < STEPS:
            then = following[place]
            passed = self._ages[then] - self._ages[place]
            reads += 1 - self._values[place]
            lag += self._integrals[then] - self._integrals[place] - passed * self._values[place]
            place = then
        return Cost(reads, lag)


def _at(line: tuple[float, float, int], x: float) -> float:
    return line[1] - line[0] * x


def _covers(older: tuple[float, float, int], newer: tuple[float, float, int], middle: tuple[float, float, int]) -> bool:
    """Whether the line in the middle is nowhere below both others."""
    return (newer[1] - older[1]) * (older[0] - middle[0]) <= (middle[1] - older[1]) * (older[0] - newer[0])
