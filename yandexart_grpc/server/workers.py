"""Who runs accepted operations: what is asked of workers, and those that are tasks of this process. `jobs` has the others."""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

Work = Callable[[], Awaitable[None]]


class Workers(Protocol):
    """Run operations, so many at a time."""

    @property
    def shared(self) -> bool:
        """Whether operations are kept with jobs, which come up on any machine; otherwise each is given to `start`."""

    @property
    def waiting(self) -> int:
        """How many operations have not begun."""

    @property
    def running(self) -> int:
        """How many operations are worked on here."""

    def open(self, run: Callable[[str], Awaitable[None]]) -> None:
        """Begin to work: `run` is called with the id of each operation whose job comes up."""

    def start(self, name: str, work: Work, rank: int = 0) -> None:
        """Begin the work for the operation of that name when it is its turn: the lowest rank first."""

    def stop(self, name: str) -> None:
        """Stop the work for that operation, if it goes on here."""

    async def drain(self, grace: float) -> None:
        """Begin nothing more, and let what has begun go on for `grace` seconds; then stop it."""


class TaskWorkers:
    """Runs each piece of work as a task under a name; those of one rank in the order in which they came."""

    shared = False

    def __init__(self, concurrency: int) -> None:
        self._free = concurrency
        self._turns: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def waiting(self) -> int:
        """How many pieces have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many pieces have begun, and are not over."""
        return len(self._running)

    def open(self, run: Callable[[str], Awaitable[None]]) -> None:
        """Nothing: no job is kept."""

    def start(self, name: str, work: Work, rank: int = 0) -> None:
        """Begin the work when it is its turn; never, once `drain` was called."""
        if self._draining:
            return
        self._waiting[name] = task = asyncio.create_task(self._run(name, work, rank), name=name)
        task.add_done_callback(lambda _: self._waiting.pop(name, None))

    def stop(self, name: str) -> None:
        """Stop the work of that name, if it is not over."""
        if task := self._waiting.get(name) or self._running.get(name):
            task.cancel()

    async def drain(self, grace: float) -> None:
        """Begin nothing more, and let what has begun go on for `grace` seconds; then stop it."""
        self._draining = True
        await _cancel(self._waiting.values())
        if self._running:
            await asyncio.wait(self._running.values(), timeout=grace)
        await _cancel(self._running.values())

    async def _run(self, name: str, work: Work, rank: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._turns, (rank, next(self._numbers), turn))
        self._admit()
        try:
            await turn
            self._running[name] = self._waiting.pop(name)
            await work()
        finally:
            self._running.pop(name, None)
            self._free += not turn.cancelled()
            self._admit()

    def _admit(self) -> None:
        """Let as many go as there is room for; who was stopped while he waited is passed over."""
        while self._free and self._turns:
            _, _, turn = heapq.heappop(self._turns)
            if not turn.done():
                turn.set_result(None)
                self._free -= 1


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
