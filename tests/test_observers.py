"""Who hears of the life of operations, and of what."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from grpc import StatusCode

from tests.doors import Scripted, ask
from yandexart_grpc import NotFound, stubs
from yandexart_grpc.server import events
from yandexart_grpc.server.events import Observer
from yandexart_grpc.server.operations import Operations
from yandexart_grpc.server.store import Row, State, open_store
from yandexart_grpc.server.workers import TaskWorkers


class Seen(Observer):
    """Keeps what it hears, as the name of the method and what tells."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def accepted(self, row: Row) -> None:
        self.heard.append(("accepted", row.id, row.state))

    def began(self, row: Row) -> None:
        self.heard.append(("began", row.id, row.state))

    def ended(self, row: Row) -> None:
        self.heard.append(("ended", row.id, type(row.outcome)))

    def read(self, operation_id: str, held: bool) -> None:
        self.heard.append(("read", operation_id, held))

    def handed(self, row: Row, lag: float, reads: int) -> None:
        assert 0 <= lag < 60
        self.heard.append(("handed", row.id, reads))


@asynccontextmanager
async def observed(backend: Scripted, observers: Sequence[Observer], *, keep: float = 60) -> AsyncIterator[Operations]:
    """Operations in memory, of which the observers hear."""
    async with open_store("sqlite://") as store:
        operations = Operations(store, TaskWorkers(10), backend, keep=keep, queue=10, observers=observers)
        await operations.start()
        yield operations
        await operations.close()


async def test_each_step_of_a_life_is_told_once() -> None:
    """Accepted, begun and ended in this order; then each read, and the first one that brings the picture with their number."""
    seen, backend = Seen(), Scripted()
    backend.let.clear()
    async with observed(backend, [seen]) as operations:
        made = (await operations.accept(ask(), key="k")).id
        assert (await operations.accept(ask(), key="k")).id == made
        await backend.begun.wait()
        await operations.look(made)
        reading = asyncio.create_task(operations.look(made, 20))
        await asyncio.sleep(0)
        backend.let.set()
        assert (await reading).done
        await operations.look(made)
        with pytest.raises(NotFound):
            await operations.look("unknown")
    picture = stubs.ImageGenerationResponse
    assert seen.heard == [
        ("accepted", made, State.ACCEPTED),
        ("began", made, State.RUNNING),
        ("read", made, False),
        ("ended", made, picture),
        ("read", made, True),
        ("handed", made, 2),
        ("read", made, False),
    ]


async def test_a_cancelled_operation_has_ended() -> None:
    """Before it began, with an error, and nobody was handed a picture."""
    seen, backend = Seen(), Scripted()
    backend.let.clear()
    async with observed(backend, [seen]) as operations:
        made = (await operations.accept(ask())).id
        assert (await operations.cancel(made)).error.code == StatusCode.CANCELLED.value[0]
    assert [what[0] for what in seen.heard if what[0] != "began"] == ["accepted", "ended"]
    assert seen.heard[-1] == ("ended", made, stubs.Status)


async def test_whoever_follows_reads_once() -> None:
    """However many sketches there are, and the picture is handed to him."""
    seen, backend = Seen(), Scripted()
    async with observed(backend, [seen]) as operations:
        made = (await operations.accept(ask())).id
        assert [news.id async for news in operations.follow(made) if isinstance(news, stubs.Operation)] == [made]
    assert seen.heard[-2:] == [("read", made, True), ("handed", made, 1)]


async def test_an_observer_that_fails_costs_nobody_a_picture(caplog: pytest.LogCaptureFixture) -> None:
    """The others hear, the picture is handed over, and the log has the fault."""

    class Broken(Seen):
        def ended(self, row: Row) -> None:
            raise RuntimeError("a fault of an observer")

    seen = Seen()
    async with observed(Scripted(), [Broken(), seen]) as operations:
        made = (await operations.accept(ask())).id
        assert (await operations.look(made, 20)).WhichOneof("result") == "response"
    assert "a fault of an observer" in caplog.text
    assert ("ended", made, stubs.ImageGenerationResponse) in seen.heard


async def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of operations that were read long ago nothing is known any more: memory is bounded."""
    monkeypatch.setattr(events, "REMEMBERED", 2)
    seen = Seen()
    async with observed(Scripted(), [seen]) as operations:
        made = [(await operations.accept(ask())).id for _ in range(3)]
        for name in [*made, made[2], made[0]]:
            await operations.look(name, 20)
    assert [what[1] for what in seen.heard if what[0] == "handed"] == [*made, made[0]]
