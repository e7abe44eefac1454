"""The blocking client: `YandexArt` and its `Operation`. `aio` is the same with `await`.

A shell around the core: `_submit` and `_wait` decide, `_drive` performs, and this file knows only which stub to call.
"""

import logging
import os
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import grpc

from yandexart_grpc import channel, stubs
from yandexart_grpc._drive import drive
from yandexart_grpc._plan import Step
from yandexart_grpc._submit import submit
from yandexart_grpc._wait import finished, is_cancelled, watch
from yandexart_grpc.errors import ConfigurationError, translated
from yandexart_grpc.image import Image
from yandexart_grpc.request import DEFAULT_MODEL, MIME_TYPE, AspectRatio, ImageRequest, Prompt, known_id
from yandexart_grpc.settings import MAX_MESSAGE_BYTES, RPC_TIMEOUT, TIMEOUT, Endpoint, Settings, Timeout

log = logging.getLogger("yandexart_grpc")


class YandexArt:
    """A client for image generation, safe to share between threads.

    `folder_id` is the folder that pays. `credentials` is an API key or an IAM token, told apart by prefix. `endpoint` is
    `https://host[:port]`, `host:port` (TLS), `http://host:port` (plaintext) or `demo://` (a server in this process);
    `operation_endpoint` is where operations are read, the same unless it is given. `root_certificates` is a PEM file with
    the authority of the server. `timeout` is how many seconds a wait may take (None: as long as it takes), `rpc_timeout`
    how many one call may take, `max_message_bytes` the largest answer that is received.

    What is not given comes from `YC_FOLDER_ID`, `YC_API_KEY` or `YC_IAM_TOKEN`, and `YANDEXART_ENDPOINT`; without an endpoint,
    it is Yandex Cloud.

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
        settings = Settings.resolve(
            folder_id=folder_id,
            credentials=credentials,
            endpoint=endpoint,
            operation_endpoint=operation_endpoint,
            root_certificates=root_certificates,
            timeout=timeout,
            rpc_timeout=rpc_timeout,
            max_message_bytes=max_message_bytes,
        )
        self._life = ExitStack()
        self._settings = channel.start_embedded(settings, self._life)
        self._channel = self._open(self._settings.endpoint)
        same = self._settings.operation_endpoint == self._settings.endpoint
        reads = self._channel if same else self._open(self._settings.operation_endpoint)
        self._generation = stubs.ImageGenerationAsyncServiceStub(self._channel)
        self._operations = stubs.OperationServiceStub(reads)
        self._ready = False
        self._closed = False

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: AspectRatio | None = None,
        seed: int | None = None,
        mime_type: str = MIME_TYPE,
        timeout: Timeout = ...,
    ) -> Image:
        """Submit, wait, and return the image.

        The arguments are those of `submit`; `timeout` covers the whole, in seconds, None for no end.

        Raises what `submit` and `Operation.result` raise.
        """
        span = self._settings.span(timeout)
        start = time.monotonic()
        operation = self.submit(prompt, model=model, aspect_ratio=aspect_ratio, seed=seed, mime_type=mime_type, timeout=span)
        return operation._result(None if span is None else start + span - time.monotonic())

    def submit(
        self,
        prompt: Prompt,
        *,
        model: str = DEFAULT_MODEL,
        aspect_ratio: AspectRatio | None = None,
        seed: int | None = None,
        mime_type: str = MIME_TYPE,
        timeout: Timeout = ...,
    ) -> "Operation":
        """Order an image and return as soon as its operation has an id. The order is sent once, never again.

        `prompt` is a text or several with weights, at most 500 characters of positive weight; `model` a name in the folder or
        an `art://` URI; `aspect_ratio` is width to height, "16:9" or (16, 9), 1:1 where none is given; `seed` is from 1 to
        2**63 - 1, drawn here where none is given; `timeout` is in seconds, and no longer than `rpc_timeout`.

        Raises `InvalidRequest` before anything is sent, `Unavailable` when the server cannot be reached, `OutcomeUnknown` when
        the answer was lost, and `ContentRefused`, `Unauthenticated`, `PermissionDenied` or `QuotaExceeded` as the server says.
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
        seen = drive(submit(limit if span is None else min(span, limit)), lambda step: self._generate(message, step))
        log.info("operation %s submitted", seen.id)
        return Operation(self, seen.id, seen=seen, request=request)

    def operation(self, operation_id: str) -> "Operation":
        """A handle for an operation that was submitted earlier, in whichever process. Nothing is sent yet.

        Raises `InvalidRequest` when the id is empty.
        """
        return Operation(self, known_id(operation_id))

    def close(self) -> None:
        """End the connections, and the embedded server where there is one. Operations go on; closing twice is harmless."""
        self._closed = True
        self._life.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _open(self, endpoint: Endpoint) -> grpc.Channel:
        return self._life.enter_context(channel.open_channel(endpoint, self._settings))

    def _generate(self, message: stubs.ImageGenerationRequest, step: Step) -> stubs.Operation:
        self._require_open()
        timeout = step.timeout
        if not self._ready:
            timeout = channel.connect(self._channel, self._settings.endpoint.target, timeout)
            self._ready = True
        try:
            return self._generation.Generate(message, timeout=timeout, metadata=self._settings.metadata)
        except grpc.RpcError:
            self._ready = False
            raise

    def _get(self, operation_id: str, timeout: float) -> stubs.Operation:
        self._require_open()
        request = stubs.GetOperationRequest(operation_id=operation_id)
        try:
            return self._operations.Get(request, timeout=timeout, metadata=self._settings.metadata)
        except grpc.RpcError:
            self._ready = False
            raise

    def _cancel(self, operation_id: str) -> stubs.Operation:
        self._require_open()
        request = stubs.CancelOperationRequest(operation_id=operation_id)
        return self._operations.Cancel(request, timeout=self._settings.rpc_timeout, metadata=self._settings.metadata)

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("this client is closed")


