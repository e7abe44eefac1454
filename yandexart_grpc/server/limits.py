"""What keeps one caller from taking everything: so many requests each second, and so many places to wait in. Pure arithmetic."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the server's memory callers may have."""

    in_flight_per_caller: int = 10_000
    """Operations of one caller that are not done."""
    held_reads: int = 20_000
    """Reads that wait for their operation to be done, of all callers together."""
    held_reads_per_caller: int = 10_000
    """The same, of one caller."""


class Bucket:
    """Lets `rate` through each second: as many at once after a second of rest, and one at least."""

    def __init__(self, rate: float, now: Clock) -> None:
        self._rate, self._now = rate, now
        self._size = self._left = max(1.0, rate)
        self._then = now()

    def take(self) -> float:
        """Let one through and return 0; or let nobody through, and return the seconds until somebody may."""
        then, self._then = self._then, self._now()
        self._left = min(self._size, self._left + (self._then - then) * self._rate)
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class Seats:
    """So many places in all, and so many for each name."""

    def __init__(self, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._taken = 0
        self._by = Counter[str]()

    def free(self, name: str) -> bool:
        """Whether there is a place for that name."""
        return self._taken < self._total and self._by[name] < self._each

    @contextmanager
    def taken(self, name: str) -> Iterator[None]:
        """Take a place until the block ends."""
        self._taken += 1
        self._by[name] += 1
        try:
            yield
        finally:
            self._taken -= 1
            self._by[name] -= 1


class Owned:
    """Things in flight, and how many each owner has."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._count = Counter[str]()

    def of(self, owner: str) -> int:
        """How many are the owner's."""
        return self._count[owner]

    def add(self, thing: str, owner: str) -> None:
        """Count one that is not counted yet."""
        self._owners[thing] = owner
        self._count[owner] += 1

    def drop(self, thing: str) -> None:
        """Count it no more, if it was counted."""
        if (owner := self._owners.pop(thing, None)) is not None:
            self._count[owner] -= 1
            if not self._count[owner]:
                del self._count[owner]

    def clear(self) -> None:
        """Forget all."""
        self._owners.clear()
        self._count.clear()
