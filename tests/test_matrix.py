"""The matrix: what is promised of pictures holds at every door, over every backend.

A door is what a caller speaks (`callers`), who is refused by an HTTP status: that of the one table, whatever he speaks. A backend
says what it can do, and brings the upstream that the case wants, in a process of its own. There is one server of ours for each
backend and case, and all doors lead to it.
"""

import asyncio
import functools
import io
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import PIL.Image
import pytest

from tests import processes
from tests.callers import AUTHORIZATION, DOORS, Order, Refused
from tests.foreign import jpeg
from tests.postgres import Postgres
from yandexart_grpc.server import Backend, Embedded, embedded
from yandexart_grpc.server.backends.cloud import CloudBackend
from yandexart_grpc.server.backends.demo import REFUSAL, REFUSED, DemoBackend, draw, size_of
from yandexart_grpc.server.backends.images import ImagesBackend, Patience
from yandexart_grpc.server.store import MEMORY

LARGE = jpeg(size=20 * 2**20)
NOWHERE = "http://127.0.0.1:1"
SLOW = 0.4
"""Seconds that a slow picture takes."""

Case = Literal["fast", "slow", "never", "large", "down", "lost"]
"""How the other side of a backend behaves: it draws at once, after a while, or never; its pictures have 20 MB; nobody is there;
or its answer is lost, with the picture bought."""


class Source(NamedTuple):
    """A backend for a case, and how many pictures it has bought so far."""

    backend: Backend
    bought: Callable[[], int] = lambda: 0


@contextmanager
def demo(case: Case, folder: Path) -> Iterator[Source]:
    """Draws by itself."""
    yield Source(DemoBackend(f"fixed:{seconds_of(case)}"))


@contextmanager
def cloud(case: Case, folder: Path) -> Iterator[Source]:
    """Orders at a server of ours, where that draws, and else at one that is foreign: ours loses no order."""
    if case == "down":
        yield Source(CloudBackend(NOWHERE, timeout=0.3))
    elif case in ("fast", "slow"):
        file = folder / "store.db"
        with processes.program("--demo-duration", f"fixed:{seconds_of(case)}", "--store", f"sqlite:///{file}") as upstream:
            yield Source(CloudBackend(upstream.endpoint, timeout=20.0), lambda: orders_in(file))
    else:
        with module("tests.foreign", case, folder) as (endpoint, bought):
            yield Source(CloudBackend(endpoint, timeout=0.5 if case == "never" else 20.0), bought)


@contextmanager
def images(case: Case, folder: Path) -> Iterator[Source]:
    """Orders at an Images API, which is written from the documents alone."""
    if case == "down":
        yield Source(ImagesBackend(NOWHERE, authorization=AUTHORIZATION, patience=Patience(attempts=1)))
    else:
        with module("tests.images_upstream", case, folder) as (endpoint, bought):
            yield Source(ImagesBackend(endpoint, authorization=AUTHORIZATION), bought)


