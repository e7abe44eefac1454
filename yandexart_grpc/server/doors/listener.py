"""Uvicorn inside our event loop: it listens where it is told, leaves signals alone, and stops in step with the operations."""

import asyncio
import math
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from yandexart_grpc.server.doors import http

CONNECTIONS = 1_000
"""Connections at a time; whoever comes then is answered 503."""


class _Impatient(H11Protocol):
    """Hangs up on whoever does not get the head of a request across in time."""

    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn says asyncio.Transport too
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._rest()
        elif self._alarm is None:
            self._alarm = self.loop.call_later(http.ARRIVAL, self.timeout_keep_alive_handler)

    def _rest(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class _Server(uvicorn.Server):
    """Tells when it listens, and does not take the signals of the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class Listener:
    """Answers on a bound socket, as a `grpc.aio.Server` does: it is started, and stopped with some grace."""

    def __init__(
        self,
        app: Starlette,
        bound: socket.socket,
        *,
        headers: list[tuple[str, str]],
        tls_cert: str | None,
        tls_key: str | None,
        client_ca: str | None,
    ) -> None:
        """`headers` stand in every answer; clients show a certificate of `client_ca` where there is one."""
        config = uvicorn.Config(
            app,
            http=_Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            headers=headers,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=math.ceil(http.ARRIVAL),
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            ssl_ca_certs=client_ca,
            ssl_cert_reqs=ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE,
        )
        self._bound = bound
        self._server = _Server(config)

    async def start(self) -> None:
        """Take connections."""
        self._running = asyncio.create_task(self._server.serve([self._bound]))
        await self._server.listening.wait()

    async def stop(self, grace: float) -> None:
        """Take no connection any more, and give those that are open so many seconds to be answered."""
        self._server.should_exit = True
        if not (await asyncio.wait([self._running], timeout=grace))[0]:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
        await self._running
