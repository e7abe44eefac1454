"""The asyncio client: `AsyncYandexArt` and its `AsyncOperation`. Name by name what `client` is, with `await`.

The channel belongs to the event loop that makes the first call, and so does the client.
"""

import asyncio
import os
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from yandexart_grpc import channel, stubs
from yandexart_grpc._drive import adrive
from yandexart_grpc._plan import Step
from yandexart_grpc._submit import submit
from yandexart_grpc._wait import finished, is_cancelled, watch
from yandexart_grpc.client import log
from yandexart_grpc.errors import ConfigurationError, translated
from yandexart_grpc.image import Image
from yandexart_grpc.request import DEFAULT_MODEL, MIME_TYPE, AspectRatio, ImageRequest, Prompt, known_id
from yandexart_grpc.settings import MAX_MESSAGE_BYTES, RPC_TIMEOUT, TIMEOUT, Endpoint, Settings, Timeout


class AsyncYandexArt:
    """A client for image generation, safe to share between the tasks of one event loop.

    The arguments, and what stands in for them in the environment, are those of `YandexArt`.

    Raises `ConfigurationError`, which names every setting that is wrong.
    """

    def __init__(
        self,
        *,
        folder_id: str | None = None,
        credentials: str | None = None,
        endpoint: str | None = None,
        operation_endpoint: str | None = None,
        root_certificates: str | os.PathLike[str] | None = None,
        timeout: float | None = TIMEOUT,
        rpc_timeout: float = RPC_TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._settings = Settings.resolve(
            folder_id=folder_id,
            credentials=credentials,
            endpoint=endpoint,
            operation_endpoint=operation_endpoint,
            root_certificates=root_certificates,
            timeout=timeout,
            rpc_timeout=rpc_timeout,
            max_message_bytes=max_message_bytes,
        )
        self._link: _Link | None = None
        self._ready = False
        self._closed = False

    async def generate(
        self,
        prompt: Prompt,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: AspectRatio | None = None,
        seed: int | None = None,
        mime_type: str = MIME_TYPE,
        timeout: Timeout = ...,
    ) -> Image:
        """Submit, wait, and return the image, as `YandexArt.generate` does."""
        span = self._settings.span(timeout)
        start = time.monotonic()
        operation = await self.submit(
            prompt, model=model, aspect_ratio=aspect_ratio, seed=seed, mime_type=mime_type, timeout=span
        )
        return await operation._result(None if span is None else start + span - time.monotonic())

    async def submit(
        self,
        prompt: Prompt,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: AspectRatio | None = None,
        seed: int | None = None,
        mime_type: str = MIME_TYPE,
        timeout: Timeout = ...,
    ) -> "AsyncOperation":
        """Order an image and return as soon as its operation has an id, as `YandexArt.submit` does.

        When the task is cancelled before the id is known, the image may have been ordered all the same.
        """
        span = self._settings.span(timeout)
        request = ImageRequest.build(
            prompt,
            folder_id=self._settings.folder_id,
            model=model,
            aspect_ratio=aspect_ratio,
            seed=seed,
            mime_type=mime_type,
        )
        message = request.to_proto()
        limit = self._settings.rpc_timeout
        seen = await adrive(submit(limit if span is None else min(span, limit)), lambda step: self._generate(message, step))
        log.info("operation %s submitted", seen.id)
        return AsyncOperation(self, seen.id, seen=seen, request=request)

    def operation(self, operation_id: str) -> "AsyncOperation":
        """A handle for an operation that was submitted earlier, in whichever process. Nothing is sent yet.

        Raises `InvalidRequest` when the id is empty.
        """
        return AsyncOperation(self, known_id(operation_id))

    async def close(self) -> None:
        """End the connections, and the embedded server where there is one. Operations go on; closing twice is harmless."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            await link.life.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _generate(self, message: stubs.ImageGenerationRequest, step: Step) -> stubs.Operation:
        link = self._open()
        timeout = step.timeout
        if not self._ready:
            timeout = await channel.aconnect(link.channel, link.target, timeout)
            self._ready = True
        try:
            return await link.generation.Generate(message, timeout=timeout, metadata=self._settings.metadata)
        except grpc.RpcError:
            self._ready = False
            raise

    async def _get(self, operation_id: str, timeout: float) -> stubs.Operation:
        request = stubs.GetOperationRequest(operation_id=operation_id)
        try:
            return await self._open().operations.Get(request, timeout=timeout, metadata=self._settings.metadata)
        except grpc.RpcError:
            self._ready = False
            raise

    async def _cancel(self, operation_id: str) -> stubs.Operation:
        request = stubs.CancelOperationRequest(operation_id=operation_id)
        timeout = self._settings.rpc_timeout
        return await self._open().operations.Cancel(request, timeout=timeout, metadata=self._settings.metadata)

    def _open(self) -> "_Link":
        if self._closed:
            raise ConfigurationError("this client is closed")
        loop = asyncio.get_running_loop()
        if self._link is None:
            self._link = _Link.open(self._settings, loop)
        if self._link.loop is not loop:
            raise ConfigurationError("this client belongs to another event loop; make one client for each loop")
        return self._link


class _Link(NamedTuple):
    """What belongs to one event loop: the stubs, and the channels that end with `life`."""

    loop: asyncio.AbstractEventLoop
    life: AsyncExitStack
    target: str
    channel: grpc.aio.Channel
    generation: stubs.ImageGenerationAsyncServiceAsyncStub
    operations: stubs.OperationServiceAsyncStub

    @classmethod
    def open(cls, settings: Settings, loop: asyncio.AbstractEventLoop) -> Self:
        life, embedded = AsyncExitStack(), ExitStack()
        settings = channel.start_embedded(settings, embedded)
        life.push_async_callback(asyncio.to_thread, embedded.close)

        def connection(endpoint: Endpoint) -> grpc.aio.Channel:
            opened = channel.open_aio_channel(endpoint, settings)
            life.push_async_callback(opened.close)
            return opened

        generation = connection(settings.endpoint)
        same = settings.operation_endpoint == settings.endpoint
        return cls(
            loop=loop,
            life=life,
            target=settings.endpoint.target,
            channel=generation,
            generation=stubs.ImageGenerationAsyncServiceStub(generation),
            operations=stubs.OperationServiceStub(generation if same else connection(settings.operation_endpoint)),
        )


class AsyncOperation:
    """An order for one image. Make it with `AsyncYandexArt.submit` or `AsyncYandexArt.operation`; awaiting it gives the image."""

    def __init__(
        self,
        client: AsyncYandexArt,
        operation_id: str,
        *,
        seen: stubs.Operation | None = None,
        request: ImageRequest | None = None,
    ) -> None:
        self._client = client
        self._id = operation_id
        self._seen = seen
        self._request = request

    @property
    def id(self) -> str:
        """The id, with which any process can pick the operation up while the service keeps it: about three days."""
        return self._id

    async def done(self) -> bool:
        """Whether the operation has ended, as `Operation.done` tells."""
        if self._seen is None or not finished(self._seen):
            with translated("reading", self._id):
                self._seen = await self._client._get(self._id, self._client._settings.rpc_timeout)
        return finished(self._seen)

    async def result(self, timeout: Timeout = ...) -> Image:
        """Wait for the image, as `Operation.result` does. When the task is cancelled, the operation goes on."""
        return await self._result(self._client._settings.span(timeout))

    async def cancel(self) -> bool:
        """Ask the service not to make the image, as `Operation.cancel` does."""
        with translated("cancelling", self._id):
            self._seen = await self._client._cancel(self._id)
        return is_cancelled(self._seen)

    def __await__(self) -> Generator[Any, None, Image]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"AsyncOperation({self._id!r})"

    async def _result(self, span: float | None) -> Image:
        seen = self._seen
        if seen is None or not finished(seen):
            steps = watch(
                self._id,
                timeout=span,
                rpc_timeout=self._client._settings.rpc_timeout,
                now=time.monotonic,
                ask_at_once=seen is None,
            )
            seen = await adrive(steps, lambda step: self._client._get(self._id, step.timeout))
        log.info("operation %s done", self._id)
        self._seen = None  # an image that is handed over is not kept
        return Image.from_operation(seen, self._request)
