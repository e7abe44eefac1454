"""The asyncio client: name by name what `client` is, with `await`.

The channels belong to the event loop that makes the first call, and so does the client.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, Unpack, overload
from uuid import uuid4

import grpc

from yandexart_grpc import _history, auth, channel, directory, stubs
from yandexart_grpc._drive import AsyncNaps, adrive
from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Answer, Leave, Probe, Renewal, Result, Step, Talk, is_read
from yandexart_grpc._submit import connect
from yandexart_grpc._tasks import Tasks
from yandexart_grpc._token import Tokens
from yandexart_grpc._told import order, submit
from yandexart_grpc.address import Endpoint
from yandexart_grpc.auth import Credentials
from yandexart_grpc.errors import ConfigurationError, YandexArtError
from yandexart_grpc.failures import keyed, sent_as
from yandexart_grpc.image import Image, outcome
from yandexart_grpc.operation import AsyncOperation, Order
from yandexart_grpc.request import ImageOptions, ImageRequest, Prompt, known_id, known_key, require_positive
from yandexart_grpc.settings import (
    MAX_MESSAGE_BYTES,
    READS_PER_SECOND,
    RPC_TIMEOUT,
    SUBMITS_PER_MINUTE,
    TIMEOUT,
    Limits,
    Settings,
    Timeout,
)


class AsyncYandexArt:
    """A client for image generation, safe to share between the tasks of one event loop.

    The arguments, and what stands in for them in the environment, are those of `YandexArt`.

    Raises `ConfigurationError`, which names every setting that is wrong.
    """

    def __init__(
        self,
        *,
        folder_id: str | None = None,
        credentials: Credentials | None = None,
        endpoint: str | None = None,
        operation_endpoint: str | None = None,
        iam_endpoint: str | None = None,
        discovery: str | None = None,
        root_certificates: str | os.PathLike[str] | None = None,
        timeout: float | None = TIMEOUT,
        rpc_timeout: float = RPC_TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        patience: float | None = None,
        reads_per_second: float = READS_PER_SECOND,
        submits_per_minute: float = SUBMITS_PER_MINUTE,
        history: str | os.PathLike[str] | None = None,
        data_logging: bool | None = None,
        store: str | None = None,
        client_certificate: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        proxy: bool = True,
        allow_plaintext: bool = False,
    ) -> None:
        credentials = auth.hidden(credentials)
        self._settings = Settings.resolve(
            folder_id=folder_id,
            credentials=credentials,
            endpoint=endpoint,
            operation_endpoint=operation_endpoint,
            iam_endpoint=iam_endpoint,
            discovery=discovery,
            data_logging=data_logging,
            root_certificates=root_certificates,
            history=history,
            store=store,
            client_certificate=client_certificate,
            client_key=client_key,
            proxy=proxy,
            allow_plaintext=allow_plaintext,
            limits=Limits(
                timeout=timeout,
                rpc_timeout=rpc_timeout,
                max_message_bytes=max_message_bytes,
                patience=patience,
                reads_per_second=reads_per_second,
                submits_per_minute=submits_per_minute,
            ),
        )
        self._start()

    @classmethod
    def _with(cls, settings: Settings, now: Callable[[], float] = time.monotonic) -> Self:
        """A client with settings that came from neither arguments nor environment, and a monotonic clock."""
        client = cls.__new__(cls)
        client._settings = settings
        client._start(now)
        return client

    def _start(self, now: Callable[[], float] = time.monotonic) -> None:
        self._naps = AsyncNaps()
        known = _history.load(self._settings.history)
        self._pace = Pace(self._settings.limits, now, known, self._naps.end)
        source = self._settings.source
        self._tokens = Tokens(source, now, self._naps.end) if source is not None else None
        self._locating, self._asked = asyncio.Lock(), directory.Shared(now)
        self._link: _Link | None = None
        self._closed = False

    async def generate(
        self, prompt: Prompt, *, timeout: Timeout = ..., idempotency_key: str | None = None, **image: Unpack[ImageOptions]
    ) -> Image:
        """Submit, wait, and return the image, as `YandexArt.generate` does."""
        key, deadline = known_key(idempotency_key), self._deadline(timeout)
        with keyed(key):
            request = self._request(prompt, image, key)
            ended = await self._drive(order(request.to_proto(), self._pace, deadline, key))
            return Order(ended.id, request, key, self._pace.noted(ended.id)).hand_over(ended)

    async def submit(
        self, prompt: Prompt, *, timeout: Timeout = ..., idempotency_key: str | None = None, **image: Unpack[ImageOptions]
    ) -> AsyncOperation:
        """Order an image and return as soon as its operation has an id, as `YandexArt.submit` does.

        When the task is cancelled before the id is known, the image may have been ordered all the same.
        """
        key, deadline = known_key(idempotency_key), self._deadline(timeout)
        with keyed(key):
            return await self._submit(self._request(prompt, image, key), deadline, key)

    def operation(self, operation_id: str) -> AsyncOperation:
        """A handle for an operation that was submitted earlier, in whichever process. Nothing is sent yet.

        Raises `InvalidRequest` when the id is empty.
        """
        return AsyncOperation(self, Order(known_id(operation_id)))

    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        *,
        in_flight: int = ...,
        timeout: Timeout = ...,
        return_exceptions: Literal[False] = ...,
        **image: Unpack[ImageOptions],
    ) -> AsyncIterator[Image]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        *,
        in_flight: int = ...,
        timeout: Timeout = ...,
        return_exceptions: Literal[True],
        **image: Unpack[ImageOptions],
    ) -> AsyncIterator[Image | YandexArtError]: ...

    async def map(
        self,
        prompts: Iterable[Prompt],
        *,
        in_flight: int = 16,
        timeout: Timeout = ...,
        return_exceptions: bool = False,
        **image: Unpack[ImageOptions],
    ) -> AsyncIterator[Image | YandexArtError]:
        """Make an image of each prompt, `in_flight` at a time, and yield them as they are ready, as `YandexArt.map` does."""
        require_positive("in_flight", in_flight)
        self._settings.span(timeout)  # a wrong one is said here, and not once for each prompt
        waiting, failure = enumerate(prompts), None

        async def make(index: int, prompt: Prompt) -> Image | YandexArtError:
            try:
                return replace(await self.generate(prompt, timeout=timeout, **image), index=index)
            except YandexArtError as error:
                return outcome(error, index=index, key=error.idempotency_key)

        async with Tasks[Image | YandexArtError]() as tasks:
            while True:
                while failure is None and len(tasks) < in_flight and (item := next(waiting, None)):
                    tasks.add(make(*item))
                    if not item[0] % 100:  # let the loop do other things between so many
                        await self._naps.nap(0)
                if not len(tasks):
                    break
                result = await tasks.next()
                if isinstance(result, Image) or return_exceptions:
                    yield result
                else:
                    failure = failure or result
        if failure is not None:
            raise failure

    async def as_completed(
        self, operations: Iterable[AsyncOperation], *, timeout: Timeout = ...
    ) -> AsyncIterator[AsyncOperation]:
        """Yield the operations as they end, as `YandexArt.as_completed` does."""
        deadline = self._deadline(timeout)
        await self._locate()  # what cannot be asked has not ended
        async with Tasks[AsyncOperation]() as tasks:
            for operation in operations:
                tasks.add(operation._join(self, deadline))
            while len(tasks):
                yield await tasks.next()

    async def wait_all(self, operations: Iterable[AsyncOperation], *, timeout: Timeout = ...) -> None:
        """Wait until all operations have ended, as `as_completed` does."""
        async for _ in self.as_completed(operations, timeout=timeout):
            continue

    async def warm_up(self, *, timeout: Timeout = ...) -> None:
        """Connect, and fetch a token, before there is anything to send, as `YandexArt.warm_up` does."""
        deadline = self._deadline(timeout)
        await self._locate()
        for target in self._open().probes:
            await self._drive(connect(target, self._pace, deadline))

    @property
    def idempotency_scope(self) -> str | None:
        """The store in which the server keeps idempotency keys; None for Yandex, or before the first order or `warm_up`."""
        return self._pace.scope

    async def close(self) -> None:
        """End the connections, and the embedded server where there is one. Operations go on; closing twice is harmless."""
        link, self._link = self._link, None
        if not self._closed:
            self._closed = True
            _history.save(self._settings.history, self._pace.history)
        if link is not None:
            await link.life.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _request(self, prompt: Prompt, image: ImageOptions, key: str) -> ImageRequest:
        return ImageRequest.build(prompt, folder_id=self._settings.folder_id, key=key, **image)

    async def _submit(self, request: ImageRequest, deadline: float, key: str) -> AsyncOperation:
        """Send the request as it is."""
        seen = await self._drive(submit(request.to_proto(), self._pace, deadline, key))
        known = Order(seen.id, request, key, self._pace.noted(seen.id), born=self._pace.now())
        known.saw(seen)
        return AsyncOperation(self, known)

    def _deadline(self, timeout: Timeout) -> float:
        return self._pace.deadline(self._settings.span(timeout))

    async def _drive(self, steps: Talk[Result]) -> Result:
        await self._locate()
        self._open()  # an embedded server has no address before
        return await adrive(self._signed(steps), self._call, self._naps.nap)

    def _signed(self, steps: Talk[Result]) -> Talk[Result]:
        return steps if self._tokens is None else self._tokens.signed(steps)

    async def _locate(self) -> None:
        """Find out where the services are, once."""
        if self._settings.discovery is not None:
            began = self._pace.now()
            async with self._locating:
                with self._asked.since(began):
                    self._require_usable()
                    self._settings = await directory.alocate(self._settings)

    async def _call(self, step: Step) -> Answer:
        link, request, settings = self._open(), step.request, self._settings
        if isinstance(request, Renewal):
            return Answer(stubs.Operation(), token=await auth.afetch(request.source, link.exchange, step.timeout))
        if isinstance(request, Leave):
            await request.wait()
            return Answer(stubs.Operation())
        method = link.probes[request.target] if isinstance(request, Probe) else link.methods[type(request)]
        client_request_id = str(uuid4())
        metadata = settings.metadata(
            step.hold, step.key, authorization=step.authorization, client_request_id=client_request_id, context=step.context
        )
        call = method(request, timeout=step.timeout, metadata=metadata, wait_for_ready=step.reconnect)
        operation = await self._made(call, client_request_id)
        if is_read(step) and step.hold is None:  # nothing is announced then
            return Answer(operation)
        return Answer.heard(operation, await call.initial_metadata())

    async def _made(self, call: Awaitable[stubs.Operation], client_request_id: str) -> stubs.Operation:
        """What a call brings. One that was cut by `close` in another task fails; its own task was not cancelled."""
        try:
            return await call
        except grpc.RpcError as error:
            sent_as(error, client_request_id)
            self._pace.failed(error)
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, "this client was closed") from None

    def _require_usable(self) -> None:
        if self._closed:
            raise ConfigurationError("this client is closed")

    def _open(self) -> "_Link":
        self._require_usable()
        loop = asyncio.get_running_loop()
        if self._link is None:
            self._link = _Link.open(self._settings, loop)
            self._pace.target = self._link.target
        if self._link.loop is not loop:
            raise ConfigurationError("this client belongs to another event loop; make one client for each loop")
        return self._link


class _Link(NamedTuple):
    """What belongs to one event loop: methods, and the channels that end with `life`. `target` takes orders."""

    loop: asyncio.AbstractEventLoop
    life: AsyncExitStack
    target: str
    probes: dict[str, Any]
    methods: dict[type, Any]
    exchange: Any
    """What brings tokens, where they are exchanged for something."""

    @classmethod
    def open(cls, settings: Settings, loop: asyncio.AbstractEventLoop) -> Self:
        life, embedded = AsyncExitStack(), ExitStack()
        settings = channel.start_embedded(settings, embedded)
        life.push_async_callback(asyncio.to_thread, embedded.close)

        def opened(endpoint: Endpoint) -> grpc.aio.Channel:
            made = channel.open_aio_channel(endpoint, settings)
            life.push_async_callback(made.close)
            return made

        generation = operations = opened(settings.endpoint)
        if settings.operation_endpoint != settings.endpoint:
            operations = opened(settings.operation_endpoint)
        probes = {
            settings.endpoint.target: channel.probe(generation),
            settings.operation_endpoint.target: channel.probe(operations),
        }
        exchange = channel.exchange(opened(settings.iam_endpoint)) if isinstance(settings.source, auth.Exchanged) else None
        return cls(loop, life, settings.endpoint.target, probes, channel.methods(generation, operations), exchange)
