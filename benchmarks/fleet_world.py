"""A world with a clock of its own, in which thousands of replicas on one store make pictures for thousands of callers.

Nothing here is the product's code. It is a small model: a quota as GCRA, the order in which those who wait for it are served, and
the way of a picture from the backend through PostgreSQL to another replica and its caller. What a picture costs was measured
(`capacity`); what a machine can do is assumed, and said in the constants below. Chance is seeded.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import exp, inf

from benchmarks.capacity import COMMITS, PICTURE, READ, ROW, WAL

NETWORK = 1.25e9
"""Bytes a second of every machine: 10 Gbit/s. Assumed, like all that follows."""
DISK = 1e9
"""Bytes a second that PostgreSQL can write and sync."""
TRANSACTIONS = 20_000
"""A second, of one PostgreSQL."""
OBJECTS = 1.25e8, 0.03
"""Bytes a second of one transfer to or from object storage, and the seconds before its first byte."""
HOP = 0.001
"""Seconds of a message between two machines: an announcement, a question, an answer."""
DAY = 86_400.0


class Clock:
    """Does what is to be done, each at its instant."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def at(self, instant: float, act: Callable[[], object]) -> None:
        """Do that then, and after all that was to be done at the same instant before."""
        heapq.heappush(self._events, (instant, next(self._order), act))

    def run(self, until: float = inf) -> None:
        """Let time pass until nothing is left to do, or to an instant."""
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()


class Pipe:
    """A network or a disk: so many units a second, one thing after the other."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate
        self._free = self.used = 0.0

    def through(self, amount: float) -> float:
        """The instant at which that much is through, if it comes now."""
        took = amount / self._rate
        self._free = max(self._clock.now, self._free) + took
        self.used += took
        return self._free


class Gcra:
    """Never more than `limit` in any `window` seconds, of which `burst` may come at once: one instant is all it remembers.

    Whoever may burst may do it at the end of a window and go on at the pace, so the pace is that of `limit - burst`.
    """

    def __init__(self, limit: int, window: float, burst: int) -> None:
        self._interval = window / (limit - burst + 1) * (1 + 1e-9)  # so that rounding never lets one more through
        self._tolerance = (burst - 1) * self._interval
        self._next = -inf

    def wait(self, now: float) -> float:
        """Seconds until one may come."""
        return max(0.0, self._next - self._tolerance - now)

    def take(self, now: float) -> None:
        """Let one through, which may come."""
        self._next = max(self._next, now) + self._interval


@dataclass(eq=False, slots=True)
class Order:
    """One picture that somebody wants."""

    caller: int
    came: float
    replica: int
    """Where it was ordered, and where its read is held."""
    began: float = inf
    ready: float = inf
    lag: float = inf


class Line:
    """Those who wait for the quota. First come, first served; or in turn, so that a burst of one is passed by the others."""

    def __init__(self, *, fair: bool) -> None:
        self._fair = fair
        self._waiting: list[tuple[float, int, Order]] = []
        self._order = count()
        self._turn = 0.0
        self._last: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, order: Order) -> None:
        """Wait. In turn means: each next order of a caller is a turn later than the one before it."""
        turn = self._last[order.caller] = max(self._turn, self._last.get(order.caller, 0.0) + 1) if self._fair else 0.0
        heapq.heappush(self._waiting, (turn, next(self._order), order))

    def leave(self) -> Order:
        """Whoever is next."""
        self._turn, _, order = heapq.heappop(self._waiting)
        return order


@dataclass(kw_only=True)
class Fleet:
    """Replicas on one store, with one quota."""

    replicas: int
    callers: int
    quota: Gcra | None = None
    fair: bool = True
    day: int | None = None
    """Pictures a day; the day begins at 0."""
    paced: bool = False
    """Whether who has had his share of the day gets only what the day has spared so far, at an even pace."""
    objects: bool = False
    """Whether pictures are in object storage; otherwise in the rows of PostgreSQL."""
    databases: int = 1
    seed: int = 1
    orders: list[Order] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock, self._dice = Clock(), random.Random(self.seed)
        self._within, self._beyond = Line(fair=self.fair), Line(fair=self.fair)
        self._asked = Counter[int]()
        self._begun = 0
        self._alarm = inf
        self.disk = Pipe(self.clock, DISK * self.databases)
        self.wire = Pipe(self.clock, NETWORK * self.databases)
        self.log = Pipe(self.clock, TRANSACTIONS * self.databases)
        self._links = [Pipe(self.clock, NETWORK) for _ in range(self.replicas)]

    def wish(self, instant: float, caller: int) -> None:
        """Let a caller order one picture then, of any replica."""
        order = Order(caller, instant, self._dice.randrange(self.replicas))
        self.orders.append(order)
        self.clock.at(instant, lambda: self._accept(order))

    def _accept(self, order: Order) -> None:
        self._asked[order.caller] += 1
        is_beyond = self.paced and self.day is not None and self._asked[order.caller] > self.day / self.callers
        (self._beyond if is_beyond else self._within).join(order)
        self._let_begin()

    def _let_begin(self) -> None:
        """Let those begin that may, and come back when the next one may."""
        while self._within or self._beyond:
            now = self.clock.now
            if self.day is not None and self._begun >= self.day:
                return
            wait, line = (self.quota.wait(now) if self.quota else 0.0), self._within
            if not self._within:
                spared = 0.0 if self.day is None else (self._begun + 1) * DAY / self.day
                wait, line = max(wait, spared - now), self._beyond
            if wait > 0:
                if not now < self._alarm <= now + wait:
                    self._alarm = now + wait
                    self.clock.at(self._alarm, self._let_begin)
                return
            if self.quota:
                self.quota.take(now)
            self._begun += 1
            self._begin(line.leave())

    def _begin(self, order: Order) -> None:
        order.began = self.clock.now
        self.clock.at(order.began + 12 * exp(self._dice.gauss(0, 0.35)), lambda: self._keep(order))

    def _keep(self, order: Order) -> None:
        """The backend has handed over the picture: it is written down, and announced."""
        order.ready = self.clock.now
        kept = self.log.through(COMMITS)
        kept = max(kept, self._stored() if self.objects else self.disk.through(WAL + ROW))
        at_home = self._dice.randrange(self.replicas) == order.replica
        self.clock.at(kept + HOP, lambda: self._hand_over(order) if at_home else self._fetch(order))

    def _fetch(self, order: Order) -> None:
        """Another replica worked on it, so the one that holds the read asks the store."""
        there = self._stored() if self.objects else self.wire.through(READ)
        self.clock.at(there + 2 * HOP, lambda: self._hand_over(order))

    def _hand_over(self, order: Order) -> None:
        order.lag = self._links[order.replica].through(PICTURE) + HOP - order.ready

    def _stored(self) -> float:
        rate, first_byte = OBJECTS
        return self.clock.now + first_byte + PICTURE / rate
