"""A world with a clock of its own, in which the waiting machines of `yandexart_grpc` run: hours pass in a moment.

Waits, plans and budget are the real ones. Only what sleeps and calls is replaced, by a queue of events.
"""

import heapq
from collections.abc import Iterable
from itertools import count
from math import inf
from typing import NamedTuple

from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Answer, Steps
from yandexart_grpc._wait import watch
from yandexart_grpc.settings import READS_PER_SECOND, RPC_TIMEOUT, Limits
from yandexart_grpc.stubs import Any, Operation

ROUND_TRIP = 0.02
"""Seconds from a question to its answer; half of them pass before the server sees the question."""
MODEL = "art://folder/model"


class Seen(NamedTuple):
    """What became of one operation."""

    reads: float
    lag: float
    """Seconds from ready on the server to in the caller's hands."""


class World:
    """A server that makes images in given times, and one client."""

    def __init__(self, *, patience: float | None = None, reads_per_second: float = READS_PER_SECOND) -> None:
        limits = Limits(
            timeout=None,
            rpc_timeout=RPC_TIMEOUT,
            max_message_bytes=2**20,
            patience=patience,
            reads_per_second=reads_per_second,
            submits_per_minute=500,
        )
        self.now = 0.0
        self.pace = Pace(limits, lambda: self.now, {}, self._wake)
        self.pace.holds = False
        self._events: list[tuple[float, int, _Machine]] = []
        self._order = count()
        self._plans_changed = False

    def run(self, durations: list[float]) -> list[Seen]:
        """Submit operations that take so long, in seconds, all at once; return when all are done, in the same order."""
        machines = [_Machine(self, duration) for duration in durations]
        for machine in machines:
            self._go_on(machine, None)
        while self._events:
            self.now, _, machine = heapq.heappop(self._events)
            self._go_on(machine, machine.answer)
        return [machine.seen for machine in machines]

    def run_each(self, durations: Iterable[float]) -> list[Seen]:
        """Submit operations that take so long, in seconds, each when the one before it is done."""
        return [self.run([duration])[0] for duration in durations]

    def _go_on(self, machine: "_Machine", answer: Answer | None) -> None:
        try:
            step = machine.steps.send(answer)
        except StopIteration:
            machine.ended(self.now)
        else:
            machine.answer, at = None, self.now + step.after
            if step.request is not None:
                machine.answer, at = machine.asked(self.now), self.now + ROUND_TRIP
            heapq.heappush(self._events, (at, next(self._order), machine))
        if self._plans_changed:
            self._plans_changed = False
            sleeping = [event for event in self._events if event[2].answer is None]
            self._events = [event for event in self._events if event[2].answer is not None]
            heapq.heapify(self._events)
            for _, _, sleeper in sorted(sleeping, key=lambda event: event[:2]):
                self._go_on(sleeper, None)

    def _wake(self) -> None:
        self._plans_changed = True


class _Machine:
    """One wait, and the server's side of it."""

    def __init__(self, world: World, duration: float) -> None:
        self.steps: Steps = watch("operation", world.pace, inf, model=MODEL, born=world.now)
        self.answer: Answer | None = None
        """What it is being told; None while it merely sleeps."""
        # Its order reached the server half a round trip before the answer to it came.
        self._ready = world.now - ROUND_TRIP / 2 + duration
        self._reads = 0

    def asked(self, now: float) -> Answer:
        """What the server says to a question that is sent now."""
        self._reads += 1
        done = now + ROUND_TRIP / 2 >= self._ready
        return Answer(Operation(done=True, response=Any(type_url="image")) if done else Operation())

    def ended(self, now: float) -> None:
        """Note the end."""
        self.seen = Seen(self._reads, now - self._ready)
