"""Callers of the doors: the stubs, plain HTTP and the `openai` package, blocking and with asyncio where there is a choice.

Each says what it is told and nothing else. Our own clients are not among them: they check a request before they send it, choose a
seed, and decide when to ask, so that of what a door promises little would be seen.
"""

import asyncio
import base64
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple, Protocol

import grpc
import openai
from grpc import StatusCode

from tests.images_upstream import KEY
from yandexart_grpc import stubs
from yandexart_grpc.errors import row
from yandexart_grpc.server import Embedded

URI = "art://folder/yandex-art/latest"
AUTHORIZATION = f"Api-Key {KEY}"
OPTIONS = [("grpc.max_receive_message_length", 32 * 2**20)]

Call = Callable[..., Awaitable[Any]]
"""Awaits what a method answers: `awaited`, or `asyncio.to_thread` for one that blocks."""


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


class Door(Protocol):
    """A caller of one of the doors. Whatever fails raises `Refused`."""

    async def draw(self, order: Order) -> bytes:
        """A picture."""


class Desk:
    """A caller of a door that gives out operations."""

    async def draw(self, order: Order) -> bytes:
        """A picture."""
        image = await self.look(await self.submit(order), hold=20)
        assert image is not None
        return image

    async def submit(self, order: Order) -> str:
        """The id of an operation."""
        raise NotImplementedError

    async def look(self, operation_id: str, hold: int = 0) -> bytes | None:
        """Its picture; None where it is not done."""
        raise NotImplementedError

    async def cancel(self, operation_id: str) -> None:
        """Ask for no picture."""
        raise NotImplementedError


async def awaited(method: Call, *args: Any, **named: Any) -> Any:
    """What a method of asyncio answers."""
    return await method(*args, **named)


class Grpc(Desk):
    """Speaks through the stubs, on a channel of either kind."""

    def __init__(self, channel: Any, call: Call) -> None:
        self._call = call
        self._generation = stubs.ImageGenerationAsyncServiceStub(channel)
        self._operations = stubs.OperationServiceStub(channel)

    @classmethod
    @asynccontextmanager
    async def blocking(cls, server: Embedded) -> AsyncIterator[Desk]:
        """On a channel of `grpc`."""
        with grpc.insecure_channel(server.endpoint.removeprefix("http://"), OPTIONS) as channel:
            yield cls(channel, asyncio.to_thread)

    @classmethod
    @asynccontextmanager
    async def awaiting(cls, server: Embedded) -> AsyncIterator[Desk]:
        """On a channel of `grpc.aio`."""
        async with grpc.aio.insecure_channel(server.endpoint.removeprefix("http://"), OPTIONS) as channel:
            yield cls(channel, awaited)

    async def submit(self, order: Order) -> str:
        request = stubs.ImageGenerationRequest(model_uri=URI, messages=[stubs.Message(text=order.prompt, weight=1)])
        request.generation_options.seed = order.seed or 0
        if order.ratio:
            ratio = request.generation_options.aspect_ratio
            ratio.width_ratio, ratio.height_ratio = order.ratio
        metadata = [("authorization", AUTHORIZATION), *([("idempotency-key", order.key)] if order.key else [])]
        accepted = await self._said(self._generation.Generate, request, metadata=metadata, timeout=10, wait_for_ready=True)
        return accepted.id

    async def look(self, operation_id: str, hold: int = 0) -> bytes | None:
        question, metadata = stubs.GetOperationRequest(operation_id=operation_id), (("prefer", f"wait={hold}"),) if hold else ()
        operation = await self._said(self._operations.Get, question, metadata=metadata, timeout=hold + 10)
        if operation.WhichOneof("result") == "error":
            raise Refused(status_of(operation.error.code), operation.error.message)
        response = stubs.ImageGenerationResponse()
        return response.image if operation.response.Unpack(response) else None

    async def cancel(self, operation_id: str) -> None:
        await self._said(self._operations.Cancel, stubs.CancelOperationRequest(operation_id=operation_id), timeout=10)

    async def _said(self, method: Any, request: Any, **options: Any) -> stubs.Operation:
        try:
            operation: stubs.Operation = await self._call(method, request, **options)
        except grpc.RpcError as error:
            told: Any = error
            raise Refused(status_of(told.code().value[0]), told.details() or "") from error
        return operation


