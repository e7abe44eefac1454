"""A server with a scripted backend and its HTTP doors open, in the event loop of a test, and a caller of the one over gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
from grpc import StatusCode

from tests.foreign import jpeg
from yandexart_grpc import stubs
from yandexart_grpc.errors import code_of
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import Embedded, ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.backends.base import Upstream

PICTURE = jpeg()
SKETCHES = tuple(jpeg(seed=seed) for seed in (2, 3, 4))
AUTHORIZATION = "Api-Key AQVN-anna"


class Scripted:
    """A backend that keeps what it was asked for, and answers when it is let: at once where nothing else is said."""

    resumable = False

    def __init__(
        self, answer: bytes | Exception = PICTURE, *, charges: bool = False, sketches: Sequence[bytes] = (), warning: str = ""
    ) -> None:
        self.charges = charges
        self.asked: list[ImageRequest] = []
        self.authorizations: list[str] = []
        self.begun, self.let = asyncio.Event(), asyncio.Event()
        self.let.set()
        self._answer, self._sketches, self._warning = answer, sketches, warning

    async def generate(self, request: ImageRequest, upstream: Upstream) -> stubs.ImageGenerationResponse:
        self.asked.append(request)
        self.authorizations.append(upstream.authorization)
        self.begun.set()
        if self._warning:
            upstream.warn(self._warning)
        for sketch in self._sketches:
            await soon(lambda: upstream.followed)
            upstream.sketch(sketch)
            await soon(lambda: not upstream.followed)  # whoever follows has heard, and will listen again
        await self.let.wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return stubs.ImageGenerationResponse(image=self._answer, model_version="scripted")

    async def close(self) -> None:
        """Nothing is held open."""


async def soon(condition: Callable[[], bool], seconds: float = 0.2) -> None:
    """Wait for a condition, so long at the most: look whenever the loop comes round, as it may not last any longer."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(backend: Scripted, **settings: Any) -> AsyncIterator[Embedded]:
    """A server with that backend, which is stopped without grace where nothing else is said."""
    given: dict[str, Any] = {"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "grace": 0.0}
    async with serving(ServerSettings(backend=backend, **(given | settings))) as running:
        yield running


def ask(prompt: str = "a cat") -> stubs.ImageGenerationRequest:
    """A request for a picture, without a seed."""
    return stubs.ImageGenerationRequest(
        model_uri="art://folder/yandex-art/latest",
        messages=[stubs.Message(text=prompt, weight=1)],
        generation_options=stubs.ImageGenerationOptions(mime_type="image/jpeg"),
    )


class Caller:
    """A caller who has nothing but the stubs."""

    def __init__(self, endpoint: str) -> None:
        options = [("grpc.max_receive_message_length", 32 * 2**20)]
        self.channel = grpc.aio.insecure_channel(endpoint.removeprefix("http://"), options)
        self._generation = stubs.ImageGenerationAsyncServiceStub(self.channel)
        self._operations = stubs.OperationServiceStub(self.channel)

    def begin(
        self,
        order: str | stubs.ImageGenerationRequest = "a cat",
        *,
        key: str | None = None,
        authorization: str | None = AUTHORIZATION,
    ) -> Any:
        """A submit under way, of a prompt or a whole request."""
        request = ask(order) if isinstance(order, str) else order
        given = {"idempotency-key": key, "authorization": authorization}
        metadata = tuple((name, value) for name, value in given.items() if value is not None)
        return self._generation.Generate(request, metadata=metadata, timeout=10, wait_for_ready=True)

    async def submit(self, order: str | stubs.ImageGenerationRequest = "a cat", **given: str | None) -> str:
        """The id of a new operation."""
        return str((await self.begin(order, **given)).id)

    async def get(self, operation_id: str, hold: int | None = None) -> stubs.Operation:
        """The operation; with `hold`, when it is done."""
        metadata = () if hold is None else (("prefer", f"wait={hold}"),)
        request = stubs.GetOperationRequest(operation_id=operation_id)
        answer: stubs.Operation = await self._operations.Get(request, metadata=metadata, timeout=30, wait_for_ready=True)
        return answer

    async def ended(self, operation_id: str) -> stubs.Operation:
        """The operation once it is done."""
        operation = await self.get(operation_id, hold=20)
        assert operation.done
        return operation

    async def made(self, order: str | stubs.ImageGenerationRequest = "a cat", **given: str | None) -> stubs.Operation:
        """A new operation once it is done."""
        return await self.ended(await self.submit(order, **given))

    async def cancel(self, operation_id: str) -> stubs.Operation:
        """The operation after an attempt to cancel it."""
        request = stubs.CancelOperationRequest(operation_id=operation_id)
        answer: stubs.Operation = await self._operations.Cancel(request, timeout=10)
        return answer

    async def close(self) -> None:
        """Hang up when all calls are answered."""
        await self.channel.close(grace=5)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def response_of(operation: stubs.Operation) -> stubs.ImageGenerationResponse:
    """What a finished operation brought."""
    response = stubs.ImageGenerationResponse()
    assert operation.response.Unpack(response), operation
    return response


def error_of(operation: stubs.Operation) -> tuple[StatusCode, str]:
    """How a finished operation failed."""
    assert operation.WhichOneof("result") == "error", operation
    return code_of(operation.error.code), operation.error.message
