"""Reads and lag of the schedule in a simulated world, beside simple schedules and the best one there can be.

The waiting machines are the real ones (`benchmarks.virtual`), and so is what they learn: each client first sees 64 operations,
from whose reads alone it has to tell how long they took, and goes on learning from the ones that count.
"""

import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

from benchmarks.measure import Report
from benchmarks.optimum import Optimum
from benchmarks.virtual import ROUND_TRIP, Seen, World

OPERATIONS, CLIENTS, LEARNED = 10_000, 3, 64
"""Operations of each client, clients for each law, and operations that a client sees before."""
PATIENCE = 0.1
"""Seconds, where nothing else is said."""
PATIENCES = (0.01, 0.05, 0.2, 0.5, 1.0)
"""More of them, to see what patience buys."""
OURS = "ours"
REPETITIONS = 300
"""How often a moment that passes, such as a cold start, is repeated."""
TOLERANCE = 1.05
"""How far reads or lag alone may be from the page: less of one is more of the other. The ratio to the optimum judges both."""


@dataclass(frozen=True)
class Law:
    """How long images take."""

    name: str
    draw: Callable[[random.Random], float]
    cdf: Callable[[float], float]
    oldest: float
    """An age in seconds that practically none reaches."""


@dataclass(frozen=True)
class Case:
    """A law, and how patient ours is."""

    law: Law
    patience: float

    @property
    def title(self) -> str:
        """How it is called in the table."""
        return f"{self.law.name}, patience {self.patience:g} s"


@dataclass(frozen=True)
class Target(Case):
    """What polling.md promises."""

    reads: float
    lag: float
    ratio: float


def lognormal(median: float, sigma: float) -> Law:
    """One hump."""
    return humps(f"lognormal, median {median:g} s, σ {sigma:g}", sigma, median)


def humps(name: str, sigma: float, *medians: float) -> Law:
    """Several lognormal humps, equally likely."""

    def cdf(age: float) -> float:
        return statistics.fmean(NormalDist().cdf(math.log(age / median) / sigma) for median in medians) if age else 0.0

    def draw(dice: random.Random) -> float:
        return dice.choice(medians) * math.exp(dice.gauss(0, sigma))

    return Law(name, draw, cdf, max(medians) * math.exp(5.5 * sigma))


def uniform(low: float, high: float) -> Law:
    """Anything between the two."""
    name = f"uniform, {low:g} to {high:g} s"
    return Law(name, lambda dice: dice.uniform(low, high), lambda age: min(1, max(0, (age - low) / (high - low))), high)


USUAL = lognormal(12, 0.35)
TWO_HUMPS = humps("two humps, 4 s and 25 s, σ 0.2 each", 0.2, 4, 25)
TARGETS = (
    Target(USUAL, PATIENCE, 5.9, 0.66, 1.05),
    Target(TWO_HUMPS, PATIENCE, 6.5, 0.70, 1.20),
    Target(uniform(8, 20), PATIENCE, 5.4, 0.58, 1.06),
    Target(USUAL, 0.02, 13.1, 0.30, 1.06),
)

Delays = Callable[[random.Random], Iterator[float]]


def every(seconds: float) -> Delays:
    """The same pause between all questions."""

    def delays(dice: random.Random) -> Iterator[float]:
        while True:
            yield seconds

    return delays


def back_off(dice: random.Random) -> Iterator[float]:
    """What google-api-core does while it polls: from 1 s on, 1.5 times as long each time, 20 s at most, with full jitter."""
    longest = 1.0
    while True:
        yield dice.uniform(0, longest)
        longest = min(longest * 1.5, 20.0)


SIMPLE: dict[str, Delays] = {"every 1 s": every(1), "every 10 s": every(10), "back-off": back_off}


def ask(duration: float, delays: Iterable[float]) -> Seen:
    """Ask at once and then after each delay, in the world of `benchmarks.virtual`."""
    asked, reads = 0.0, 1
    for delay in delays:
        if asked + ROUND_TRIP >= duration:
            break
        asked, reads = asked + ROUND_TRIP + delay, reads + 1
    return Seen(reads, asked + 1.5 * ROUND_TRIP - duration)


def mean(seen: Iterable[Seen]) -> Seen:
    """Mean reads and mean lag."""
    reads, lags = zip(*seen, strict=True)
    return Seen(statistics.fmean(reads), statistics.fmean(lags))


def warm(law: Law, dice: random.Random, patience: float | None) -> World:
    """A client that has seen some operations."""
    world = World(patience=patience)
    world.run_each(law.draw(dice) for _ in range(LEARNED))
    return world


