"""Tells whoever watches the page what happens to operations: what happens here at once, and elsewhere within a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from yandexart_grpc.errors import Unavailable
from yandexart_grpc.server.events import Observer
from yandexart_grpc.server.store import Kind, Listed, Row

MOST = 500
"""Operations of which one viewer has not been told yet; of more, he is told that there are more."""
PAUSE = 1.0
"""Seconds from one look at what other servers did to the next."""
OVERLAP = 10.0
"""Seconds that each look goes back behind the last one: clocks differ, and a change is written a while after its time."""
MOST_CHANGES = 5_000
"""Operations that one look sees, at the most."""

Changed = Callable[[float, int], Awaitable[list[Listed]]]
"""Tells what has changed since a time, and no more than so many."""


class Viewer:
    """Somebody who watches what happens to a caller's operations."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.closed = False
        """Whether there is nothing more to come, because the server is about to end."""
        self._news: dict[str, Listed] = {}
        self._missed = False
        self._rung = asyncio.Event()

    def tell(self, one: Listed) -> None:
        """Tell of an operation; the latest news of each is kept."""
        if len(self._news) < MOST:
            self._news[one.id] = one
        else:
            self._missed = True
        self._rung.set()

    def miss(self) -> None:
        """Tell that there is more than can be told."""
        self._missed = True
        self._rung.set()

    def close(self) -> None:
        """Tell nothing more."""
        self.closed = True
        self._rung.set()

    async def news(self, seconds: float) -> tuple[list[Listed], bool]:
        """What is new, and whether there is more than that; nothing where nothing came within so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), seconds)
        self._rung.clear()
        news, missed = list(self._news.values()), self._missed
        self._news, self._missed = {}, False
        return news, missed


class Live(Observer):
    """Passes on what it hears. Servers that share a store ask it for the rest, one question for all viewers of a server."""

    def __init__(self, changed: Changed | None) -> None:
        """`changed` tells what other servers did; None where there are no others."""
        self._viewers: set[Viewer] = set()
        self._changed = changed
        self._looking: asyncio.Task[None] | None = None

    def accepted(self, row: Row) -> None:
        self._tell(row)

    def began(self, row: Row) -> None:
        self._tell(row)

    def ended(self, row: Row) -> None:
        self._tell(row)

    @contextmanager
    def viewed(self, caller: str) -> Iterator[Viewer]:
        """A viewer of a caller's operations, until the `with` block ends."""
        viewer = Viewer(caller)
        self._viewers.add(viewer)
        if self._changed and self._looking is None:
            self._looking = asyncio.create_task(self._look(self._changed))
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            if not self._viewers and self._looking:
                self._looking.cancel()
                self._looking = None

    def close(self) -> None:
        """Send all viewers away."""
        for viewer in self._viewers:
            viewer.close()

    def _tell(self, row: Row) -> None:
        if viewers := [viewer for viewer in self._viewers if viewer.caller == row.caller]:
            listed = Listed.of(row)
            for viewer in viewers:
                viewer.tell(listed)

    async def _look(self, changed: Changed) -> None:
        """Tell what other servers did, until cancelled."""
        since, seen = time.time(), dict[str, Kind]()
        while True:
            now = time.time()
            with suppress(Unavailable):  # whoever reads the store for a caller tells him; this comes back
                found = await changed(since - OVERLAP, MOST_CHANGES)
                for viewer in self._viewers:
                    for one in found:
                        if one.caller == viewer.caller and seen.get(one.id) != one.kind:
                            viewer.tell(one)
                    if len(found) == MOST_CHANGES:
                        viewer.miss()
                since, seen = now, {one.id: one.kind for one in found}
            await asyncio.sleep(PAUSE)
