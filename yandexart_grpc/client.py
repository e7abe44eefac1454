"""The blocking client. `aio` is the same with `await`.

A shell around the core: `_submit` and `_wait` decide, `_drive` and `_crowd` perform, and this file knows which stub to call.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload
from uuid import uuid4

import grpc

from yandexart_grpc import _history, auth, channel, directory, stubs
from yandexart_grpc._crowd import Crowd, undisturbed
from yandexart_grpc._drive import Naps, drive
from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Answer, Probe, Renewal, Result, Step, Talk, is_read
from yandexart_grpc._submit import connect
from yandexart_grpc._token import Tokens
from yandexart_grpc._told import order, submit
from yandexart_grpc.address import Endpoint
from yandexart_grpc.auth import Credentials
from yandexart_grpc.errors import ConfigurationError, InvalidRequest, OperationTimeout, YandexArtError
from yandexart_grpc.failures import keyed, sent_as
from yandexart_grpc.image import Image, outcome
from yandexart_grpc.operation import Operation, Order
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


class YandexArt:
    """A client for image generation, safe to share between threads.

    `folder_id` is the folder that pays. `credentials` is a text (an API key, an IAM token or an OAuth token, told apart by
    prefix) or one of the kinds in `auth`, whose tokens are renewed where they come from. `endpoint` is the region "ru" or "kz"
    of Yandex Cloud, `https://host[:port]`, `host:port` (TLS), `http://host:port` (plaintext), `dns:///name:port` (TLS) or
    `dns+http:///name:port` for all that stand behind a name, or a server in this process: `demo://` draws for free,
    `images://` orders each picture of Yandex's Images API, `images://host[:port]` and `images+http://host:port`
    (plaintext) of another one like it. `store` is where such a server keeps its operations, `sqlite:///path`, so that another
    process with the same store goes on with them; without one, they end with the client, and pictures that are not done are lost.

    `operation_endpoint` is where operations are read, the same unless it is given, and `iam_endpoint` where keys and OAuth
    tokens are exchanged, at Yandex unless it is given; `discovery` is who is asked for these addresses instead, by the first
    call. `root_certificates` is a PEM file with the authority of the server, `client_certificate` and `client_key` those with
    what this client shows who it is with. `proxy` is whether one that the environment names is used. A credential that was not
    given but found goes to Yandex and this machine alone, and to the hosts that `YANDEXART_TRUSTED_HOST` names; any goes over
    plaintext beyond this machine only with `allow_plaintext`.

    `timeout` is how many seconds a wait may take (None: as long as it takes), `rpc_timeout` how many one call may take,
    `max_message_bytes` the largest answer that is received.

    `patience` is for how many seconds a ready image may be expected to lie unseen; without it, as few as the number of waits
    allows. `reads_per_second` and `submits_per_minute` keep within the quotas of the folder. `history` is a file in which
    durations are kept from one process to the next. `data_logging=False` asks the service not to keep prompts.

    What is not given comes from `YC_FOLDER_ID`, `YANDEXART_ENDPOINT`, `YANDEXART_STORE`, and the first credential that
    `auth.find` finds; without an endpoint, it is Yandex Cloud's asynchronous API. Where Yandex Cloud is meant, the metadata
    service of this machine may be asked for 0.1 s.

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
        settings = Settings.resolve(
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
        self._start(settings)

    @classmethod
    def _with(cls, settings: Settings, now: Callable[[], float] = time.monotonic) -> Self:
        """A client with settings that came from neither arguments nor environment, and a monotonic clock."""
        client = cls.__new__(cls)
        client._start(settings, now)
        return client

    def _start(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        if auth.is_async(settings.source):
            raise ConfigurationError(
                f"credentials: {type(settings.source).__name__} is for AsyncYandexArt: its token() is awaited"
            )
        self._life = ExitStack()
        self._probes: dict[str, Any] = {}
        self._settings = channel.start_embedded(settings, self._life)
        self._naps = Naps()
        known = _history.load(settings.history)
        self._pace = Pace(settings.limits, now, known, self._naps.end)
        source = settings.source
        self._tokens = Tokens(source, now, self._naps.end) if source is not None else None
        self._exchange: Any = None
        self._locating, self._asked = threading.Lock(), directory.Shared(now)
        if settings.discovery is None:
            self._connect(self._settings)
        self._process = os.getpid()
        self._closed = False

    def generate(
        self, prompt: Prompt, *, timeout: Timeout = ..., idempotency_key: str | None = None, **image: Unpack[ImageOptions]
    ) -> Image:
        """Submit, wait, and return the image.

        The arguments are those of `submit`; `timeout` covers the whole, in seconds, None for no end.

        Raises what `submit` and `Operation.result` raise.
        """
        key, deadline = known_key(idempotency_key), self._deadline(timeout)
        with keyed(key):
            request = self._request(prompt, image, key)
            ended = self._drive(order(request.to_proto(), self._pace, deadline, key))
            return Order(ended.id, request, key, self._pace.noted(ended.id)).hand_over(ended)

    def submit(
        self, prompt: Prompt, *, timeout: Timeout = ..., idempotency_key: str | None = None, **image: Unpack[ImageOptions]
    ) -> Operation:
        """Order an image and return as soon as its operation has an id.

        The order is sent again only where that cannot buy a second image: after a quota refused it, and, after an answer was
        lost, to the server that announces that it still has its `idempotency_key`.

        `prompt` is a text or several with weights, at most 500 characters of positive weight; `model` a name in the folder or
        an `art://` URI; `aspect_ratio` is width to height, "16:9" or (16, 9), 1:1 where none is given; `seed` is from 1 to
        2**63 - 1, drawn here from the key where none is given; `timeout` is in seconds, of which one call takes `rpc_timeout` at
        most; `idempotency_key` is what the server may know the order by, 1 to 255 printable ASCII characters without spaces,
        drawn here where none is given.

        Raises `InvalidRequest` before anything is sent, `Unavailable` when the server cannot be reached, `OutcomeUnknown`
        when the answer was lost, `QuotaExceeded` when the turn of the order or the end of a quota would come too late, and
        `ContentRefused`, `Unauthenticated` or `PermissionDenied` as the server says. Each has the `idempotency_key`.
        """
        key, deadline = known_key(idempotency_key), self._deadline(timeout)
        with keyed(key):
            request = self._request(prompt, image, key)
            seen = self._drive(submit(request.to_proto(), self._pace, deadline, key))
        known = Order(seen.id, request, key, self._pace.noted(seen.id), born=self._pace.now())
        known.saw(seen)
        return Operation(self, known)

    def operation(self, operation_id: str) -> Operation:
        """A handle for an operation that was submitted earlier, in whichever process. Nothing is sent yet.

        Raises `InvalidRequest` when the id is empty.
        """
        return Operation(self, Order(known_id(operation_id)))

    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        *,
        in_flight: int = ...,
        timeout: Timeout = ...,
        return_exceptions: Literal[False] = ...,
        **image: Unpack[ImageOptions],
    ) -> Iterator[Image]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        *,
        in_flight: int = ...,
        timeout: Timeout = ...,
        return_exceptions: Literal[True],
        **image: Unpack[ImageOptions],
    ) -> Iterator[Image | YandexArtError]: ...

    def map(
        self,
        prompts: Iterable[Prompt],
        *,
        in_flight: int = 16,
        timeout: Timeout = ...,
        return_exceptions: bool = False,
        **image: Unpack[ImageOptions],
    ) -> Iterator[Image | YandexArtError]:
        """Make an image of each prompt, `in_flight` at a time, and yield them as they are ready.

        The `index` of each says which prompt it answers. `timeout` is for each image, `image` for all, as in `submit`. The
        calling thread watches them all.

        With `return_exceptions` an error is yielded in place of its image. Without, the first one ends the ordering, and is
        raised after everything that was ordered before it has been handed over.
        """
        require_positive("in_flight", in_flight)
        self._settings.span(timeout)  # a wrong one is said here, and not once for each prompt
        waiting, requests, keys = enumerate(prompts), dict[int, ImageRequest](), dict[int, str]()
        failure: YandexArtError | None = None
        with self._crowd() as crowd:
            while True:
                while failure is None and len(crowd) < in_flight and (item := next(waiting, None)):
                    index, prompt = item
                    keys[index] = key = known_key(None)
                    try:
                        requests[index] = request = self._request(prompt, image, key)
                    except InvalidRequest as error:
                        crowd.end(index, error)
                    else:
                        crowd.add(index, order(request.to_proto(), self._pace, self._deadline(timeout), key))
                if not len(crowd):
                    break
                index, ended = crowd.next()
                known = self._pace.noted(ended.id) if isinstance(ended, stubs.Operation) else None
                result = outcome(ended, requests.pop(index, None), index=index, key=keys.pop(index), request_id=known)
                if isinstance(result, Image) or return_exceptions:
                    yield result
                else:
                    failure = failure or result
        if failure is not None:
            raise failure

    def as_completed(self, operations: Iterable[Operation], *, timeout: Timeout = ...) -> Iterator[Operation]:
        """Yield the operations as they end; `result` of each gives its image, or raises its error, at once.

        Raises `OperationTimeout` when the time for all of them is up. The calling thread watches them all.
        """
        deadline = self._deadline(timeout)
        with self._crowd() as crowd:
            for operation in operations:
                if operation._client is not self:
                    raise ConfigurationError(f"operation {operation.id} belongs to another client")
                if operation._order.ended is None:
                    crowd.add(operation, operation._order.watch(self._pace, deadline))
                else:
                    crowd.end(operation, operation._order.ended)
            while len(crowd):
                operation, ended = crowd.next()
                if isinstance(ended, OperationTimeout):
                    raise ended
                operation._order.ended = ended
                yield operation

    def wait_all(self, operations: Iterable[Operation], *, timeout: Timeout = ...) -> None:
        """Wait until all operations have ended, as `as_completed` does."""
        for _ in self.as_completed(operations, timeout=timeout):
            continue

    def warm_up(self, *, timeout: Timeout = ...) -> None:
        """Connect, and fetch a token, before there is anything to send, so that the first order need not wait for it.

        Raises `Unavailable`, and `Unauthenticated` where no token can be had.
        """
        deadline = self._deadline(timeout)
        self._locate()
        for target in self._probes:
            self._drive(connect(target, self._pace, deadline))

    @property
    def idempotency_scope(self) -> str | None:
        """The store in which the server keeps idempotency keys; None for Yandex, or before the first order or `warm_up`."""
        return self._pace.scope

    def close(self) -> None:
        """End the connections, and the embedded server where there is one. Operations go on; closing twice is harmless."""
        if not self._closed and os.getpid() == self._process:  # what a fork copied is not ours to close
            self._closed = True
            _history.save(self._settings.history, self._pace.history)
            self._life.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _locate(self) -> None:
        """Find out where the services are, once."""
        if self._settings.discovery is not None:
            began = self._pace.now()
            with self._locating, self._asked.since(began):
                self._require_usable()
                settings = directory.locate(self._settings)
                if settings is not self._settings:
                    self._connect(settings)
                self._settings = settings

    def _connect(self, settings: Settings) -> None:
        self._pace.target = settings.endpoint.target
        generation = operations = self._open(settings.endpoint)
        if settings.operation_endpoint != settings.endpoint:
            operations = self._open(settings.operation_endpoint)
        self._methods = channel.methods(generation, operations)
        if isinstance(settings.source, auth.Exchanged):
            iam = channel.open_channel(settings.iam_endpoint, settings)
            self._exchange = channel.exchange(self._life.enter_context(iam))

    def _open(self, endpoint: Endpoint) -> grpc.Channel:
        opened = self._life.enter_context(channel.open_channel(endpoint, self._settings))
        self._probes[endpoint.target] = channel.probe(opened)
        return opened

    def _request(self, prompt: Prompt, image: ImageOptions, key: str) -> ImageRequest:
        return ImageRequest.build(prompt, folder_id=self._settings.folder_id, key=key, **image)

    def _deadline(self, timeout: Timeout) -> float:
        return self._pace.deadline(self._settings.span(timeout))

    def _drive(self, steps: Talk[Result]) -> Result:
        self._locate()
        return drive(self._signed(steps), self._call, self._naps.nap)

    def _crowd(self) -> "Crowd[Any]":
        self._locate()
        return Crowd(self._begin, self._answer, self._naps, self._signed)

    def _signed(self, steps: Talk[Result]) -> Talk[Result]:
        return steps if self._tokens is None else self._tokens.signed(steps)

    def _call(self, step: Step) -> Answer:
        if isinstance(step.request, Renewal):
            self._require_usable()
            return Answer(stubs.Operation(), token=auth.fetch(step.request.source, self._exchange, step.timeout))
        client_request_id = str(uuid4())
        method, arguments = self._prepare(step, client_request_id)
        try:
            if is_read(step) and step.hold is None:  # nothing is announced then
                return Answer(method(step.request, **arguments))
            operation, call = method.with_call(step.request, **arguments)
        except grpc.RpcError as error:
            sent_as(error, client_request_id)
            self._pace.failed(error)
            raise
        return Answer.heard(operation, call.initial_metadata())

    def _begin(self, step: Step) -> Any:
        if isinstance(step.request, Renewal):  # rare, and everybody else needs the token too
            return self._call(step)
        client_request_id = str(uuid4())
        method, arguments = self._prepare(step, client_request_id)
        with undisturbed():
            call = method.future(step.request, **arguments)
        sent_as(call, client_request_id)
        return call

    def _answer(self, call: Any) -> Answer:
        try:
            return Answer.heard(call.result(), call.initial_metadata())
        except grpc.RpcError as error:
            self._pace.failed(error)
            raise

    def _prepare(self, step: Step, client_request_id: str) -> tuple[Any, dict[str, Any]]:
        """The method that a step calls, and the arguments beside its request."""
        self._require_usable()
        request, settings = step.request, self._settings
        method = self._probes[request.target] if isinstance(request, Probe) else self._methods[type(request)]
        metadata = settings.metadata(
            step.hold, step.key, authorization=step.authorization, client_request_id=client_request_id, context=step.context
        )
        return method, {"timeout": step.timeout, "metadata": metadata, "wait_for_ready": step.reconnect}

    def _require_usable(self) -> None:
        if self._closed:
            raise ConfigurationError("this client is closed")
        if os.getpid() != self._process:
            raise ConfigurationError("this client was made before the process was forked; make another in the child")