class Operation:
    """An order for one image. Make it with `YandexArt.submit` or `YandexArt.operation`."""

    def __init__(
        self,
        client: YandexArt,
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

    def done(self) -> bool:
        """Whether the operation has ended, with an image or an error. Asks the server once, unless that is known already.

        Raises `NotFound` when the service does not know the operation, and `Unavailable` when it cannot be asked.
        """
        if self._seen is None or not finished(self._seen):
            with translated("reading", self._id):
                self._seen = self._client._get(self._id, self._client._settings.rpc_timeout)
        return finished(self._seen)

    def result(self, timeout: Timeout = ...) -> Image:
        """Wait for the image, at most `timeout` seconds (None: as long as it takes; the client's own where none is given).

        Raises `OperationTimeout`, after which the operation goes on; `ContentRefused`, `OperationFailed`, `OperationCancelled` or
        `OutcomeUnknown` when it ended with an error; `NotFound` when the service does not know it; `ProtocolError` when what came
        is not a whole image.
        """
        return self._result(self._client._settings.span(timeout))

    def cancel(self) -> bool:
        """Ask the service not to make the image, and return whether it was cancelled. Too late is not an error.

        Raises `NotFound` when the service does not know the operation, and `Unavailable` when it cannot be asked.
        """
        with translated("cancelling", self._id):
            self._seen = self._client._cancel(self._id)
        return is_cancelled(self._seen)

    def __repr__(self) -> str:
        return f"Operation({self._id!r})"

    def _result(self, span: float | None) -> Image:
        seen = self._seen
        if seen is None or not finished(seen):
            steps = watch(
                self._id,
                timeout=span,
                rpc_timeout=self._client._settings.rpc_timeout,
                now=time.monotonic,
                ask_at_once=seen is None,
            )
            seen = drive(steps, lambda step: self._client._get(self._id, step.timeout))
        log.info("operation %s done", self._id)
        self._seen = None  # an image that is handed over is not kept
        return Image.from_operation(seen, self._request)
