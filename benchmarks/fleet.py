"""How long callers wait for a shared quota, and for their pictures, where thousands of replicas serve thousands of callers.

All of it is simulated, in the world of `benchmarks.fleet_world`: to see what a rule or a machine does where there are more of
them than anybody has on a desk. Every run gives the same figures.
"""

import random
import statistics
from collections import Counter
from collections.abc import Iterable

from benchmarks.capacity import PER_DAY, PER_MINUTE
from benchmarks.fleet_world import DAY, Fleet, Gcra
from benchmarks.measure import Report

GREEDY, QUIET = 0, 2_000
"""The caller whose burst it is, and how many others there are."""
BURST = 50
"""Pictures that may begin at once: a tenth of the quota of a minute."""
ORDERS: dict[str, bool] = {"first come": False, "in turn": True}


def poisson(dice: random.Random, rate: float, seconds: float, start: float = 0.0) -> Iterable[float]:
    """Instants at which something happens by chance, `rate` times a second."""
    instant = start + dice.expovariate(rate)
    while instant < start + seconds:
        yield instant
        instant += dice.expovariate(rate)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def most_in(window: float, instants: Iterable[float]) -> int:
    """The most that came in any span of that length."""
    ordered = sorted(instants)
    first = most = 0
    for last, instant in enumerate(ordered):
        while instant - ordered[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


def evenness(shares: Iterable[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has everything."""
    values = list(shares)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def bursts(report: Report) -> None:
    """A caller orders 5,000 at once while 2,000 others order 200 a minute together; the quota is 500 a minute, for an hour."""
    for name, fair in ORDERS.items():
        fleet = Fleet(replicas=1_000, callers=QUIET + 1, quota=Gcra(PER_MINUTE, 60, BURST), fair=fair)
        dice = random.Random(2)
        for instant in poisson(dice, 200 / 60, 3600):
            fleet.wish(instant, dice.randint(1, QUIET))
        for _ in range(5_000):
            fleet.wish(600.0, GREEDY)
        fleet.clock.run()
        waits = [order.began - order.came for order in fleet.orders if order.caller != GREEDY and 600 <= order.came < 1_800]
        last = max(order.began for order in fleet.orders if order.caller == GREEDY)
        most = most_in(60, (order.began for order in fleet.orders))
        report.row(
            "one orders 5,000 at once, 2,000 others 200 a minute",
            name,
            {
                "others wait, s": statistics.median(waits),
                "p95, s": percentile(waits, 0.95),
                "burst done, min": (last - 600) / 60,
                "most in 60 s": most,
            },
            target="≤ 500 in 60 s; others p95 ≤ 1 s" if fair else "≤ 500 in 60 s",
            met=most <= PER_MINUTE and (not fair or percentile(waits, 0.95) <= 1),
        )


def shares(report: Report) -> None:
    """Ten callers order at the same moment, 100 to 1,000 pictures each: who gets what in the second minute."""
    for name, fair in ORDERS.items():
        fleet = Fleet(replicas=1_000, callers=10, quota=Gcra(PER_MINUTE, 60, BURST), fair=fair)
        for caller in reversed(range(10)):
            for _ in range(100 * (caller + 1)):
                fleet.wish(0.0, caller)
        fleet.clock.run(120)
        had = Counter(order.caller for order in fleet.orders if 60 <= order.began < 120)
        values = {
            "evenness": evenness(had[caller] for caller in range(10)),
            "most in 60 s": most_in(60, (order.began for order in fleet.orders if order.began < 120)),
        }
        report.row(
            "ten order 100 to 1,000 each",
            name,
            values,
            target="≥ 0.99" if fair else "",
            met=values["evenness"] >= 0.99 if fair else None,
        )


def pace(report: Report) -> None:
    """How much of the quota is used when always somebody waits, and how many may begin at once."""
    for burst in (1, BURST, 250):
        fleet = Fleet(replicas=1_000, callers=QUIET, quota=Gcra(PER_MINUTE, 60, burst))
        for number in range(10_000):
            fleet.wish(0.0, number % QUIET)
        fleet.clock.run(960)
        began = [order.began for order in fleet.orders if order.began < 960]
        steady = sum(60 <= instant < 960 for instant in began)
        values = {"quota used, %": 100 * steady / (PER_MINUTE * 15), "most in 60 s": most_in(60, began)}
        report.row(
            "always somebody waits", f"burst {burst}", values, target="≤ 500 in 60 s", met=values["most in 60 s"] <= PER_MINUTE
        )


def days(report: Report) -> None:
    """5,000 a day. One caller orders 5,000 at midnight, 2,000 others two each, at any time of the day."""
    for name, fair, paced in (
        ("first come", False, False),
        ("in turn", True, False),
        ("in turn, by shares of the day", True, True),
    ):
        fleet = Fleet(replicas=1_000, callers=QUIET + 1, quota=Gcra(PER_MINUTE, 60, BURST), fair=fair, day=PER_DAY, paced=paced)
        dice = random.Random(3)
        for _ in range(5_000):
            fleet.wish(0.0, GREEDY)
        for caller in range(1, QUIET + 1):
            for _ in range(2):
                fleet.wish(dice.uniform(0, DAY), caller)
        fleet.clock.run(DAY)
        others = [order for order in fleet.orders if order.caller != GREEDY]
        served = sum(order.began < DAY for order in others)
        used = sum(order.began < DAY for order in fleet.orders)
        values = {"others served, %": 100 * served / len(others), "quota used, %": 100 * used / PER_DAY}
        target, met = ("others ≥ 99 %, quota kept", served >= 0.99 * len(others)) if paced else ("quota kept", True)
        report.row("a day: one orders 5,000 at midnight", name, values, target=target, met=met and used <= PER_DAY)


def lags(report: Report) -> None:
    """From ready to in the caller's hands on another replica, with pictures in rows and in object storage."""
    cases = ((1, 3, 30), (100, 20, 1_000), (250, 50, 2_500), (400, 80, 4_000))
    for rate, replicas, callers in cases:
        lag(report, Fleet(replicas=replicas, callers=callers), rate)
    lag(report, Fleet(replicas=20, callers=5_000), 100, burst=5_000)
    for rate, replicas, callers, databases in ((400, 80, 4_000, 1), (1_000, 200, 10_000, 1), (10_000, 2_000, 10_000, 8)):
        lag(report, Fleet(replicas=replicas, callers=callers, objects=True, databases=databases), rate)


def lag(report: Report, fleet: Fleet, rate: int, burst: int = 0) -> None:
    """One row: orders come by chance for a while, and the burst of all callers in the middle of it."""
    seconds = 600 if rate < 100 else 30 if rate < 5_000 else 10
    dice = random.Random(4)
    instants = [*poisson(dice, rate, seconds), *[seconds / 2] * burst]
    for number, instant in enumerate(instants):
        fleet.wish(instant, number % fleet.callers)
    fleet.clock.run()
    lags = [order.lag for order in fleet.orders]
    where = f"in object storage, {fleet.databases} PostgreSQL" if fleet.objects else "in rows"
    words = f"{rate:,} a second" + (f", and {burst:,} at once" if burst else "")
    pipes = {"disk": fleet.disk, "wire": fleet.wire, "log": fleet.log}
    asked = {f"{name} asked, %": 100 * pipe.used / seconds for name, pipe in pipes.items()}
    times = {"lag, s": statistics.median(lags), "p95, s": percentile(lags, 0.95)}
    report.row(words, where, {"replicas": fleet.replicas, **times, **asked})


def main() -> None:
    """Run it, and write the table."""
    with Report("fleet", "A fleet, simulated: waits for the quota, fairness, quota use, and lag") as report:
        for part in (bursts, shares, pace, days, lags):
            part(report)


if __name__ == "__main__":
    main()
