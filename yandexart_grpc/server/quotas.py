"""Whose turn it is to buy a picture, where a quota says how many a folder may: callers in turn, however much each one wants."""

import asyncio
import logging
from collections import deque

from yandexart_grpc.errors import QuotaExceeded
from yandexart_grpc.server.allowance import Quota
from yandexart_grpc.server.store import Store, StoreFailure

log = logging.getLogger("yandexart_grpc.server")

PAUSE = 1.0
"""Seconds until the store is asked again after it failed."""


class Quotas:
    """Lets as many go as the limits allow all servers on one store together."""

    def __init__(self, store: Store, limits: Quota) -> None:
        self._store = store
        self._limits = limits
        self._lines: dict[str, _Line] = {}

    async def turn(self, folder: str, caller: str) -> None:
        """Wait for the caller's turn. Raises `QuotaExceeded` where that is not today."""
        line = self._lines.setdefault(folder, _Line())
        turn = line.join(caller)
        if line.serving is None or line.serving.done():  # it ends as soon as nobody waits, and somebody may come just then
            line.serving = asyncio.create_task(self._serve(folder, line))
        try:
            await turn
        finally:
            turn.cancel()
            if line.serving and not line.somebody:
                line.serving.cancel()
                line.serving = None

    async def _serve(self, folder: str, line: "_Line") -> None:
        while line.somebody:
            try:
                taken = await self._store.take(folder, self._limits)
            except StoreFailure as error:
                log.warning("the quota of folder %s is not known: %s", folder, error)
                await asyncio.sleep(PAUSE)
                continue
            if taken.is_over:
                quota = f"{self._limits.day} pictures a day for folder {folder}"
                line.refuse(f"the quota of {quota} is used up; the day ends in {taken.wait:.0f} s", taken.wait)
            elif taken.wait:
                await asyncio.sleep(taken.wait)
            else:
                line.next().set_result(None)


class _Line:
    """Those who wait for one folder: in the order of their callers, and each caller's in their own."""

    def __init__(self) -> None:
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
