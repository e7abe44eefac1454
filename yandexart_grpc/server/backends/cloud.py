"""The backend that orders its pictures of Yandex's gRPC service, or of any server of the contract.

Decides in whose name an order is placed, what its failures mean for money, and when a picture is given up; how to submit and to
wait is left to `aio`. An order is sent once. Its id there is noted before anything else, so that a restart waits for it again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from grpc import RpcError, StatusCode

from yandexart_grpc import auth
from yandexart_grpc._step import Leave
from yandexart_grpc.address import GENERATION, OPERATIONS, Endpoint
from yandexart_grpc.aio import AsyncYandexArt
from yandexart_grpc.errors import (
    ContentRefused,
    OperationCancelled,
    OperationFailed,
    OperationTimeout,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
    YandexArtError,
)
from yandexart_grpc.failures import from_rpc
from yandexart_grpc.image import Image
from yandexart_grpc.operation import AsyncOperation
from yandexart_grpc.request import ImageRequest, known_key
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.settings import READS_PER_SECOND, Limits, Settings
from yandexart_grpc.stubs import ImageGenerationResponse

log = logging.getLogger("yandexart_grpc.server")

CLIENTS = 64
"""How many callers keep their connections while they have nothing under way."""
RECONNECT = 60.0
"""Seconds for which a server that cannot be reached is tried, before an order is given up."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before it is tried again; they double from one attempt to the next."""
ENDINGS = (ContentRefused, OperationCancelled, OperationFailed, OutcomeUnknown)
"""What an operation itself ends with; any other error says that it could not be read, or that nobody knows how it ended."""


@dataclass(slots=True)
class _Lent:
    """A client, and how many operations use it."""

    art: AsyncYandexArt
    users: int = 0


