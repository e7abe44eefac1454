"""What a client is told: arguments first, then the environment, judged together so that every mistake is named at once."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType

from yandexart_grpc import auth
from yandexart_grpc.address import EMBEDDED, IAM, Addresses, Endpoint, Trust
from yandexart_grpc.errors import ConfigurationError, InvalidRequest

TIMEOUT = 300.0
"""How long to wait for an image, in seconds, where nothing else is said. Most take under a minute."""
RPC_TIMEOUT = 30.0
"""How long one call may take, in seconds: a slow link needs that much for a large image."""
READS_PER_SECOND = 45.0
"""The quota of a folder is 50 (contract/service.md, "The answer"), and others share it."""
SUBMITS_PER_MINUTE = 500.0
"""The quota of a folder."""
MAX_MESSAGE_BYTES = 32 * 2**20
"""gRPC's own limit of 4 MiB is below what the service may answer."""
Timeout = float | EllipsisType | None
"""Seconds that a wait may take; None waits as long as it takes, `...` as long as the client was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, how large and how often."""

    timeout: float | None = TIMEOUT
    """Seconds for a whole wait; None waits as long as it takes."""
    rpc_timeout: float = RPC_TIMEOUT
    """Seconds for one call."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """The largest answer that is received."""
    patience: float | None = None
    """Seconds that a ready image may be expected to lie unseen; None for what fits the number of waits."""
    reads_per_second: float = READS_PER_SECOND
    submits_per_minute: float = SUBMITS_PER_MINUTE

    def problems(self) -> Iterator[str]:
        """Everything that is wrong, one sentence a setting."""
        yield from problems_of_time("timeout", self.timeout)
        yield from problems_of_time("rpc_timeout", self.rpc_timeout or 0)
        yield from problems_of_time("patience", self.patience)
        for name in ("reads_per_second", "submits_per_minute"):
            rate = getattr(self, name)
            if not _is_number(rate) or not rate > 0:
                yield f"{name}: {rate!r} is not a positive number"
        if not isinstance(self.max_message_bytes, int) or not 0 < self.max_message_bytes < 2**31:
            yield f"max_message_bytes: {self.max_message_bytes!r} is not an integer from 1 to {2**31 - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a client needs to know before its first call."""

    folder_id: str | None
    credential: auth.Credential | None
    """What each call carries, where that is known at once."""
    source: auth.Source | None = None
    """Where tokens come from otherwise."""
    data_logging: bool | None = None
    """False asks the service not to keep the prompt; else nothing is said."""
    endpoint: Endpoint
    operation_endpoint: Endpoint
    root_certificates: bytes | None = field(repr=False)
    """PEM of the authorities to trust; None for those that gRPC brings."""
    history: Path | None
    """A file that keeps durations from one process to the next."""
    store: str | None
    """Where a server inside this process keeps its operations; None for as long as it lives."""
    limits: Limits
    iam_endpoint: Endpoint = field(default_factory=lambda: Endpoint.parse(IAM))
    """Where keys and OAuth tokens are exchanged."""
    discovery: Endpoint | None = None
    """The directory that has to be asked for the addresses that are not known yet."""
    trust: Trust | None = None
    """Where the credential may go, where there is one."""
    client_certificate: bytes | None = field(default=None, repr=False)
    """PEM of the chain that this client shows, where the server wants to see one."""
    client_key: bytes | None = field(default=None, repr=False)
    """PEM of the key of that certificate."""
    proxy: bool = True
    """Whether a proxy that the environment names is used."""

    @classmethod
    def resolve(
        cls,
        *,
        folder_id: str | None,
        credentials: auth.Credentials | None,
        endpoint: str | None,
        operation_endpoint: str | None,
        root_certificates: str | os.PathLike[str] | None,
        history: str | os.PathLike[str] | None,
        store: str | None,
        limits: Limits,
        iam_endpoint: str | None = None,
        discovery: str | None = None,
        data_logging: bool | None = None,
        client_certificate: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        proxy: bool = True,
        allow_plaintext: bool = False,
        environ: Mapping[str, str] = auth.ENVIRONMENT,
    ) -> "Settings":
        """Settings from arguments and environment.

        Raises `ConfigurationError`, which names everything that is wrong at once: setting, value and limit.
        """
        found = list(limits.problems())
        if not discovery:
            endpoint = endpoint or environ.get("YANDEXART_ENDPOINT")
        where = Addresses.resolve(endpoint, operation_endpoint, iam_endpoint, discovery, found)
        embedded = where.endpoint.embedded or where.operation_endpoint.embedded
        searched = {} if where.endpoint.embedded == "demo" else environ
        credential = _credential(credentials, searched, found, machine=where.of_yandex, needed=embedded == "images")
        trust = None
        if credential is not None:
            trust = Trust.of(environ, given=credentials is not None, plaintext=allow_plaintext)
            found += where.problems(trust)
        folder = folder_id or environ.get("YC_FOLDER_ID") or ("demo" if where.endpoint.embedded == "demo" else None)
        if folder and not re.fullmatch(r"[\w.-]{1,50}", folder, re.ASCII):
            found.append(f"folder_id: {folder!r} is not up to 50 letters, digits, '.', '_' and '-'")
        store = store or environ.get("YANDEXART_STORE") or None
        if store and not embedded:
            found.append(f"store: {store!r} is for a server in this process, and the endpoint is none of {', '.join(EMBEDDED)}")
        pem = _read_pem("root_certificates", root_certificates, found)
        chain, key = _pair(client_certificate, client_key, found)
        if found:
            raise ConfigurationError("; ".join(found))
        return cls(
            folder_id=folder,
            credential=credential if isinstance(credential, auth.Credential) else None,
            source=None if isinstance(credential, auth.Credential) else credential,
            data_logging=data_logging,
            endpoint=where.endpoint,
            operation_endpoint=where.operation_endpoint,
            iam_endpoint=where.iam_endpoint,
            discovery=where.discovery,
            trust=trust,
            root_certificates=pem,
            history=Path(history) if history else None,
            store=store,
            limits=limits,
            client_certificate=chain,
            client_key=key,
            proxy=proxy,
        )

    def span(self, timeout: Timeout) -> float | None:
        """The time for one wait: what the caller gave, or this client's own where it is `...`.

        Raises `InvalidRequest` when it is not a positive number of seconds.
        """
        if isinstance(timeout, EllipsisType):
            return self.limits.timeout
        if found := problems_of_time("timeout", timeout):
            raise InvalidRequest(found[0])
        return timeout

    def metadata(
        self,
        hold: int | None = None,
        key: str | None = None,
        *,
        authorization: str | None = None,
        client_request_id: str | None = None,
        context: tuple[tuple[str, str], ...] = (),
    ) -> tuple[tuple[str, str], ...]:
        """What a call carries; `hold` asks the server to hold its answer for so many seconds (RFC 7240), and `key` makes an
        order one with those that carry the same. `authorization` is a token that holds now, `client_request_id` what the call
        can be asked for by, and `context` what carries a trace on.
        """
        known = context
        if authorization is not None:
            known = (*known, ("authorization", authorization))
        elif self.credential is not None:
            known = (*known, ("authorization", self.credential.authorization))
        if client_request_id is not None:
            known = (*known, ("x-client-request-id", client_request_id))
        if self.data_logging is False:
            known = (*known, ("x-data-logging-enabled", "false"))
        if key is not None:
            return (*known, ("idempotency-key", key))
        return known if hold is None else (*known, ("prefer", f"wait={hold}"))


