"""Addresses: how they are written, whose hosts they name, and where a credential may go.

A key is meant for the hosts that it was configured for, and for no ears on the way: `Trust` is that rule.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

GENERATION = "https://llm.api.cloud.yandex.net:443"
OPERATIONS = "https://operation.api.cloud.yandex.net:443"
IAM = "https://iam.api.cloud.yandex.net:443"
"""Where keys and OAuth tokens are exchanged, also by a client of another server: they are meant for nobody else."""
DIRECTORIES = {"ru": None, "kz": "https://api.yandexcloud.kz:443"}
"""The regions of Yandex Cloud, and who knows the addresses of the region where they are not known here."""
FORMS = (
    "https://host[:port], host:port (TLS), http://host:port (plaintext), dns:///name:port (TLS) and dns+http:///name:port"
    " (plaintext) for all that stand behind a name, demo://, images://[host[:port]], images+http://host:port;"
    " and, as the endpoint, 'ru' or 'kz'"
)
EMBEDDED = ("demo://", "images://", "images+http://")
"""How an endpoint begins that is a server inside this process."""
TRUSTED_HOST = "YANDEXART_TRUSTED_HOST"
"""The variable that names the hosts, apart from Yandex's, to which a credential of the environment may go."""

_HOST = r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+)"
_ADDRESS = re.compile(rf"(?:(?P<scheme>https?|images(?:\+http)?)://)?{_HOST}(?::(?P<port>\d{{1,5}}))?/?", re.ASCII)
_NAME = re.compile(rf"(?P<scheme>dns(?:\+http)?)://(?P<resolver>[\w.-]+(?::\d{{1,5}})?)?/{_HOST}:(?P<port>\d{{1,5}})", re.ASCII)
_YANDEX = re.compile(r"(.+\.)?api\.(cloud\.yandex\.net|yandexcloud\.(net|kz))")
"""Hosts of Yandex's own. Under other names in these domains stand hosts of its customers."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service is."""

    target: str
    """`host:port`, or `dns:///name:port` for all that stand behind the name; empty for a server inside this process that is not
    started yet, and for what a directory is still to be asked for."""
    plaintext: bool = False
    embedded: str | None = None
    """The backend of a server inside this process, which ends with the client."""
    upstream: str | None = None
    """Where that backend orders, where an address is given."""

    def __str__(self) -> str:
        if self.embedded:
            return f"{self.embedded}://"
        if self.balanced:
            return self.target.replace("dns:", "dns+http:", 1) if self.plaintext else self.target
        return f"{'http' if self.plaintext else 'https'}://{self.target}"

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read an address; raises `ValueError` that tells the known forms."""
        text = text.strip()
        if text in ("demo://", "images://"):
            return cls("", embedded=text.removesuffix("://"))
        found = _ADDRESS.fullmatch(text) or _NAME.fullmatch(text)
        scheme, host, port = found.group("scheme", "host", "port") if found else (None, None, None)
        port = port or ("443" if scheme in ("https", "images") else "0")
        if not found or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is none of {FORMS}")
        match scheme:
            case "images" | "images+http":
                upstream = f"{'https' if scheme == 'images' else 'http'}://{host}:{port}"
                return cls("", embedded="images", upstream=upstream)
            case "dns" | "dns+http":
                return cls(f"dns://{found['resolver'] or ''}/{host}:{port}", plaintext=scheme == "dns+http")
        return cls(f"{host}:{port}", plaintext=scheme == "http")

    @property
    def is_known(self) -> bool:
        """Whether no directory has to be asked for it."""
        return bool(self.target or self.embedded)

    @property
    def balanced(self) -> bool:
        """Whether calls are spread over all that stand behind a name."""
        return self.target.startswith("dns:")

    @property
    def host(self) -> str:
        """The host alone; empty for a server inside this process."""
        return self.target.rpartition("/")[2].rpartition(":")[0].strip("[]").lower().rstrip(".")

    @property
    def port(self) -> int:
        """The port; 0 for a server inside this process."""
        return int(self.target.rpartition(":")[2] or 0)

    @property
    def is_yandex(self) -> bool:
        """Whether the host is one of Yandex's."""
        return _YANDEX.fullmatch(self.host) is not None

    @property
    def is_here(self) -> bool:
        """Whether what is sent does not leave this machine."""
        if self.balanced and not self.target.startswith("dns:///"):
            return False  # who knows what the name means to another resolver
        return not self.host or is_loopback(self.host)

    @property
    def beyond(self) -> "Endpoint":
        """Where a credential goes in the end: a server inside this process sends it on."""
        return Endpoint.parse(self.upstream) if self.upstream else self


