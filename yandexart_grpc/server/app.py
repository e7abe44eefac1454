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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import grpc

from yandexart_grpc import auth
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.server.allowance import Quota
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.backends.cloud import CloudBackend
from yandexart_grpc.server.backends.demo import DemoBackend
from yandexart_grpc.server.callers import Callers
from yandexart_grpc.server.doors.grpc import announce, make_server, open_clinic, open_door
from yandexart_grpc.server.doors.promises import scope_of
from yandexart_grpc.server.limits import Limits
from yandexart_grpc.server.operations import Operations, Unknown
from yandexart_grpc.server.quotas import Quotas
from yandexart_grpc.server.store import MEMORY, is_shared, open_store, place_of
from yandexart_grpc.server.workers import TaskWorkers, Workers

if TYPE_CHECKING:
    from yandexart_grpc.server.doors.listener import Listener

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
BACKLOG = 2048
"""Connections that may wait to be taken."""
REQUEST_LIMIT = 2**20
"""Bytes of the largest request that is taken: a prompt of 500 characters has two thousand at the most."""
Role = Literal["both", "serve", "work"]
"""What a server does: it takes orders, works on them, or both."""
CONCURRENCY, QUEUE = 1_000, 10_000
"""How many operations are worked on at a time, and how many may wait for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything a server needs to know."""

    listen: str = LISTEN
    """`host:port` of the gRPC door; port 0 takes a free one."""
    http: str | None = None
    """`host:port` of the REST and OpenAI doors; without one, they are closed."""
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
    key_file: str | None = None
    """A file with the API keys that callers have to show, a line each: `name key [folder]`. Without one, nobody is asked."""
    client_ca: str | None = None
    """A PEM file with the authority whose certificates clients have to show (mTLS)."""
    allow_plaintext: bool = False
    """Let keys come in without TLS from beyond loopback, where something in front of the server speaks it."""
    max_request_bytes: int = REQUEST_LIMIT
    """The largest request that is taken."""
    requests_per_second: float | None = None
    """How many requests a second one caller may make; None for as many as he likes."""
    in_flight_per_caller: int = Limits.in_flight_per_caller
    """How many operations of one caller may be unfinished; more are refused."""
    held_reads: int = Limits.held_reads
    """How many reads may wait for their operation to be done; any more are answered at once."""
    held_reads_per_caller: int = Limits.held_reads_per_caller
    """The same, of one caller."""
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
        for name in COUNTS:
            if getattr(self, name) < 1:
                yield f"{name}: {getattr(self, name)!r} is not an integer from 1"
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                yield f"{name}: {getattr(self, name)!r} is neither {' nor '.join(map(repr, get_args(kind)))}"
        if self.requests_per_second is not None and not 0 < self.requests_per_second < math.inf:
            yield f"requests_per_second: {self.requests_per_second!r} is not a positive number"
        if self.client_ca is not None and not self.tls_cert:
            yield "client_ca: without tls_cert there is no TLS, in which clients could show certificates"
        if self.key_file and self.allow_anonymous:
            yield "allow_anonymous: with key_file, everybody has to show a key"
        if self.key_file and self.backend in ("images", "cloud") and self.upstream_credentials == "caller":
            yield "upstream_credentials: with key_file, callers send keys of this server, which go no further; take 'server'"
        try:
            _ = self.quota and Quota.parse(self.quota)
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
COUNTS = ("concurrency", "queue", "max_request_bytes", "in_flight_per_caller", "held_reads", "held_reads_per_caller")
"""The settings that are integers from 1."""


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
) -> Iterator[Embedded]:
    """Serve inside this process, in a thread of its own, until the `with` block ends; works from blocking code and from asyncio.

    The arguments are those of `ServerSettings`; `http=True` takes a free port. Without a `grace`, work that has begun is
    finished first where its picture is kept in a `store`.

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
        async with serving(settings) as server:
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
async def serving(settings: ServerSettings, callers: Callers | None = None) -> AsyncIterator[Embedded]:
    """A server in the running event loop. Raises `ConfigurationError`."""
    if found := list(settings.problems()):
        raise ConfigurationError("; ".join(found))
    callers = callers or _callers(settings)
    limits = Limits(**{one.name: getattr(settings, one.name) for one in fields(Limits)})
    async with open_store(settings.store) as store, _workers(settings) as workers:
        operations = Operations(
            store,
            workers,
            _backend(settings),
            keep=settings.keep,
            queue=settings.queue,
            unknown=settings.unknown,
            limits=limits,
            quotas=Quotas(store, Quota.parse(settings.quota)) if settings.quota else None,
        )
        scheme, credentials = ("https", _certificate(settings)) if settings.tls_cert or settings.tls_key else ("http", None)
        host = _free(settings)
        listeners = dict([_listener(settings.http, operations, callers, settings)] if settings.http else ())
        # A server that is never started must not be made at all: when it goes, gRPC logs the very object that goes.
        server = make_server(settings.max_request_bytes)
        address = f"{_reachable(host)}:{_bind(server, settings.listen, credentials)}"
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

    host, port = _address("http", where, settings)
    bound = _bound("http", host, port, settings)
    listener = Listener(
        site(operations, callers),
        bound,
        headers=[scope_of(operations)],
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        client_ca=settings.client_ca,
    )
    return f"{_reachable(host)}:{bound.getsockname()[1]}", listener


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
    if not isinstance(credential, auth.Credential):
        raise ValueError("upstream_credentials: 'server' needs one of YC_API_KEY, YC_IAM_TOKEN in the environment")
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


def _free(settings: ServerSettings) -> str:
    """The host to listen on, whose port can be had: why it cannot, gRPC tells only to stderr."""
    host, port = _address("listen", settings.listen, settings)
    _bound("listen", host, port, settings).close()
    return host


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)


def _address(name: str, where: str, settings: ServerSettings) -> tuple[str, int]:
    """Host and port of the setting of that name."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", where, re.ASCII)
    if not found or int(found[2]) > 65535:
        raise ConfigurationError(f"{name}: {where!r} is not host:port with a port from 0 to 65535")
    if not _is_loopback(found[1]) and (danger := _danger(settings)):
        raise ConfigurationError(f"{name}: {found[1]!r} is not loopback, and {danger}")
    return found[1], int(found[2])


