"""How often a client may call: a token bucket on a clock that it is given, shared by all threads and tasks of the client.

Whoever is due takes a number, and numbers open in order: so the earliest due goes first. Numbers that are already taken open
later when the rate falls. A caller that goes away wastes its number, and nothing else.
"""

import threading
from collections.abc import Callable, Generator
from math import inf

from yandexart_grpc._step import Step

SLOW_FOR = 10.0
"""Seconds during which the rate is halved after the server said that it was too much."""


class Budget:
    """At most `rate` calls a second, and `burst` at once."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float]) -> None:
        self.rate = rate
        self._burst = burst
        self._now = now
        self._lock = threading.Lock()
        self._taken = 0.0
        # Tokens have flowed in since `_since`, when there were `_base`; at half the rate until `_slow_until`.
        self._since = self._slow_until = now()
        self._base = 0.0

    def take(self) -> float:
        """The next number."""
        with self._lock:
            self._taken = max(self._taken, self._flowed(self._now())) + 1
            return self._taken

    def opens(self, number: float) -> float:
        """The time at which that number may go, as it looks now."""
        missing = (number - self._burst - self._base) / self.rate
        slow = max(0.0, self._slow_until - self._since) / 2
        return self._since + max(0.0, 2 * missing if missing < slow else missing + slow)

    def turn(self, deadline: float = inf) -> Generator[Step, None, bool]:
        """Sleep until it is the caller's turn, and return True; or False at once when that is not before the deadline."""
        if self.rate == inf:
            return True
        number = self.take()
        while (wait := self.opens(number) - self._now()) > 0:
            if self._now() + wait > deadline:
                return False
            yield Step(wait)
        with self._lock:
            # Who wakes late lets pass what a bucket cannot hold: those behind do not catch up all at once.
            self._base -= max(0.0, self._flowed(self._now()) - number)
        return True

    def slow_down(self) -> None:
        """Halve the rate for a while."""
        self._rebase(self._now(), slow_until=self._now() + SLOW_FOR)

    def pause(self, seconds: float) -> None:
        """Let nothing go for that long."""
        self._rebase(self._now() + seconds, slow_until=self._slow_until)

    def credit(self, tokens: float) -> None:
        """Add to what has flowed in; beyond a burst it is lost, as ever."""
        with self._lock:
            self._base += tokens

    def _rebase(self, since: float, *, slow_until: float) -> None:
        with self._lock:
            self._base = self._flowed(self._now())
            self._since, self._slow_until = max(self._since, since), slow_until

    def _flowed(self, at: float) -> float:
        time, slow = max(0.0, at - self._since), max(0.0, min(at, self._slow_until) - self._since)
        return self._base + self.rate * (time - slow / 2)
