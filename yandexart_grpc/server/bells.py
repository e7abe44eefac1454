"""Wakes those who wait for an operation to be done, in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Bell:
    """What one listener waits for. It costs a future and a timer, so thousands may wait."""

    def __init__(self) -> None:
        self._rung = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, but no longer than that. A bell that rang before is not waited for."""
        alarm = asyncio.get_running_loop().call_later(seconds, self.ring)
        try:
            await self._rung
        finally:
            alarm.cancel()

    def ring(self) -> None:
        """Wake the listener."""
        if not self._rung.done():
            self._rung.set_result(None)


class Bells:
    """The bells of all listeners, under the names of what they wait for."""

    def __init__(self) -> None:
        self._bells: dict[str, set[Bell]] = {}
        self._silent = False

    @contextmanager
    def listen(self, name: str) -> Iterator[Bell]:
        """A bell that rings with that name. Listen first and look then: so nothing is missed in between."""
        bell = Bell()
        if self._silent:
            bell.ring()
        self._bells.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[name].discard(bell)
            if not self._bells[name]:
                del self._bells[name]

    def ring(self, name: str) -> None:
        """Wake everybody who listens for that name."""
        for bell in self._bells.get(name, ()):
            bell.ring()

    def silence(self) -> None:
        """Wake everybody, and let nobody wait from now on."""
        self._silent = True
        for name in self._bells:
            self.ring(name)