def _callers(settings: ServerSettings) -> Callers:
    return Callers(settings.key_file, requests_per_second=settings.requests_per_second)


def _danger(settings: ServerSettings) -> str | None:
    """Why others than this machine may not reach the server as it is set."""
    if settings.key_file:
        if settings.tls_cert or settings.allow_plaintext:
            return None
        return "keys would cross the network in plaintext; give tls_cert, or allow_plaintext where something in front speaks TLS"
    if settings.client_ca or settings.allow_anonymous:
        return None
    return "whoever reaches it could order; give key_file or client_ca, or permit that by allow_anonymous"


def _bound(name: str, host: str, port: int, settings: ServerSettings) -> socket.socket:
    """A socket that listens at the address of the setting of that name."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigurationError(f"{name}: {getattr(settings, name)!r} cannot be bound: {error.strerror}") from error
    return bound


def _reachable(host: str) -> str:
    """The host under which others reach who listens there."""
    return socket.gethostname() if host in EVERYWHERE else host


def _certificate(settings: ServerSettings) -> grpc.ServerCredentials:
    for name, path in (("tls_key", settings.tls_key), ("tls_cert", settings.tls_cert)):
        if path is None:
            raise ConfigurationError(f"{name}: none given; a certificate and its key are needed together")
    key, cert = Path(str(settings.tls_key)), Path(str(settings.tls_cert))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:  # an SSLError is one
        raise ConfigurationError(f"tls_cert {str(cert)!r}, tls_key {str(key)!r}: {error}") from error
    authority = None if settings.client_ca is None else _authority(settings.client_ca)
    pair = (key.read_bytes(), cert.read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _authority(path: str) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"client_ca {path!r}: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
