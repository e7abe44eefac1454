"""Runs many machines of the core in the calling thread, which sleeps for all of them and waits for all their calls."""

import heapq
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from math import inf
from types import FrameType
from typing import Generic, Self, TypeVar

from grpc import Future, RpcError

from yandexart_grpc._drive import Naps
from yandexart_grpc._step import Answer, Step, Steps
from yandexart_grpc.errors import YandexArtError
from yandexart_grpc.stubs import Operation

Key = TypeVar("Key")


@contextmanager
def undisturbed() -> Iterator[None]:
    """A block at whose end Ctrl-C comes, if it comes within.

    A channel would never close again in which the start of a future was cut off: gRPC waits for a call that nobody watches.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for one in came[:1]:
            handler(*one)


class Crowd(Generic[Key]):
    """Machines under way, each under a key."""

    def __init__(
        self,
        begin: Callable[[Step], "Future[Operation] | Answer"],
        answer: Callable[["Future[Operation]"], Answer],
        naps: Naps,
        signed: Callable[[Steps], Steps],
    ) -> None:
        """`begin` starts the call of a step, or answers it at once; `answer` tells what a call brought or raises its failure.
        `signed` is what the machines are made of that they run as.
        """
        self._begin = begin
        self._answer = answer
        self._naps = naps
        self._signed = signed
        self._sleeping: list[tuple[float, int, Key, Steps]] = []
        self._calling: dict[Future[Operation], tuple[Key, Steps]] = {}
        self._ended: deque[tuple[Key, Operation | YandexArtError]] = deque()
        self._events: queue.SimpleQueue[Future[Operation] | None] = queue.SimpleQueue()
        self._order = count()

    def __enter__(self) -> Self:
        self._naps.listen(self._plans_changed)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the machines that are still under way; their operations go on."""
        self._naps.forget(self._plans_changed)
        for call in self._calling:
            call.cancel()
        for steps in [steps for _, _, _, steps in self._sleeping] + [steps for _, steps in self._calling.values()]:
            steps.close()

    def __len__(self) -> int:
        return len(self._sleeping) + len(self._calling) + len(self._ended)

    def add(self, key: Key, steps: Steps) -> None:
        """Start a machine."""
        steps = self._signed(steps)
        self._go_on(key, steps, partial(next, steps))

    def end(self, key: Key, ended: Operation | YandexArtError) -> None:
        """Put in what needs no machine any more."""
        self._ended.append((key, ended))

    def next(self) -> tuple[Key, Operation | YandexArtError]:
        """Wait until a machine has ended, and return its operation or its error."""
        while not self._ended:
            nap = max(0.0, self._sleeping[0][0] - time.monotonic()) if self._sleeping else None
            try:
                call = self._events.get(timeout=nap)
            except queue.Empty:
                self._wake(time.monotonic())
            else:
                self._wake(inf) if call is None else self._called(call)
        return self._ended.popleft()

    def _wake(self, until: float) -> None:
        woken = []
        while self._sleeping and self._sleeping[0][0] <= until:
            woken.append(heapq.heappop(self._sleeping))
        for _, _, key, steps in woken:
            self._go_on(key, steps, partial(steps.send, None))

    def _plans_changed(self) -> None:
        self._events.put(None)

    def _called(self, call: "Future[Operation]") -> None:
        key, steps = self._calling.pop(call)
        try:
            answer = self._answer(call)
        except RpcError as error:
            self._go_on(key, steps, partial(steps.throw, error))
        else:
            self._go_on(key, steps, partial(steps.send, answer))

    def _start(self, key: Key, steps: Steps, step: Step) -> None:
        try:
            call = self._begin(step)
        except (RpcError, YandexArtError) as error:
            self._go_on(key, steps, partial(steps.throw, error))
            return
        if isinstance(call, Answer):
            self._go_on(key, steps, partial(steps.send, call))
        else:
            self._calling[call] = (key, steps)
            call.add_done_callback(self._events.put)

    def _go_on(self, key: Key, steps: Steps, resume: Callable[[], Step]) -> None:
        try:
            step = resume()
            if step.request is None:
                heapq.heappush(self._sleeping, (time.monotonic() + step.after, next(self._order), key, steps))
            else:
                self._start(key, steps, step)
        except StopIteration as finished:
            self.end(key, finished.value)
        except YandexArtError as error:
            steps.close()
            self.end(key, error)
