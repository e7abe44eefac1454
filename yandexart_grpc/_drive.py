"""The only place that sleeps and calls. What to call, and when, is decided by the machines of the core.

`drive` and `adrive` run one machine, blocking or awaited (`_crowd` runs many in one thread). A sleep ends early when plans
change.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grpc import RpcError

from yandexart_grpc._step import Answer, Step, Talk
from yandexart_grpc.errors import YandexArtError

Result = TypeVar("Result")


class Naps:
    """Sleeps of threads that can all be ended at once."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._listeners: set[Callable[[], None]] = set()

    def nap(self, seconds: float) -> None:
        """Sleep for that long at the most."""
        with self._condition:
            self._condition.wait(seconds)

    def listen(self, listener: Callable[[], None]) -> None:
        """Let the listener know as well whenever everybody is woken."""
        self._listeners.add(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Undo `listen`."""
        self._listeners.discard(listener)

    def end(self) -> None:
        """Wake everybody."""
        with self._condition:
            self._condition.notify_all()
        for listener in tuple(self._listeners):
            listener()


class AsyncNaps:
    """Sleeps of tasks that can all be ended at once."""

    def __init__(self) -> None:
        self._sleepers: set[asyncio.Future[None]] = set()

    async def nap(self, seconds: float) -> None:
        """Sleep for that long at the most."""
        loop = asyncio.get_running_loop()
        sleeper = loop.create_future()
        alarm = loop.call_later(seconds, _wake, sleeper)
        self._sleepers.add(sleeper)
        try:
            await sleeper
        finally:
            alarm.cancel()
            self._sleepers.discard(sleeper)

    def end(self) -> None:
        """Wake everybody, not so many at a time that the event loop is blocked for long."""
        loop = asyncio.get_running_loop()
        for number, sleeper in enumerate(self._sleepers):
            loop.call_later(number // 100 * 0.005, _wake, sleeper)


def _wake(sleeper: "asyncio.Future[None]") -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def drive(steps: Talk[Result], call: Callable[[Step], Answer], nap: Callable[[float], None]) -> Result:
    """Run one machine with blocking calls."""
    try:
        step = next(steps)
        while True:
            if step.request is None:
                nap(step.after)
                step = steps.send(None)
                continue
            try:
                answer = call(step)
            except (RpcError, YandexArtError) as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as finished:
        result: Result = finished.value
        return result
    finally:
        steps.close()


async def adrive(
    steps: Talk[Result],
    call: Callable[[Step], Awaitable[Answer]],
    nap: Callable[[float], Awaitable[None]],
) -> Result:
    """Run one machine with awaited calls: the same text as `drive`."""
    try:
        step = next(steps)
        while True:
            if step.request is None:
                await nap(step.after)
                step = steps.send(None)
                continue
            try:
                answer = await call(step)
            except (RpcError, YandexArtError) as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as finished:
        result: Result = finished.value
        return result
    finally:
        steps.close()