@contextmanager
def module(name: str, case: Case, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """The address of an upstream that is a module of the tests, and how many pictures it has sold."""
    ledger, image = folder / "ledger", folder / "image"
    ledger.touch()
    if case == "large":
        image.write_bytes(LARGE)
    behaviours: dict[str, tuple[str | Path, ...]] = {
        "slow": ("--delay", str(SLOW)),
        "large": ("--image", image),
        "lost": ("--lose",),
    }
    with processes.module(name, "--ledger", ledger, *behaviours.get(case, ())) as upstream:
        yield upstream.endpoint, lambda: len(ledger.read_text().splitlines())


def seconds_of(case: Case) -> float:
    """How long a picture takes to be drawn."""
    return SLOW if case == "slow" else 0.0


def orders_in(file: Path) -> int:
    """How many operations a store holds."""
    with closing(sqlite3.connect(file)) as reader:
        (number,) = reader.execute("SELECT count(*) FROM operations").fetchone()
    return int(number)


class BackendKind(NamedTuple):
    """A backend: how to set it up for a case, and what it can do."""

    source: Callable[[Case, Path], AbstractContextManager[Source]]
    cases: tuple[Case, ...]
    takes_seeds: bool = True
    charges: bool = True


BACKENDS = {
    "demo": BackendKind(demo, ("fast", "slow"), charges=False),
    "images": BackendKind(images, ("fast", "slow", "large", "down", "lost"), takes_seeds=False),
    "cloud": BackendKind(cloud, ("fast", "slow", "never", "large", "down", "lost")),
}


class Place(NamedTuple):
    """A door to a server with a backend."""

    door: Any
    """A `Desk` where `gives_operations` was asked for, and a `Door` everywhere."""
    backend: BackendKind
    bought: Callable[[], int]
    """How many pictures were bought since the test began."""


def over(case: Case, *, operations: bool = False, seeds: bool = False) -> pytest.MarkDecorator:
    """Prove the claim at every door, over every backend, that knows the case and can do what is asked for."""
    places = [
        pytest.param((door, behind, case), id=f"{door}-{behind}")
        for behind, backend in BACKENDS.items()
        for door, kind in DOORS.items()
        if case in backend.cases and kind.gives_operations >= operations and backend.takes_seeds >= seeds
    ]
    return pytest.mark.parametrize("place", places, indirect=True)


Serve = Callable[[str, Case], tuple[Embedded, Source]]


@pytest.fixture(scope="module", params=["alone", "shared"])
def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts the server of a backend and a case, in memory or on PostgreSQL, which is kept for all doors and claims."""
    postgres: Postgres | None = request.getfixturevalue("postgres") if request.param == "shared" else None
    with ExitStack() as life:

        @functools.cache
        def start(backend: str, case: Case) -> tuple[Embedded, Source]:
            source = life.enter_context(BACKENDS[backend].source(case, tmp_path_factory.mktemp(backend)))
            return life.enter_context(
                embedded(source.backend, http=True, store=postgres.database() if postgres else MEMORY, grace=0.1)
            ), source

        yield start


@pytest.fixture
async def place(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Place]:
    """A caller of the server of one cell."""
    door, backend, case = request.param
    server, source = serve(backend, case)
    before = source.bought()
    async with DOORS[door].at(server) as caller:
        yield Place(caller, BACKENDS[backend], lambda: source.bought() - before)


async def refusal(answer: Any) -> Refused:
    """How an order is refused."""
    with pytest.raises(Refused) as caught:
        await answer
    return caught.value


@over("fast")
async def test_it_draws_in_the_ratio_that_is_asked_for(place: Place) -> None:
    """A whole JPEG of about a megapixel, 1:1 where nothing else is said."""
    for ratio, size in ((None, (1024, 1024)), ((16, 9), size_of(16, 9))):
        with PIL.Image.open(io.BytesIO(await place.door.draw(Order(ratio=ratio)))) as image:
            image.load()
            assert (image.format, image.size) == ("JPEG", size)


@over("fast", seeds=True)
async def test_a_seed_is_one_picture(place: Place) -> None:
    """The same bytes through every door and every backend: those of the one that draws."""
    assert await place.door.draw(Order(seed=42)) == draw("a red cat", seed=42, width_ratio=1, height_ratio=1)


@over("fast")
async def test_the_content_rules_refuse(place: Place) -> None:
    """In the words of the service."""
    refused = await refusal(place.door.draw(Order(REFUSED)))
    assert refused.status == 400
    assert REFUSAL in refused.words


@over("fast")
async def test_bad_input_is_named(place: Place) -> None:
    """At once."""
    for prompt, words in (("x" * 702, "Prompt positive size 702 exceeds limit (500)"), ("", "prompt: ")):
        refused = await refusal(place.door.draw(Order(prompt)))
        assert refused.status == 400
        assert words in refused.words


@over("slow", operations=True)
async def test_a_read_is_held(place: Place) -> None:
    """Until the picture is there, and no longer."""
    operation_id = await place.door.submit(Order())
    assert await place.door.look(operation_id) is None
    async with asyncio.timeout(10):
        assert await place.door.look(operation_id, hold=30)


@over("slow", operations=True)
async def test_cancelling_stops_what_is_not_paid_for(place: Place) -> None:
    """Where the backend charges it is too late, and the picture comes."""
    operation_id = await place.door.submit(Order())
    if place.backend.charges:
        await asyncio.sleep(SLOW / 3)  # until it was called
        await place.door.cancel(operation_id)
        assert await place.door.look(operation_id, hold=10)
    else:
        await place.door.cancel(operation_id)
        assert (await refusal(place.door.look(operation_id))).status == 499


@over("slow")
async def test_a_key_is_one_picture(place: Place) -> None:
    """At the same time and afterwards; without one, each order is a picture of its own."""
    key = uuid.uuid4().hex  # the doors share a server, and so its keys
    first, second, other = await asyncio.gather(*(place.door.draw(Order(key=known)) for known in (key, key, None)))
    assert first == second == await place.door.draw(Order(key=key)) != other
    assert place.bought() == (2 if place.backend.charges else 0)


@over("large")
async def test_twenty_megabytes_arrive_whole(place: Place) -> None:
    """Byte by byte."""
    assert await place.door.draw(Order()) == LARGE


@over("down")
async def test_where_nobody_is_nothing_is_ordered(place: Place) -> None:
    """That is said, and the order may be sent again."""
    refused = await refusal(place.door.draw(Order()))
    assert refused.status == 503
    assert "nothing was ordered" in refused.words


@over("never")
async def test_what_is_never_done_is_given_up(place: Place) -> None:
    """It may have been bought."""
    refused = await refusal(place.door.draw(Order()))
    assert refused.status == 504
    assert "may have been bought" in refused.words
    assert place.bought() == 1


@over("lost")
async def test_an_answer_that_is_lost_is_no_second_order(place: Place) -> None:
    """It may have been bought, once."""
    refused = await refusal(place.door.draw(Order()))
    assert refused.status == 409
    assert "may have been bought" in refused.words
    assert place.bought() == 1
