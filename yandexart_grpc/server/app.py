"""Puts one server together from its settings, and runs it: in the foreground, or inside a process as `embedded`."""

import asyncio
import ipaddress
import logging
import math
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import grpc

from yandexart_grpc import auth
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.server.allowance import Limits
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.backends.cloud import CloudBackend
from yandexart_grpc.server.backends.demo import DemoBackend
from yandexart_grpc.server.doors.grpc import OPTIONS, announce, open_clinic, open_door
from yandexart_grpc.server.operations import Operations, Unknown
from yandexart_grpc.server.quotas import Quotas
from yandexart_grpc.server.store import MEMORY, is_shared, open_store, place_of
from yandexart_grpc.server.workers import TaskWorkers, Workers

log = logging.getLogger("yandexart_grpc.server")

LISTEN = "127.0.0.1:50051"
EVERYWHERE = ("0.0.0.0", "[::]")
"""Addresses to bind to, and none to reach anybody at."""
DURATION = "fixed:0.5"
GRACE = 25.0
"""Seconds that work in progress may take once the server is told to stop: less than most supervisors wait before they kill."""
KEEP = 3 * 24 * 3600.0
"""Seconds for which a finished operation is kept, as the real service does (contract/service.md, "The answer")."""
GOODBYE = 0.5
"""Seconds that answers have to leave when the time for work is over."""
UPSTREAM_TIMEOUT = 600.0
"""Seconds that a picture may take somewhere else."""
Whose = Literal["caller", "server"]
"""Whose credential pays for a picture that is ordered elsewhere."""
Unsupported = Literal["warn", "refuse"]
"""What becomes of a request for what the backend cannot do."""
Role = Literal["both", "serve", "work"]
"""What a server does: it takes orders, works on them, or both."""
CONCURRENCY, QUEUE = 1_000, 10_000
"""How many operations are worked on at a time, and how many may wait for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything a server needs to know."""

    listen: str = LISTEN
    """`host:port`; port 0 takes a free one."""
    backend: str | Backend = "demo"
    """The name of a backend, or one of your own."""
    duration: str = DURATION
    """How long the demo backend takes: `fixed:S`, `uniform:LOW,HIGH` or `lognormal:MEDIAN,SIGMA`, in seconds."""
    upstream: str | None = None
    """Where the images or cloud backend orders pictures: `https://host[:port]` or `http://host[:port]` (plaintext); Yandex where
    none is given."""
    upstream_credentials: Whose = "caller"
    """Whose credential goes with an order to the upstream: the caller's own, or that of the server, `YC_API_KEY` or
    `YC_IAM_TOKEN` of its environment."""
    upstream_timeout: float = UPSTREAM_TIMEOUT
    """Seconds that an order may take there once it is accepted."""
    model_map: tuple[str, ...] = ()
    """Models that the images backend asks instead of others, `old=new` with `*` for any text; after them,
    `yandex-art*=aliceai-image-art-3.0`."""
    on_unsupported: Unsupported = "warn"
    """What the images backend does about weights and seeds, which the Images API does not take: "warn" in the metadata of the
    operation, or "refuse"."""
    tls_cert: str | None = None
    """A PEM file with the certificate of the server; without one it speaks plaintext."""
    tls_key: str | None = None
    """A PEM file with the key of that certificate."""
    allow_anonymous: bool = False
    """Let the server bind to an address that is not loopback, where everyone who reaches it may use it."""
    store: str = field(default=MEMORY, repr=False)
    """Where operations are kept: `sqlite:///path`, `sqlite://` for as long as the process lives, or, for any number of servers,
    `postgresql://user@host/database`."""
    role: Role = "both"
    """Whether a server on PostgreSQL takes orders and answers for them ("serve"), works on them ("work"), or both."""
    keep: float = KEEP
    """Seconds for which a finished operation is kept."""
    unknown: Unknown = "fail"
    """What becomes of a picture that may have been bought when the server was stopped: "fail" or "resend"."""
    concurrency: int = CONCURRENCY
    """How many operations are worked on at a time."""
    queue: int = QUEUE
    """How many accepted operations may wait for their turn; more are refused."""
    quota: str | None = None
    """How many pictures a folder may buy, of all servers on the store together: `minute=500,day=5000`."""
    grace: float = GRACE
    """Seconds that work in progress may take once the server is told to stop."""

    def problems(self) -> Iterator[str]:
        """Everything that is wrong, one sentence a setting."""
        if not 0 <= self.grace < math.inf:
            yield f"grace: {self.grace!r} is not a number of seconds from 0"
        for name in ("keep", "upstream_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                yield f"{name}: {getattr(self, name)!r} is not a positive number of seconds"
        for name in ("concurrency", "queue"):
            if getattr(self, name) < 1:
                yield f"{name}: {getattr(self, name)!r} is not an integer from 1"
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                yield f"{name}: {getattr(self, name)!r} is neither {' nor '.join(map(repr, get_args(kind)))}"
        try:
            _ = self.quota and Limits.parse(self.quota)
        except ValueError as error:
            yield str(error)
        if self.role != "both" and not is_shared(self.store):
            yield f"role: {self.role!r} needs a store that servers share, postgresql://"
        if is_shared(self.store) and self.backend in ("images", "cloud") and self.upstream_credentials == "caller":
            yield (
                "upstream_credentials: 'caller' needs a store of one server, because what a caller sent is kept nowhere, and any"
                " server on PostgreSQL may work on his order; take 'server' (--upstream-credentials server)"
            )


CHOICES: Mapping[str, Any] = {"role": Role, "unknown": Unknown, "upstream_credentials": Whose, "on_unsupported": Unsupported}
"""The settings that are one of a few words."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A server inside this process."""

    endpoint: str
    """Its address, as a client takes it."""


@contextmanager
def embedded(
    backend: str | Backend = "demo",
    duration: str = DURATION,
    *,
    listen: str = "127.0.0.1:0",
    store: str = MEMORY,
    upstream: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> Iterator[Embedded]:
    """Serve inside this process, in a thread of its own, until the `with` block ends; works from blocking code and from asyncio.

    The arguments are those of `ServerSettings`. Work that has begun is finished first where its picture is kept in a `store`.

    Raises `ConfigurationError`.
    """
    settings = ServerSettings(
        listen=listen,
        backend=backend,
        duration=duration,
        store=store,
        upstream=upstream,
        tls_cert=tls_cert,
        tls_key=tls_key,
        grace=0.1 if store == MEMORY else GRACE,
    )
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with serving(settings) as endpoint:
            started.set_result((endpoint, lambda: loop.call_soon_threadsafe(stop.set)))
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
    endpoint, stop = started.result()
    try:
        yield Embedded(endpoint)
    finally:
        stop()
        thread.join()


async def serve(settings: ServerSettings, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `started` is told the address. Raises `ConfigurationError`."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings) as endpoint:
        started(endpoint)
        await stop.wait()


@asynccontextmanager
async def serving(settings: ServerSettings) -> AsyncIterator[str]:
    """A server in the running event loop, which yields its address. Raises `ConfigurationError`."""
    if found := list(settings.problems()):
        raise ConfigurationError("; ".join(found))
    async with open_store(settings.store) as store, _workers(settings) as workers:
        operations = Operations(
            store,
            workers,
            _backend(settings),
            keep=settings.keep,
            queue=settings.queue,
            unknown=settings.unknown,
            quotas=Quotas(store, Limits.parse(settings.quota)) if settings.quota else None,
        )
        server = grpc.aio.server(options=OPTIONS)
        address = _bind(server, settings)
        doctor = open_clinic(server, operations) if settings.role == "work" else open_door(server, operations, address)
        await operations.start()
        await announce(doctor)
        await server.start()
        log.info("serving on %s", address)
        try:
            yield f"{'https' if settings.tls_cert else 'http'}://{address}"
        finally:
            await doctor.enter_graceful_shutdown()
            # No call is taken any more; those that are held have until the work is done, and then all are answered.
            await asyncio.gather(server.stop(settings.grace + GOODBYE), operations.drain(settings.grace))
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


def _demo(settings: ServerSettings) -> Backend:
    return DemoBackend(settings.duration)


def _cloud(settings: ServerSettings) -> Backend:
    return CloudBackend(settings.upstream, authorization=_authorization(settings), timeout=settings.upstream_timeout)


def _images(settings: ServerSettings) -> Backend:
    from yandexart_grpc.server.backends import images  # its HTTP client takes long to import

    return images.ImagesBackend(
        settings.upstream or images.UPSTREAM,
        authorization=_authorization(settings),
        model_map=settings.model_map,
        refuse=settings.on_unsupported == "refuse",
    )


BACKENDS: Mapping[str, Callable[[ServerSettings], Backend]] = {"demo": _demo, "images": _images, "cloud": _cloud}
"""Backends by name."""


def _authorization(settings: ServerSettings) -> str | None:
    """What is sent with every order; None where each goes with that of its caller."""
    if settings.upstream_credentials == "caller":
        return None
    credential = auth.find(None, os.environ)
    if credential is None:
        raise ValueError(f"upstream_credentials: 'server' needs one of {', '.join(auth.VARIABLES)} in the environment")
    return credential.authorization


def _backend(settings: ServerSettings) -> Backend:
    if not isinstance(settings.backend, str):
        return settings.backend
    if settings.backend not in BACKENDS:
        raise ConfigurationError(f"backend: {settings.backend!r} is none of {', '.join(map(repr, BACKENDS))}")
    try:
        return BACKENDS[settings.backend](settings)
    except ImportError as error:
        needed = "pip install 'yandexart-grpc[server]'"
        raise ConfigurationError(f"backend: {settings.backend!r} needs more packages: {needed} ({error})") from error
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _bind(server: grpc.aio.Server, settings: ServerSettings) -> str:
    """Take the port, and return the address under which others reach it."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", settings.listen, re.ASCII)
    if not found or int(found[2]) > 65535:
        raise ConfigurationError(f"listen: {settings.listen!r} is not host:port with a port from 0 to 65535")
    host = found[1]
    if not settings.allow_anonymous and not _is_loopback(host):
        raise ConfigurationError(
            f"listen: {host!r} is not loopback, and whoever reaches it could order; allow_anonymous permits that"
        )
    credentials = _certificate(settings) if settings.tls_cert or settings.tls_key else None
    _require_free(host.strip("[]"), int(found[2]), settings)
    port = server.add_secure_port(settings.listen, credentials) if credentials else server.add_insecure_port(settings.listen)
    return f"{socket.gethostname() if host in EVERYWHERE else host}:{port}"


def _require_free(host: str, port: int, settings: ServerSettings) -> None:
    """Try the port first: why it cannot be had, gRPC tells only to stderr."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigurationError(f"listen: {settings.listen!r} cannot be bound: {error.strerror}") from error


def _certificate(settings: ServerSettings) -> grpc.ServerCredentials:
    for name, path in (("tls_key", settings.tls_key), ("tls_cert", settings.tls_cert)):
        if path is None:
            raise ConfigurationError(f"{name}: none given; a certificate and its key are needed together")
    key, cert = Path(str(settings.tls_key)), Path(str(settings.tls_cert))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
        return grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    except OSError as error:  # an SSLError is one
        raise ConfigurationError(f"tls_cert {str(cert)!r}, tls_key {str(key)!r}: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
