"""Whose turn it is to buy a picture or to ask about one, where a quota says how often a folder may: callers in turn, however much
each one wants.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from yandexart_grpc.errors import QuotaExceeded
from yandexart_grpc.server.allowance import UNLIMITED, Quota
from yandexart_grpc.server.store import Store, StoreFailure

log = logging.getLogger("yandexart_grpc.server")

PAUSE = 1.0
"""Seconds until the store is asked again after it failed."""


class Quotas:
    """Lets as many go as the limits allow all servers on one store together."""

    def __init__(self, store: Store, limits: Quota) -> None:
        self._store = store
        self._limits = limits
        self._buyers: dict[str, _Line] = {}
        self._readers: dict[str, _Line] = {}

    async def buy(self, folder: str, caller: str) -> None:
        """Wait for the caller's turn to buy a picture. Raises `QuotaExceeded` where that is not today."""
        await self._turn(self._buyers.setdefault(folder, _Line(folder, self._sell)), caller)

    async def read(self, folder: str, caller: str) -> None:
        """Wait for the caller's turn to ask about a picture."""
        if self._limits.reads < UNLIMITED:
            await self._turn(self._readers.setdefault(folder, _Line(folder, self._let_read)), caller)

    async def _turn(self, line: "_Line", caller: str) -> None:
        turn = line.join(caller)
        if line.serving is None or line.serving.done():  # it ends as soon as nobody waits, and somebody may come just then
            line.serving = asyncio.create_task(self._serve(line))
        try:
            await turn
        finally:
            turn.cancel()
            if line.serving and not line.somebody:
                line.serving.cancel()
                line.serving = None

    async def _serve(self, line: "_Line") -> None:
        while line.somebody:
            try:
                await line.serve(line)
            except StoreFailure as error:
                log.warning("the quota of folder %s is not known: %s", line.folder, error)
                await asyncio.sleep(PAUSE)

    async def _sell(self, line: "_Line") -> None:
        taken = await self._store.take(line.folder, self._limits)
        if taken.is_over:
            quota = f"{self._limits.day} pictures a day for folder {line.folder}"
            line.refuse(f"the quota of {quota} is used up; the day ends in {taken.wait:.0f} s", taken.wait)
        elif taken.wait:
            await asyncio.sleep(taken.wait)
        else:
            line.next().set_result(None)

    async def _let_read(self, line: "_Line") -> None:
        """A server has the time of one read alone, so that after a standstill only that one is late."""
        await asyncio.sleep(await self._store.reserve(line.folder, self._limits))
        line.next().set_result(None)


class _Line:
    """Those who wait for one folder: in the order of their callers, and each caller's in their own."""

    def __init__(self, folder: str, serve: "Callable[[_Line], Awaitable[None]]") -> None:
        self.folder = folder
        self.serve = serve
        """Lets the next one go, or nobody."""
        self.serving: asyncio.Task[None] | None = None
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def join(self, caller: str) -> asyncio.Future[None]:
        """Stand in the line; what is returned is done when it is this one's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        return turn

    @property
    def somebody(self) -> bool:
        """Whether anybody still waits; who went away is forgotten."""
        for caller, turns in list(self._waiting.items()):
            while turns and turns[0].done():
                turns.popleft()
            if not turns:
                del self._waiting[caller]
        return bool(self._waiting)

    def next(self) -> asyncio.Future[None]:
        """Whose turn it is; the caller's next one waits until all others had theirs."""
        if not self.somebody:
            return asyncio.get_running_loop().create_future()  # all went away meanwhile: this one is wasted
        caller, turns = next(iter(self._waiting.items()))
        turn = turns.popleft()
        self._waiting[caller] = self._waiting.pop(caller)
        return turn

    def refuse(self, words: str, seconds: float) -> None:
        """Send everybody away."""
        for turns in self._waiting.values():
            for turn in turns:
                if not turn.done():
                    turn.set_exception(QuotaExceeded(words, retry_after=seconds))
        self._waiting.clear()
