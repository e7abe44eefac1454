"""Everything a server needs to know before it starts, judged together so that every mistake is named at once."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from yandexart_grpc.address import Endpoint
from yandexart_grpc.server.allowance import Quota
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.limits import Limits
from yandexart_grpc.server.operations import Unknown
from yandexart_grpc.server.store import MEMORY, is_shared

LISTEN = "127.0.0.1:50051"
DURATION = "fixed:0.5"
GRACE = 25.0
"""Seconds that work in progress may take once the server is told to stop: less than most supervisors wait before they kill."""
KEEP = 3 * 24 * 3600.0
"""Seconds for which a finished operation is kept, as the real service does (contract/service.md, "The answer")."""
UPSTREAM_TIMEOUT = 600.0
"""Seconds that a picture may take somewhere else."""
Whose = Literal["caller", "server"]
"""Whose credential pays for a picture that is ordered elsewhere."""
Unsupported = Literal["warn", "refuse"]
"""What becomes of a request for what the backend cannot do."""
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
    """Let keys come in without TLS from beyond loopback, where something in front of the server speaks it, and go out so."""
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
    """How many pictures a folder may buy, and how many reads a second the cloud backend may make for it, of all servers on the
    store together: `minute=500,day=5000,reads=50`."""
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
        if self.upstream and self.upstream.startswith("http://") and not self.allow_plaintext:
            with suppress(ValueError):  # what is no address is named by the backend
                if not Endpoint.parse(self.upstream).is_here:
                    yield f"upstream: credentials would go to {self.upstream!r} in plaintext; take https, or allow_plaintext"
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
