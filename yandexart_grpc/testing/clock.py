"""The time of a test: seconds that pass only when everybody waits for them, and then at once.

What waits has an alarm. As long as somebody works, time stands still: a machine of a client between two sleeps, or a call on its
way. When nobody works and some caller waits, the clock goes to the next alarm; so the same happens in every run, however busy
the machine is.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from yandexart_grpc._step import Answer, Step, Talk, relayed
from yandexart_grpc.stubs import GetOperationRequest

Result = TypeVar("Result")

LOOK = 0.05
"""Real seconds after which a thread looks again, should its alarm have rung just before it slept."""


class Alarm:
    """Rings once: when the clock comes to `due`, or when it is told to."""

    def __init__(self, due: float, ring: Callable[[], object], *, callers: bool) -> None:
        """That of a caller makes time pass; he works until he waits for it, and when it has rung."""
        self.due, self.ring, self.callers = due, ring, callers


class Clock:
    """Seconds since the test began; safe to share between threads."""

    def __init__(self) -> None:
        self._now = 0.0
        self._working = 0
        self._alarms = set[Alarm]()
        self._asking = Counter[str]()
        self._lock = threading.RLock()  # the collector may close a machine at any moment

    def now(self) -> float:
        """Seconds since the test began."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        if not seconds > 0:
            raise ValueError(f"seconds: {seconds!r} is not a positive number")
        self.reach(self._now + seconds)

    def reach(self, time: float) -> None:
        """Let time pass until then, if that is not over."""
        with self._lock:
            rung = self._moved(time)
        for alarm in rung:
            alarm.ring()

    def ring(self, *alarms: Alarm) -> None:
        """Ring alarms before their time, if they have not rung."""
        with self._lock:
            rung = self._taken(alarms)
        for alarm in rung:
            alarm.ring()

    @contextmanager
    def asleep(self, alarm: Alarm) -> Iterator[None]:
        """A block that waits for the alarm."""
        with self._lock:
            self._alarms.add(alarm)
            self._working -= alarm.callers
        self._go_on()
        try:
            yield
        finally:
            with self._lock:
                self._taken((alarm,))
            self._go_on()

    def kept(self, steps: Talk[Result], wake: Callable[[], object]) -> Talk[Result]:
        """The same machine of a client, whose sleeps are in this time; `wake` ends those of its client."""
        with self._at_work():
            return (yield from relayed(steps, partial(self._make, wake)))

    def asking(self, operation_id: str) -> int:
        """How many machines ask about that operation right now."""
        return self._asking[operation_id]

    def _make(self, wake: Callable[[], object], step: Step) -> Talk[Answer | None]:
        if step.request is None:
            alarm = Alarm(self._now + step.after, wake, callers=True)
            with self.asleep(alarm):
                return (yield step._replace(after=min(step.after, LOOK))) if alarm in self._alarms else None
        if not isinstance(step.request, GetOperationRequest):
            return (yield step)
        with self._asks(step.request.operation_id):
            return (yield step)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
            self._go_on()

    @contextmanager
    def _asks(self, operation_id: str) -> Iterator[None]:
        with self._lock:
            self._asking[operation_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking[operation_id] -= 1

    def _go_on(self) -> None:
        """Go from alarm to alarm until somebody has to work, or nobody waits."""
        rung = list[Alarm]()
        with self._lock:
            while not self._working and any(alarm.callers for alarm in self._alarms):
                rung += self._moved(min(alarm.due for alarm in self._alarms))
        for alarm in rung:
            alarm.ring()

    def _moved(self, time: float) -> list[Alarm]:
        """Every alarm that is due by then."""
        self._now = max(self._now, time)
        return self._taken([alarm for alarm in self._alarms if alarm.due <= self._now])

    def _taken(self, alarms: "list[Alarm] | tuple[Alarm, ...]") -> list[Alarm]:
        """Those of the alarms that have not rung; they count as rung now."""
        taken = [alarm for alarm in alarms if alarm in self._alarms]
        self._alarms.difference_update(taken)
        self._working += sum(alarm.callers for alarm in taken)
        return taken