def problems_of_time(name: str, value: float | None) -> list[str]:
    """What is wrong with a span of time."""
    if value is None:
        return []
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        return [f"{name}: {value!r} is not a positive number of seconds"]
    return []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _credential(
    given: auth.Credentials | None, environ: Mapping[str, str], found: list[str], *, machine: bool, needed: bool
) -> auth.Credential | auth.Source | None:
    try:
        return auth.find(given, environ, machine=machine, needed=needed)
    except ConfigurationError as error:
        found.append(str(error))
        return None


def _read_pem(name: str, path: str | os.PathLike[str] | None, found: list[str], kind: str = "CERTIFICATE") -> bytes | None:
    if path is None:
        return None
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        found.append(f"{name}: {error}")
        return None
    if not re.search(rb"-----BEGIN [A-Z ]*" + kind.encode(), pem):
        found.append(f"{name}: {os.fspath(path)!r} holds no PEM {kind.lower()}")
    return pem


def _pair(
    certificate: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None, found: list[str]
) -> tuple[bytes | None, bytes | None]:
    """What a client shows who it is with: both or neither, and each of them that of the other."""
    before = len(found)
    pems = _read_pem("client_certificate", certificate, found), _read_pem("client_key", key, found, "PRIVATE KEY")
    if (certificate is None) != (key is None):
        found.append("client_certificate, client_key: one of them is missing, and they are needed together")
    elif certificate is not None and key is not None and len(found) == before:
        import ssl  # takes long to import, and few need it

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
        except ssl.SSLError as error:
            found.append(f"client_certificate, client_key: {os.fspath(certificate)!r} and {os.fspath(key)!r}: {error.reason}")
    return pems
