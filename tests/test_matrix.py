"""The matrix: what is promised of pictures holds at every door, over every backend.

A door is what a caller speaks, and says how he is refused by an HTTP status: that of the one table, whatever he speaks. A backend
says what it can do, and brings the other side that the case wants.
"""

import asyncio
import base64
import http.client
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Literal, NamedTuple, Protocol, Self

import grpc
import PIL.Image
import pytest
from grpc import StatusCode

from tests.foreign import Foreign, alone, jpeg, pictured, refused
from tests.images_api import ImagesApi
from tests.postgres import Postgres
from yandexart_grpc import stubs
from yandexart_grpc.errors import row
from yandexart_grpc.server import ServerSettings, embedded
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.backends.demo import REFUSAL, REFUSED, draw, size_of

LARGE = jpeg(size=20 * 2**20)
FOLDER, MODEL = "folder", "yandex-art/latest"
AUTHORIZATION = "Api-Key AQVN-anna"
SLOW = 0.4
"""Seconds that a slow picture takes."""

Case = Literal["fast", "slow", "never", "large", "down", "lost"]
"""How the other side of a backend behaves: it draws at once, after a while, or never; its pictures have 20 MB; nobody is there;
or its answer is lost, with the picture bought."""


class Order(NamedTuple):
    """What a caller asks for."""

    prompt: str = "a red cat"
    ratio: tuple[int, int] | None = None
    seed: int | None = None
    key: str | None = None


class Refused(Exception):
    """How a caller is told that there is no picture."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


# ── doors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Door(Protocol):
    """A caller of one of the doors. Whatever fails raises `Refused`."""

    async def draw(self, order: Order) -> bytes:
        """A picture."""


class Desk(Door, Protocol):
    """A caller of a door that gives out operations."""

    async def submit(self, order: Order) -> str:
        """The id of an operation."""

    async def look(self, operation_id: str, hold: int = 0) -> bytes | None:
        """Its picture; None where it is not done."""

    async def cancel(self, operation_id: str) -> None:
        """Ask for no picture."""


class Grpc:
    """Speaks through the stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._generation = stubs.ImageGenerationAsyncServiceStub(channel)
        self._operations = stubs.OperationServiceStub(channel)

    @classmethod
    @asynccontextmanager
    async def at(cls, endpoint: str) -> AsyncIterator["Grpc"]:
        options = [("grpc.max_receive_message_length", 32 * 2**20)]
        async with grpc.aio.insecure_channel(endpoint.removeprefix("http://"), options) as channel:
            yield cls(channel)

    async def draw(self, order: Order) -> bytes:
        image = await self.look(await self.submit(order), hold=20)
        assert image is not None
        return image

    async def submit(self, order: Order) -> str:
        request = stubs.ImageGenerationRequest(
            model_uri=f"art://{FOLDER}/{MODEL}", messages=[stubs.Message(text=order.prompt, weight=1)]
        )
        request.generation_options.seed = order.seed or 0
        if order.ratio:
            ratio = request.generation_options.aspect_ratio
            ratio.width_ratio, ratio.height_ratio = order.ratio
        metadata = [("authorization", AUTHORIZATION), *([("idempotency-key", order.key)] if order.key else [])]
        accepted = await self._said(self._generation.Generate(request, metadata=metadata, timeout=10, wait_for_ready=True))
        return accepted.id

    async def look(self, operation_id: str, hold: int = 0) -> bytes | None:
        question, metadata = stubs.GetOperationRequest(operation_id=operation_id), (("prefer", f"wait={hold}"),) if hold else ()
        operation = await self._said(self._operations.Get(question, metadata=metadata, timeout=hold + 10))
        if operation.WhichOneof("result") == "error":
            raise Refused(status_of(operation.error.code), operation.error.message)
        response = stubs.ImageGenerationResponse()
        return response.image if operation.response.Unpack(response) else None

    async def cancel(self, operation_id: str) -> None:
        await self._said(self._operations.Cancel(stubs.CancelOperationRequest(operation_id=operation_id), timeout=10))

    async def _said(self, call: Any) -> stubs.Operation:
        try:
            operation: stubs.Operation = await call
        except grpc.aio.AioRpcError as error:
            raise Refused(status_of(error.code().value[0]), error.details() or "") from error
        return operation


