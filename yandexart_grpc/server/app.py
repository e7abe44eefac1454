"""Puts one server together from its settings, and runs it: in the foreground, or inside a process as `embedded`."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import grpc

from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.server.allowance import Quota
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.callers import Callers
from yandexart_grpc.server.doors.grpc import announce, make_server, open_clinic, open_door
from yandexart_grpc.server.doors.promises import scope_of
from yandexart_grpc.server.limits import Limits
from yandexart_grpc.server.listening import address_of, bind, bound_at, certificate, free, reachable
from yandexart_grpc.server.operations import Operations
from yandexart_grpc.server.quotas import Quotas
from yandexart_grpc.server.settings import DURATION, GRACE, ServerSettings
from yandexart_grpc.server.sources import backend_of
from yandexart_grpc.server.store import MEMORY, is_shared, open_store, place_of
from yandexart_grpc.server.workers import TaskWorkers, Workers

if TYPE_CHECKING:
    from yandexart_grpc.server.doors.listener import Listener

log = logging.getLogger("yandexart_grpc.server")

GOODBYE = 0.5
"""Seconds that answers have to leave when the time for work is over."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A server inside this process."""

    endpoint: str
    """Its address, as a client takes it."""
    http: str | None = None
    """The URL of its REST door, and of its OpenAI door with `/v1` behind it; None where they are closed."""


@contextmanager
def embedded(
    backend: str | Backend = "demo",
    duration: str = DURATION,
    *,
    listen: str = "127.0.0.1:0",
    http: str | bool = False,
    store: str = MEMORY,
    grace: float | None = None,
    upstream: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> Iterator[Embedded]:
    """Serve inside this process, in a thread of its own, until the `with` block ends; works from blocking code and from asyncio.

    The arguments are those of `ServerSettings`; `http=True` takes a free port. Without a `grace`, work that has begun is
    finished first where its picture is kept in a `store`. Calls over gRPC go through the `interceptors`.

    Raises `ConfigurationError`.
    """
    settings = ServerSettings(
        listen=listen,
        http=("127.0.0.1:0" if http is True else http) or None,
        backend=backend,
        duration=duration,
        store=store,
        upstream=upstream,
        tls_cert=tls_cert,
        tls_key=tls_key,
        grace=grace if grace is not None else 0.1 if store == MEMORY else GRACE,
    )
    started: Future[tuple[Embedded, Callable[[], object]]] = Future()

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with serving(settings, interceptors=interceptors) as server:
            started.set_result((server, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # whatever it is, somebody waits to hear of it
            if started.done():
                raise
            started.set_exception(error)

    # A daemon, so that a client that nobody closed does not keep the process alive.
    thread = threading.Thread(target=run, name="yandexart-server", daemon=True)
    thread.start()
    server, stop = started.result()
    try:
        yield server
    finally:
        stop()
        thread.join()


async def serve(settings: ServerSettings, started: Callable[[Embedded], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; SIGHUP reads the keys again. `started` is told the addresses.

    Raises `ConfigurationError`.
    """
    callers = _callers(settings)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if callers.are_named:
        loop.add_signal_handler(signal.SIGHUP, callers.reread)
    async with serving(settings, callers) as server:
        started(server)
        await stop.wait()


@asynccontextmanager
async def serving(
    settings: ServerSettings, callers: Callers | None = None, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> AsyncIterator[Embedded]:
    """A server in the running event loop. Raises `ConfigurationError`."""
    if found := list(settings.problems()):
        raise ConfigurationError("; ".join(found))
    callers = callers or _callers(settings)
    limits = Limits(**{one.name: getattr(settings, one.name) for one in fields(Limits)})
    async with open_store(settings.store) as store, _workers(settings) as workers:
        operations = Operations(
            store,
            workers,
            backend_of(settings),
            keep=settings.keep,
            queue=settings.queue,
            unknown=settings.unknown,
            limits=limits,
            quotas=Quotas(store, Quota.parse(settings.quota)) if settings.quota else None,
        )
        scheme, credentials = ("https", certificate(settings)) if settings.tls_cert or settings.tls_key else ("http", None)
        host = free(settings)
        listeners = dict([_listener(settings.http, operations, callers, settings)] if settings.http else ())
        # A server that is never started must not be made at all: when it goes, gRPC logs the very object that goes.
        server = make_server(settings.max_request_bytes, interceptors)
        address = f"{reachable(host)}:{bind(server, settings.listen, credentials)}"
        is_worker = settings.role == "work"
        doctor = open_clinic(server, operations) if is_worker else open_door(server, operations, callers, address)
        await operations.start()
        await announce(doctor)
        await asyncio.gather(server.start(), *(listener.start() for listener in listeners.values()))
        told = Embedded(f"{scheme}://{address}", *(f"{scheme}://{at}" for at in listeners))
        log.info("serving on %s", " and ".join([address, *listeners]))
        try:
            yield told
        finally:
            await doctor.enter_graceful_shutdown()
            # No call is taken any more; those that are held have until the work is done, and then all are answered.
            ends = [stop(settings.grace + GOODBYE) for stop in (server.stop, *(listener.stop for listener in listeners.values()))]
            await asyncio.gather(*ends, operations.drain(settings.grace))
            await operations.close()
            log.info("stopped")


@asynccontextmanager
async def _workers(settings: ServerSettings) -> AsyncIterator[Workers]:
    if is_shared(settings.store):
        from yandexart_grpc.server import jobs, postgres  # an extra

        parameters = postgres.parameters(place_of(settings.store))
        works = settings.role != "serve"
        async with jobs.open_workers(parameters, concurrency=settings.concurrency, works=works) as workers:
            yield workers
    else:
        yield TaskWorkers(settings.concurrency)


def _listener(where: str, operations: Operations, callers: Callers, settings: ServerSettings) -> "tuple[str, Listener]":
    """The doors over HTTP at an address. What they need is loaded only for whoever opens them."""
    from yandexart_grpc.server.doors.listener import Listener
    from yandexart_grpc.server.doors.site import site

    host, port = address_of("http", where, settings)
    bound = bound_at("http", host, port, settings)
    listener = Listener(
        site(operations, callers),
        bound,
        headers=[scope_of(operations)],
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        client_ca=settings.client_ca,
    )
    return f"{reachable(host)}:{bound.getsockname()[1]}", listener


def _callers(settings: ServerSettings) -> Callers:
    return Callers(settings.key_file, requests_per_second=settings.requests_per_second)