class CloudBackend:
    """Forwards each request as it came, and hands over what became of it."""

    charges = resumable = True

    def __init__(
        self,
        upstream: str | None = None,
        *,
        authorization: str | None = None,
        timeout: float = 600.0,
        reads_per_second: float | None = None,
    ) -> None:
        """Order at `upstream`, or of Yandex where none is given, with the credential of each caller unless there is an
        `authorization` for all. `timeout` is how many seconds an accepted order may take, `reads_per_second` how often the
        orders with one authorization are asked about; None for what Yandex allows.

        Raises `ValueError` when the address is none.
        """
        self._authorization = authorization
        self._anonymous = upstream is not None
        """Whether the server may want no credential; Yandex always does."""
        self._timeout = timeout
        self._settings = Settings(
            folder_id=None,
            credential=None,
            endpoint=_endpoint(upstream or GENERATION),
            operation_endpoint=_endpoint(upstream or OPERATIONS),
            root_certificates=None,
            history=None,
            store=None,
            limits=Limits(timeout=timeout, reads_per_second=reads_per_second or READS_PER_SECOND),
        )
        self._clients: dict[str, _Lent] = {}
        """By authorization, the one that was used last at the end."""

    async def generate(self, request: ImageRequest, upstream: Upstream) -> ImageGenerationResponse:
        """Order the picture, or go on with the order that was noted, and wait for it.

        Raises what the order or its operation ended with, `OutcomeUnknown` when it may have been accepted and nobody knows,
        `Unavailable` when nothing was ordered, and `OperationTimeout` when it was accepted and never done.
        """
        async with self._client(self._payer(upstream)) as art:
            if upstream.id:
                operation = art.operation(upstream.id)
            else:
                operation = await self._order(art, request)
                await upstream.note(operation.id)
            operation._order.leave = Leave(upstream.may_read)
            image = await self._wait(operation)
        return ImageGenerationResponse(image=image.data, model_version=image.model_version)

    async def close(self) -> None:
        """End all connections."""
        while self._clients:
            await self._clients.popitem()[1].art.close()

    async def _order(self, art: AsyncYandexArt, request: ImageRequest) -> AsyncOperation:
        """Send the request once; before that, connect for as long as `RECONNECT` says."""
        key, pause = known_key(None), SHORTEST_PAUSE
        span = min(RECONNECT, self._timeout)
        end = time.monotonic() + span
        while True:
            try:
                return await art._submit(request, art._deadline(self._timeout), key)
            except Unavailable as error:
                if time.monotonic() + pause > end:
                    raise Unavailable(f"{error}; tried for {span:g} s", code=StatusCode.UNAVAILABLE) from error
                log.info("%s; tried again in %g s", error, pause)
            except YandexArtError as error:
                if error.billed == "no":
                    raise
                raise OutcomeUnknown(
                    "Outcome unknown: no answer to the order came from the upstream, and the picture may have been bought: "
                    f"{error.code.name if error.code else 'no status'}: {error.details or error}",
                    code=StatusCode.ABORTED,
                ) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _wait(self, operation: AsyncOperation) -> Image:
        try:
            return await operation.result(timeout=self._timeout)
        except ENDINGS:
            raise
        except OperationTimeout as error:
            raise self._never_done(operation.id, error) from error
        except YandexArtError as error:
            # The only error without a code is that of an answer that breaks the contract.
            code = error.code or StatusCode.DATA_LOSS
            raise type(error)(f"{error.details or error}; {_bought(operation.id)}", code=code) from error

    def _never_done(self, operation_id: str, error: OperationTimeout) -> OperationTimeout:
        last = (
            f" The last question failed: {from_rpc(error.__cause__, 'reading')}." if isinstance(error.__cause__, RpcError) else ""
        )
        return OperationTimeout(
            f"The upstream accepted the order and was not done with it within {self._timeout:g} s; {_bought(operation_id)}.{last}"
            " Models that the gRPC service no longer serves stay so for ever:"
            " the backend for the live model is that of `yandexart serve --backend images`.",
            code=StatusCode.DEADLINE_EXCEEDED,
        )

    def _payer(self, upstream: Upstream) -> str:
        """The authorization that the order goes with. Raises `Unauthenticated` when the caller has to say it, and has not."""
        given = (self._authorization or upstream.authorization).strip()
        if not given and not self._anonymous:
            raise _unnamed(upstream, "it is sent on with the order and never kept, and there is none")
        if given and not (given.isascii() and given.isprintable()):
            raise _unnamed(upstream, "it holds a character that is not printable ASCII")
        return given

    @asynccontextmanager
    async def _client(self, authorization: str) -> AsyncIterator[AsyncYandexArt]:
        """The client of whoever has that authorization; nobody else uses it."""
        lent = self._clients.pop(authorization, None)
        if lent is None:
            credential = auth.Credential(authorization) if authorization else None
            lent = _Lent(AsyncYandexArt._with(replace(self._settings, credential=credential)))
        self._clients[authorization] = lent
        lent.users += 1
        try:
            yield lent.art
        finally:
            lent.users -= 1
            await self._close_idle()

    async def _close_idle(self) -> None:
        """Close the clients that were used longest ago, where there are too many."""
        for name, lent in tuple(self._clients.items())[:-CLIENTS]:
            if not lent.users and self._clients.get(name) is lent:  # nobody took it up while another was closed
                await self._clients.pop(name).art.close()


def _bought(operation_id: str) -> str:
    return f"operation {operation_id} at the upstream may have been bought"


def _unnamed(upstream: Upstream, why: str) -> Unauthenticated:
    ordered = f"{_bought(upstream.id)}, and whoever ordered it can read it there" if upstream.id else "nothing was ordered"
    return Unauthenticated(f"authorization: {why}; {ordered}", code=StatusCode.UNAUTHENTICATED)


def _endpoint(text: str) -> Endpoint:
    try:
        endpoint = Endpoint.parse(text)
    except ValueError as error:
        raise ValueError(f"upstream: {error}") from error
    if endpoint.embedded:
        raise ValueError(f"upstream: {text!r} is a server inside a process; name one that outlives it")
    return endpoint