def is_loopback(host: str) -> bool:
    """Whether a host, which is an address or a name, is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def shown(url: str) -> str:
    """The URL of a database without what nobody should read: all that may be a password, also where it is written wrongly."""
    if url.startswith("sqlite:"):
        return url
    plain = re.sub("//.*@", "//***@", url).partition("?")[0]
    return re.sub(r"//[^@/]*:(?!\d+(/|$))[^/]*", "//***", plain)  # where a port belongs is something else


def address_of_proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> str | None:
    """The proxy that gRPC uses for an address, without the password that may be in it; None where it connects itself.

    The rules are those of gRPC: the names are in lower case, the first that is set holds, only `http://` is known, and of
    `no_proxy` each entry stands for all names that end with it.
    """
    named = next(filter(None, map(environ.get, ("grpc_proxy", "https_proxy", "http_proxy"))), "")
    found = re.fullmatch(r"http://(?:.*@)?([^@/]+)/?", named)
    spared = next(filter(None, map(environ.get, ("no_grpc_proxy", "no_proxy"))), "").lower()
    entries = filter(None, map(str.strip, spared.split(",")))
    return None if found is None or any(map(endpoint.host.endswith, entries)) else found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Where the credential of a client may go. Loopback and Yandex's hosts are always allowed."""

    hosts: frozenset[str]
    """The other hosts that were named for it."""
    anywhere: bool
    """Whether it was given together with its addresses, which says enough."""
    plaintext: bool
    """Whether it may go where anybody on the way can read it."""

    @classmethod
    def of(cls, environ: Mapping[str, str], *, given: bool, plaintext: bool) -> "Trust":
        """The trust in the addresses of a client whose credential is `given` as an argument, or else from the environment."""
        named = re.split(r"[,\s]+", environ.get(TRUSTED_HOST, "").lower())
        return cls(hosts=frozenset(named) - {""}, anywhere=given, plaintext=plaintext)

    def found_by(self, directory: Endpoint, *, for_proofs: bool) -> "Trust":
        """The trust in what a directory tells: its own host was said as well, if addresses were, and no other. That host is
        believed to draw, and not to be who exchanges proofs.
        """
        said = {directory.host} if self.anywhere and not for_proofs else set[str]()
        return replace(self, hosts=self.hosts | said, anywhere=False)

    def problems(self, name: str, endpoint: Endpoint) -> Iterator[str]:
        """Why the credential must not go to an address, one sentence each."""
        where = endpoint.beyond
        if where.is_here:
            return
        if not self.anywhere and not where.is_yandex and where.host not in self.hosts:
            yield (
                f"{name}: {where.host!r} is no host of Yandex, and the credential was not configured for it; pass credentials="
                f" together with the address, set {TRUSTED_HOST}={where.host}, or leave the credential out"
            )
        if where.plaintext and not self.plaintext:
            yield f"{name}: {where} is plaintext, and all on the way could read the credential: allow_plaintext permits that"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a client goes. What a directory has to be asked for is not known."""

    endpoint: Endpoint
    operation_endpoint: Endpoint
    iam_endpoint: Endpoint
    discovery: Endpoint | None
    of_yandex: bool
    """Whether Yandex Cloud is meant because nothing else was said, by the name of a region, or as `images://`."""

    @classmethod
    def resolve(
        cls,
        endpoint: str | None,
        operation_endpoint: str | None,
        iam_endpoint: str | None,
        discovery: str | None,
        found: list[str],
    ) -> "Addresses":
        """The addresses that are given or known; what is wrong with them is added to `found`."""
        if endpoint and discovery:
            found.append(f"discovery: {discovery!r} would tell the endpoint, which is given as {endpoint!r}; leave one out")
        region = not discovery and (endpoint or "ru") in DIRECTORIES
        directory = discovery or DIRECTORIES.get(endpoint or "ru")
        given = None if region else endpoint

        def parse(name: str, text: str | None, known: str) -> Endpoint:
            if not text and directory:
                return Endpoint("")
            try:
                return Endpoint.parse(text or known)
            except ValueError as error:
                found.append(f"{name}: {error}")
                return Endpoint("")

        asked = parse("discovery", directory, "") if directory else None
        generation = parse("endpoint", given, GENERATION)
        operations = parse("operation_endpoint", operation_endpoint or given, OPERATIONS)
        iam = parse("iam_endpoint", iam_endpoint, IAM)
        for name, place in (("discovery", asked), ("iam_endpoint", iam)):
            if place and place.embedded:
                found.append(f"{name}: {str(place)!r} is a server inside a process, which does nothing but draw")
        of_yandex = region or (generation.embedded == "images" and not generation.upstream)
        return cls(generation, operations, iam, asked, of_yandex)

    def problems(self, trust: Trust) -> Iterator[str]:
        """Why the credential must not go to one of them."""
        yield from trust.problems("endpoint", self.endpoint)
        if self.operation_endpoint != self.endpoint:
            yield from trust.problems("operation_endpoint", self.operation_endpoint)
        yield from trust.problems("iam_endpoint", self.iam_endpoint)