class Rest(Desk):
    """Speaks the JSON of the documents, with nothing but the standard library."""

    def __init__(self, url: str) -> None:
        self._host = url.removeprefix("http://")

    @classmethod
    @asynccontextmanager
    async def blocking(cls, server: Embedded) -> AsyncIterator[Desk]:
        """With a connection for each request."""
        yield cls(str(server.http))

    async def submit(self, order: Order) -> str:
        options: dict[str, Any] = {"mimeType": "image/jpeg"}
        if order.seed:
            options["seed"] = str(order.seed)
        if order.ratio:
            options["aspectRatio"] = {"widthRatio": str(order.ratio[0]), "heightRatio": str(order.ratio[1])}
        body = {"modelUri": URI, "messages": [{"text": order.prompt, "weight": "1"}], "generationOptions": options}
        accepted = await self._ask("POST", "/foundationModels/v1/imageGenerationAsync", body, idempotency_key=order.key)
        return str(accepted["id"])

    async def look(self, operation_id: str, hold: int = 0) -> bytes | None:
        operation = await self._ask("GET", f"/operations/{operation_id}", prefer=f"wait={hold}" if hold else None)
        if error := operation.get("error"):
            raise Refused(status_of(error["code"]), error["message"])
        return base64.b64decode(operation["response"]["image"]) if operation["done"] else None

    async def cancel(self, operation_id: str) -> None:
        await self._ask("POST", f"/operations/{operation_id}:cancel")

    async def _ask(self, method: str, path: str, body: object = None, **headers: str | None) -> dict[str, Any]:
        given = {name.replace("_", "-"): value for name, value in headers.items() if value}
        status, answer = await asyncio.to_thread(self._call, method, path, json.dumps(body) if body else None, given)
        if status == 200:
            return answer
        raise Refused(status, answer["message"])

    def _call(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        try:
            known = {"authorization": AUTHORIZATION} | ({"content-type": "application/json"} if body else {})
            connection.request(method, path, body, known | headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


class OpenAI:
    """Speaks the Images API by the `openai` package, with a client of either kind."""

    def __init__(self, client: openai.OpenAI | openai.AsyncOpenAI, call: Call) -> None:
        self._client, self._call = client, call

    @classmethod
    @asynccontextmanager
    async def blocking(cls, server: Embedded) -> AsyncIterator[Door]:
        """With `openai.OpenAI`."""
        with openai.OpenAI(base_url=f"{server.http}/v1", api_key=KEY, max_retries=0) as client:
            yield cls(client, asyncio.to_thread)

    @classmethod
    @asynccontextmanager
    async def awaiting(cls, server: Embedded) -> AsyncIterator[Door]:
        """With `openai.AsyncOpenAI`."""
        async with openai.AsyncOpenAI(base_url=f"{server.http}/v1", api_key=KEY, max_retries=0) as client:
            yield cls(client, awaited)

    async def draw(self, order: Order) -> bytes:
        options: dict[str, Any] = {"response_format": "b64_json"}
        if order.seed:
            options["extra_body"] = {"seed": order.seed}
        if order.ratio:
            options["size"] = "{}x{}".format(*order.ratio)
        if order.key:
            options["extra_headers"] = {"idempotency-key": order.key}
        try:
            answer = await self._call(self._client.images.generate, prompt=order.prompt, model=URI, **options)
        except openai.APIStatusError as error:
            raise Refused(error.status_code, error.message) from error
        return base64.b64decode(answer.data[0].b64_json)


def status_of(number: int) -> int:
    """The HTTP status of a code."""
    return row(next(code for code in StatusCode if code.value[0] == number)).http


class DoorKind(NamedTuple):
    """A door and a kind of caller: how to become one of a server, and what he can do."""

    at: Callable[[Embedded], AbstractAsyncContextManager[Door]]
    gives_operations: bool = True
    """Whether callers get ids, and come back with them."""


DOORS = {
    "grpc": DoorKind(Grpc.blocking),
    "grpc-aio": DoorKind(Grpc.awaiting),
    "rest": DoorKind(Rest.blocking),
    "openai": DoorKind(OpenAI.blocking, gives_operations=False),
    "openai-aio": DoorKind(OpenAI.awaiting, gives_operations=False),
}