class Http:
    """What callers over HTTP have in common: nothing but the standard library."""

    def __init__(self, url: str) -> None:
        self._host = url.removeprefix("http://")

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncIterator[Self]:
        yield cls(url)

    async def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> dict[str, Any]:
        """The JSON that is answered."""
        given = {name.replace("_", "-"): value for name, value in headers.items() if value}
        status, answer = await asyncio.to_thread(self._call, method, path, json.dumps(body) if body else None, given)
        if status == 200:
            return answer
        raise Refused(status, self.words(answer))

    def words(self, answer: dict[str, Any]) -> str:
        """What an error says, in the shape of the door."""
        raise NotImplementedError

    def _call(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        try:
            known = {"authorization": AUTHORIZATION} | ({"content-type": "application/json"} if body else {})
            connection.request(method, path, body, known | headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


class Rest(Http):
    """Speaks the JSON of the documents."""

    async def draw(self, order: Order) -> bytes:
        image = await self.look(await self.submit(order), hold=20)
        assert image is not None
        return image

    async def submit(self, order: Order) -> str:
        options: dict[str, Any] = {"mimeType": "image/jpeg"}
        if order.seed:
            options["seed"] = str(order.seed)
        if order.ratio:
            options["aspectRatio"] = {"widthRatio": str(order.ratio[0]), "heightRatio": str(order.ratio[1])}
        messages = [{"text": order.prompt, "weight": "1"}]
        body = {"modelUri": f"art://{FOLDER}/{MODEL}", "messages": messages, "generationOptions": options}
        accepted = await self.ask("POST", "/foundationModels/v1/imageGenerationAsync", body, idempotency_key=order.key)
        return str(accepted["id"])

    async def look(self, operation_id: str, hold: int = 0) -> bytes | None:
        operation = await self.ask("GET", f"/operations/{operation_id}", prefer=f"wait={hold}" if hold else None)
        if error := operation.get("error"):
            raise Refused(status_of(error["code"]), error["message"])
        return base64.b64decode(operation["response"]["image"]) if operation["done"] else None

    async def cancel(self, operation_id: str) -> None:
        await self.ask("POST", f"/operations/{operation_id}:cancel")

    def words(self, answer: dict[str, Any]) -> str:
        return str(answer["message"])


class OpenAI(Http):
    """Speaks the Images API."""

    async def draw(self, order: Order) -> bytes:
        body: dict[str, Any] = {"prompt": order.prompt, "model": f"art://{FOLDER}/{MODEL}", "response_format": "b64_json"}
        if order.seed:
            body["seed"] = order.seed
        if order.ratio:
            body["size"] = "{}x{}".format(*order.ratio)
        answer = await self.ask("POST", "/v1/images/generations", body, idempotency_key=order.key)
        return base64.b64decode(answer["data"][0]["b64_json"])

    def words(self, answer: dict[str, Any]) -> str:
        return str(answer["error"]["message"])


def status_of(number: int) -> int:
    """The HTTP status of a code."""
    return row(next(code for code in StatusCode if code.value[0] == number)).http


class DoorKind(NamedTuple):
    """A door: how to become its caller at an address, and what it can do."""

    at: Callable[[str], AbstractAsyncContextManager[Door]]
    gives_operations: bool = True
    """Whether its callers get ids, and come back with them."""


DOORS = {"grpc": DoorKind(Grpc.at)}


# ── backends ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Source(NamedTuple):
    """What a case wants of the server, and how many pictures were bought meanwhile, where that is known."""

    settings: dict[str, Any]
    bought: Callable[[], int] = lambda: 1


@contextmanager
def demo(case: Case) -> Iterator[Source]:
    """Draws by itself."""
    yield Source({"backend": "demo", "duration": f"fixed:{SLOW if case == 'slow' else 0}"})


@contextmanager
def cloud(case: Case) -> Iterator[Source]:
    """Orders at a server of ours, where that draws, and else at one that is foreign."""
    settings = {"backend": "cloud", "upstream_timeout": 0.5 if case in ("never", "down") else 20.0}
    if case in ("fast", "slow"):
        with embedded(duration=f"fixed:{SLOW if case == 'slow' else 0}") as upstream:
            yield Source({**settings, "upstream": upstream.endpoint})
    elif case == "down":
        yield Source({**settings, "upstream": "http://127.0.0.1:1"})
    else:
        answer = {"never": alone, "large": pictured(LARGE), "lost": refused(StatusCode.UNAVAILABLE)}[case]
        foreign = Foreign(generate=[answer], reads=itertools.repeat(alone))
        try:
            yield Source({**settings, "upstream": foreign.listen()}, lambda: len(foreign.executions))
        finally:
            foreign.close()


@contextmanager
def images(case: Case) -> Iterator[Source]:
    """Orders at an Images API."""
    upstream = ImagesApi(delay=SLOW if case == "slow" else 0.0, image=LARGE if case == "large" else None, hangs_up=case == "lost")
    with upstream.serving() as url:
        yield Source(
            {"backend": "images", "upstream": "http://127.0.0.1:1" if case == "down" else url}, lambda: len(upstream.bought)
        )


class BackendKind(NamedTuple):
    """A backend: how to set it up for a case, and what it can do."""

    serve: Callable[[Case], Any]
    cases: tuple[Case, ...]
    takes_seeds: bool = True
    charges: bool = True


BACKENDS = {
    "demo": BackendKind(demo, ("fast", "slow"), charges=False),
    "cloud": BackendKind(cloud, ("fast", "slow", "never", "large", "down", "lost")),
}


# ── the matrix ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Place(NamedTuple):
    """A door to a server with a backend."""

    door: Any
    """A `Desk` where `gives_operations` was asked for, and a `Door` everywhere."""
    backend: BackendKind
    bought: Callable[[], int]


def over(case: Case, *, operations: bool = False, seeds: bool = False) -> pytest.MarkDecorator:
    """Prove the claim at every door, over every backend, that knows the case and can do what is asked for."""
    places = [
        pytest.param((door, backend, case), id=f"{name}-{behind}")
        for name, door in DOORS.items()
        for behind, backend in BACKENDS.items()
        if case in backend.cases and door.gives_operations >= operations and backend.takes_seeds >= seeds
    ]
    return pytest.mark.parametrize("place", places, indirect=True)


@pytest.fixture(params=["alone", "shared"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where the server keeps its operations, and who pays then."""
    if request.param == "alone":
        return {}
    monkeypatch.setenv("YC_API_KEY", "AQVN-server")
    postgres: Postgres = request.getfixturevalue("postgres")
    return {"store": postgres.database(), "upstream_credentials": "server"}


@pytest.fixture
async def place(request: pytest.FixtureRequest, kept: dict[str, Any]) -> AsyncIterator[Place]:
    """The server of one cell, and its caller."""
    door, backend, case = request.param
    with backend.serve(case) as source:
        settings = ServerSettings(listen="127.0.0.1:0", grace=0.0, **source.settings, **kept)
        async with serving(settings) as endpoint, door.at(endpoint) as caller:
            yield Place(caller, backend, source.bought)


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
    await asyncio.sleep(SLOW / 3)
    await place.door.cancel(operation_id)
    if place.backend.charges:
        assert await place.door.look(operation_id, hold=10)
    else:
        assert (await refusal(place.door.look(operation_id))).status == 499


@over("slow")
async def test_a_key_is_one_picture(place: Place) -> None:
    """At the same time and afterwards; without one, each order is a picture of its own."""
    first, second, other = await asyncio.gather(*(place.door.draw(Order(key=key)) for key in ("k", "k", None)))
    assert first == second == await place.door.draw(Order(key="k")) != other


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
