"""A TCP proxy that breaks connections on purpose: it resets, stalls, lags and throttles, and is switched while it runs."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Self

CHUNK = 65_536
_SOON = 0.01
"""Seconds after which a pump that must not forward looks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the proxy treats its connections; as it stands, everything passes."""

    refuse: bool = False
    """Reset each connection at the moment it is accepted."""
    stalled: bool = False
    """Accept, and forward nothing."""
    mute: bool = False
    """Forward what the client says, and nothing of the answers."""
    lag: float = 0.0
    """Seconds by which each chunk is late."""
    rate: float = inf
    """Bytes a second that each direction of a connection takes."""
    reset_after_bytes: float = inf
    """Reset a connection once it has forwarded so many bytes of its client."""
    reset_after_seconds: float = inf
    """Reset a connection at that age."""


class Proxy:
    """Forwards connections to `target`, a `host:port` or the path of a socket, by rules that can be changed at any time. It runs
    in a thread of its own.
    """

    def __init__(self, target: str, *, port: int = 0) -> None:
        host, _, number = target.rpartition(":")
        self._target = target if target.startswith("/") else (host, int(number))
        self._port = port
        self._rules = Rules()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self.accepted = 0
        """Connections that were accepted so far."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=1000)
        self._listener.setblocking(False)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, **rules: Any) -> None:
        """From now on treat every connection by these rules; without any, let everything pass."""
        self._rules = Rules(**rules)

    def reset(self) -> None:
        """Reset every connection there is, right now."""
        self._each(_Connection.reset)

    def stall(self) -> None:
        """Forward nothing any more on the connections there are; new ones pass."""
        self._each(_Connection.stall)

    def _each(self, action: "Callable[[_Connection], None]") -> None:
        async def act() -> None:
            for connection in self._connections.values():
                action(connection)

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    async def _open(self) -> None:
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.accepted += 1
            connection = _Connection(self, client)
            if self._rules.refuse:
                connection.reset()
                continue
            connection.task = task = asyncio.create_task(connection.run())
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)

    async def _close(self) -> None:
        tasks = [self._accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()


class _Connection:
    """One client, and the connection to the target that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.socket(socket.AF_UNIX if isinstance(proxy._target, str) else socket.AF_INET)
        for end in (client, self._server):
            end.setblocking(False)
        self._heard = 0
        self.task: asyncio.Task[None] | None = None
        self._stalled = False

    async def run(self) -> None:
        loop, proxy = self._proxy._loop, self._proxy
        timer = proxy._rules.reset_after_seconds
        alarm = loop.call_later(timer, self.reset) if timer < inf else None
        try:
            await loop.sock_connect(self._server, proxy._target)
            for end in (self._client, self._server):
                if end.family == socket.AF_INET:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps = [asyncio.create_task(self._pump(upward=upward)) for upward in (True, False)]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            self.reset()
        finally:
            if alarm:
                alarm.cancel()
            self._client.close()
            self._server.close()

    def reset(self) -> None:
        """End both connections by RST, whatever was still to be forwarded."""
        for end in (self._client, self._server):
            if end.fileno() >= 0:
                self._proxy._loop.remove_reader(end)
                self._proxy._loop.remove_writer(end)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
        if self.task:
            self.task.cancel()

    def stall(self) -> None:
        """Forward nothing any more."""
        self._stalled = True

    async def _pump(self, *, upward: bool) -> None:
        loop, proxy = self._proxy._loop, self._proxy
        source, sink = (self._client, self._server) if upward else (self._server, self._client)
        while data := await loop.sock_recv(source, CHUNK if proxy._rules.rate == inf else CHUNK // 8):
            await asyncio.sleep(proxy._rules.lag + len(data) / proxy._rules.rate)
            while self._stalled or proxy._rules.stalled or (proxy._rules.mute and not upward):  # noqa: ASYNC110  # set by threads
                await asyncio.sleep(_SOON)
            await loop.sock_sendall(sink, data)
            self._heard += len(data) * upward
            if self._heard >= proxy._rules.reset_after_bytes:
                self.reset()