def schedules(report: Report) -> None:
    """The table of polling.md, and what simple schedules cost."""
    for target in TARGETS:
        law, dice = target.law, random.Random(1)
        contestants = {OURS: ours(law, dice, target.patience)}
        if target.patience == PATIENCE:  # the simple ones know no patience
            for name, delays in SIMPLE.items():
                contestants[name] = mean(ask(duration, delays(dice)) for duration in draws(law, dice))
        optimum = Optimum(law.cdf, law.oldest)
        for name, seen in contestants.items():
            beside(report, optimum, target, name, seen)
    optimum = Optimum(USUAL.cdf, USUAL.oldest)
    for patience in PATIENCES:
        beside(report, optimum, Case(USUAL, patience), OURS, ours(USUAL, random.Random(1), patience))


def beside(report: Report, optimum: Optimum, case: Case, name: str, seen: Seen) -> None:
    """One row, beside the best schedule with as many reads."""
    best = optimum.at(seen.reads).lag + ROUND_TRIP / 2
    promise, met = judge(case, seen, seen.lag / best) if isinstance(case, Target) and name == OURS else ("", None)
    values = {"reads": seen.reads, "lag, s": seen.lag, "least lag, s": best}
    report.row(case.title, name, values, ratio=seen.lag / best, target=promise, met=met)


def ours(law: Law, dice: random.Random, patience: float) -> Seen:
    """What the real waiting machines come to."""
    worlds = [warm(law, dice, patience) for _ in range(CLIENTS)]
    return mean(seen for world in worlds for seen in world.run_each(draws(law, dice)))


def draws(law: Law, dice: random.Random) -> Iterator[float]:
    """How long the operations of one client take."""
    return (law.draw(dice) for _ in range(OPERATIONS))


def judge(target: Target, seen: Seen, ratio: float) -> tuple[str, bool]:
    """The target in words, and whether it is met."""
    met = seen.reads <= target.reads * TOLERANCE and seen.lag <= target.lag * TOLERANCE and ratio <= target.ratio
    return f"{target.reads:g} reads, {target.lag:g} s, ratio ≤ {target.ratio:.2f}", met


def hard_times(report: Report) -> None:
    """What is not steady: beginnings and changes."""
    cold(report)
    crowd(report)
    changes(report)
    extremes(report)


def cold(report: Report) -> None:
    """The first operation of a client that has never seen one."""
    for median in (1, 2, 3, 5, 8, 12, 20):
        dice, law = random.Random(1), lognormal(median, 0.35)
        seen = mean(World(patience=PATIENCE).run([law.draw(dice)])[0] for _ in range(REPETITIONS))
        met = round(seen.lag, 1) <= 1.4 and round(seen.reads) <= 12
        tell(report, f"first of all, median {median} s", seen, "≤ 1.4 s, ≤ 12 reads", met)


def crowd(report: Report) -> None:
    """Many operations at once, for a client that has never seen one."""
    dice, law = random.Random(1), lognormal(3, 0.35)
    seen = mean(one for _ in range(20) for one in World().run([law.draw(dice) for _ in range(100)]))
    tell(report, "first 100 at once, median 3 s, within 45 reads/s", seen, "< 1 s", seen.lag < 1)


def changes(report: Report) -> None:
    """A service that changes its pace after a client has learned it."""
    for change, factor in (("twice slower", 2.0), ("twice faster", 0.5)):
        dice, waves = random.Random(1), list[list[Seen]]()
        for _ in range(REPETITIONS):
            waves.append(warm(USUAL, dice, PATIENCE).run_each(factor * USUAL.draw(dice) for _ in range(20)))
        seen = mean(one for wave in waves for one in wave)
        most = 1.8
        if factor > 1:  # once it is learned, images that take longer lie longer as well: it is not to be more than that
            slow = lognormal(24, 0.35)
            most = mean(warm(slow, dice, PATIENCE).run_each(slow.draw(dice) for _ in range(OPERATIONS))).lag
        tell(report, f"the first 20 after it became {change}", seen, f"≤ {most:.2g} s", seen.lag <= most)


def extremes(report: Report) -> None:
    """Durations that nobody expects, a few times over."""
    for name, duration, reads in (("1e-9 s", 1e-9, 1), ("1 h", 3600.0, 300)):
        first, *others = World(patience=PATIENCE).run_each([duration] * 20)
        met = first.reads <= reads and max(one.lag for one in (first, *others)) <= 30
        tell(report, f"first of all takes {name}", first, f"≤ {reads} reads, ≤ 30 s", met)
        tell(report, "and so do 19 more", mean(others))


def tell(report: Report, case: str, seen: Seen, target: str = "", met: bool | None = None) -> None:
    """One row about ours."""
    report.row(case, OURS, {"reads": seen.reads, "lag, s": seen.lag}, target=target, met=met)


def main() -> None:
    """Run it, and write the table."""
    with Report("lag-simulated", "Lag, simulated: 20 ms of round trip, 64 operations learned from reads alone") as report:
        schedules(report)
        hard_times(report)


if __name__ == "__main__":
    main()
