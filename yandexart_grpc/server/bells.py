"""Wakes those who wait for an operation to be done, in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

News = TypeVar("News")


class Bell(Generic[News]):
    """What one listener waits for. It costs a future and a timer, so thousands may wait."""

    def __init__(self) -> None:
        self._rung: asyncio.Future[News | None] = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float) -> News | None:
        """Wait for the news, but no longer than that: None where none came. A bell that rang before is not waited for."""
        alarm = asyncio.get_running_loop().call_later(seconds, self.ring, None)
        try:
            return await self._rung
        finally:
            alarm.cancel()

    def ring(self, news: News | None) -> None:
        """Wake the listener."""
        if not self._rung.done():
            self._rung.set_result(news)


class Bells(Generic[News]):
    """The bells of all listeners, under the names of what they wait for."""

    def __init__(self) -> None:
        self._bells: dict[str, set[Bell[News]]] = {}
        self._silent = False

    @contextmanager
    def listen(self, name: str) -> Iterator[Bell[News]]:
        """A bell that rings with that name. Listen first and look then: so nothing is missed in between."""
        bell = Bell[News]()
        if self._silent:
            bell.ring(None)
        self._bells.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[name].discard(bell)
            if not self._bells[name]:
                del self._bells[name]

    def __contains__(self, name: str) -> bool:
        """Whether anybody listens for that name."""
        return name in self._bells

    @property
    def silent(self) -> bool:
        """Whether nobody waits any more."""
        return self._silent

    def ring(self, name: str, news: News | None) -> None:
        """Wake everybody who listens for that name."""
        for bell in self._bells.get(name, ()):
            bell.ring(news)

    def wake(self) -> None:
        """Wake everybody, without news."""
        for name in self._bells:
            self.ring(name, None)

    def silence(self) -> None:
        """Wake everybody, and let nobody wait from now on."""
        self._silent = True
        self.wake()
