"""The tree of errors, and the one table that ties gRPC codes to classes, HTTP statuses and exit codes.

    YandexArtError
    ├── ConfigurationError (ValueError)    a setting is missing or wrong
    ├── InvalidRequest (ValueError)        the request is wrong, found here or by the server
    ├── ContentRefused                     the content rules refuse this prompt
    ├── Unauthenticated                    no credential, or one that is not accepted
    ├── PermissionDenied                   the credential may not do this
    ├── NotFound                           no such operation, or it has expired
    ├── QuotaExceeded                      too many requests, or too many pictures
    ├── Unavailable                        the server could not be reached, or failed to answer
    ├── OutcomeUnknown                     the picture may or may not have been bought
    ├── OperationFailed                    the operation ended with an error
    ├── OperationCancelled                 the operation was cancelled
    ├── OperationTimeout (TimeoutError)    the wait ended; the operation goes on
    └── ProtocolError                      the server broke the contract

What each call means for money is said by `billed` and `resend`. Failures of gRPC become these classes here and nowhere else.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeVar, cast, get_args

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from yandexart_grpc.meaning import meaning
from yandexart_grpc.stubs import ErrorInfo, Operation, RequestInfo, RetryInfo, Status

log = logging.getLogger("yandexart_grpc")

Detail = TypeVar("Detail", RetryInfo, RequestInfo)
Billed = Literal["no", "yes", "unknown"]
Resend = Literal["safe", "unsafe"]


class YandexArtError(Exception):
    """Anything this package raises on purpose.

    `code` is the gRPC status, `details` the server's own words; `operation_id`, the server's `request_id`, and the
    `client_request_id` that the call was sent with are what support asks for; `retry_after` is how many seconds the server asks
    to wait; each is None where it does not apply. `billed` says whether a picture was paid for; `index` which prompt of `map`
    it answers; `idempotency_key` is what the order was sent with, or would have been.
    """

    BILLED: ClassVar[Billed] = "no"

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        details: str | None = None,
        operation_id: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        billed: Billed | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        self.operation_id = operation_id
        self.request_id = request_id
        self.retry_after = retry_after
        self.billed: Billed = billed or self.BILLED
        self.client_request_id: str | None = None
        self.index: int | None = None
        self.idempotency_key: str | None = None

    @property
    def resend(self) -> Resend:
        """Whether submitting the same request again can be paid for twice: "unsafe" unless nothing was billed."""
        return "safe" if self.billed == "no" else "unsafe"


class ConfigurationError(YandexArtError, ValueError):
    """A setting is missing or wrong."""


class InvalidRequest(YandexArtError, ValueError):
    """The request breaks a rule of the service. The message names each field, its value and its limit."""


class ContentRefused(YandexArtError):
    """The content rules of the service refuse this prompt."""


class Unauthenticated(YandexArtError):
    """There was no credential, or the server does not accept it."""


class PermissionDenied(YandexArtError):
    """The credential lacks the role or the scope, or the model cannot be used."""


class NotFound(YandexArtError):
    """The server knows no such operation; results expire after about three days."""

    BILLED = "unknown"


class QuotaExceeded(YandexArtError):
    """A quota of the folder is used up."""


class Unavailable(YandexArtError):
    """The server could not be reached, or failed to answer."""


class OutcomeUnknown(YandexArtError):
    """The request may have been accepted and paid for, and its operation id is not known."""

    BILLED = "unknown"


class OperationFailed(YandexArtError):
    """The operation ended with an error instead of an image."""

    BILLED = "unknown"


class OperationCancelled(YandexArtError):
    """The operation was cancelled before an image was made."""

    BILLED = "unknown"


class OperationTimeout(YandexArtError, TimeoutError):
    """The wait ended before the operation did. The operation goes on: `operation_id` picks it up again."""

    BILLED = "yes"


class ProtocolError(YandexArtError):
    """The server's answer breaks the contract."""

    BILLED = "unknown"


class Row(NamedTuple):
    """One line of the table."""

    code: StatusCode
    error: type[YandexArtError]
    http: int
    exit: int


TABLE = (
    Row(StatusCode.INVALID_ARGUMENT, InvalidRequest, 400, 2),
    Row(StatusCode.FAILED_PRECONDITION, InvalidRequest, 400, 2),
    Row(StatusCode.OUT_OF_RANGE, InvalidRequest, 400, 2),
    Row(StatusCode.ALREADY_EXISTS, InvalidRequest, 409, 2),
    Row(StatusCode.FAILED_PRECONDITION, ConfigurationError, 400, 2),
    Row(StatusCode.INVALID_ARGUMENT, ContentRefused, 400, 3),
    Row(StatusCode.UNAUTHENTICATED, Unauthenticated, 401, 4),
    Row(StatusCode.PERMISSION_DENIED, PermissionDenied, 403, 5),
    Row(StatusCode.NOT_FOUND, NotFound, 404, 6),
    Row(StatusCode.RESOURCE_EXHAUSTED, QuotaExceeded, 429, 7),
    Row(StatusCode.UNAVAILABLE, Unavailable, 503, 8),
    Row(StatusCode.INTERNAL, Unavailable, 500, 8),
    Row(StatusCode.UNKNOWN, Unavailable, 500, 8),
    Row(StatusCode.DEADLINE_EXCEEDED, Unavailable, 504, 8),
    Row(StatusCode.ABORTED, Unavailable, 409, 8),
    Row(StatusCode.CANCELLED, Unavailable, 499, 8),
    Row(StatusCode.CANCELLED, OperationCancelled, 499, 9),
    Row(StatusCode.DEADLINE_EXCEEDED, OperationTimeout, 504, 10),
    Row(StatusCode.ABORTED, OutcomeUnknown, 409, 11),
    Row(StatusCode.INTERNAL, OperationFailed, 500, 12),
    Row(StatusCode.UNIMPLEMENTED, ProtocolError, 501, 13),
    Row(StatusCode.DATA_LOSS, ProtocolError, 500, 13),
)
"""Looked up by code or by class, the first row wins: by code it says what a failed call becomes. Rows whose code stands
further up are for classes that come from elsewhere, with the code that fits them best."""


def row(key: StatusCode | type[YandexArtError]) -> Row:
    """The row of a code or of a class."""
    return next(r for r in TABLE if key in (r.code, r.error))


_SENT_AS = "client_request_id"

ENDINGS = {StatusCode.CANCELLED: OperationCancelled, StatusCode.ABORTED: OutcomeUnknown}
"""What the `error` of an operation becomes where that is neither `ContentRefused` nor `OperationFailed`."""


REFUSALS = ("violate the terms of use", "Я не могу сгенерировать это изображение")
"""How the service words a refusal by its content rules (contract/service.md, "Errors seen")."""


class Failure(Protocol):
    """What a failed call tells, alike in grpc and grpc.aio; `grpc.RpcError` itself declares none of it."""

    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def failure(error: grpc.RpcError) -> Failure:
    """The failed call that a `grpc.RpcError` is."""
    return cast("Failure", error)


def is_local_limit(error: grpc.RpcError) -> bool:
    """Whether RESOURCE_EXHAUSTED comes from our own receive limit and not from a quota or the server's; only its text tells."""
    return _is_too_large(error) and not _is_servers(error)


def is_unsent(error: grpc.RpcError) -> bool:
    """Whether a call never left this machine, because no connection could be made for it; only its text tells."""
    status = failure(error)
    return status.code() is StatusCode.UNAVAILABLE and (status.details() or "").startswith("failed to connect to all addresses")


def from_rpc(error: grpc.RpcError, doing: str, *, operation_id: str | None = None) -> YandexArtError:
    """The error to raise when `doing` (a gerund, for people) ended with a failed call.

    A call about an operation fails after the picture was ordered, any other before: that is what `billed` says.
    """
    status = failure(error)
    code, details = status.code(), status.details() or ""
    kind = ContentRefused if _is_refusal(code, details) else row(code).error
    if _is_too_large(error) and _is_servers(error):
        kind = InvalidRequest
    if operation_id is not None:
        doing = f"{doing} operation {operation_id}"
    text = f"{doing}: {code.name}: {details}"
    if meant := meaning(code, details):
        text += f". {meant}"
    if is_local_limit(error):
        kind = ConfigurationError
        text += "; raise max_message_bytes and ask for the same operation again"
    known = kind(
        text,
        code=code,
        details=details,
        operation_id=operation_id,
        request_id=_request_id(status),
        retry_after=retry_after(error),
        billed="no" if operation_id is None else "unknown" if kind is NotFound else "yes",
    )
    known.client_request_id = getattr(error, _SENT_AS, None)
    return known


def sent_as(call: object, client_request_id: str) -> None:
    """Let a failed call, or one that may fail, know the id that it was sent with."""
    setattr(call, _SENT_AS, client_request_id)


def retry_after(error: grpc.RpcError) -> float | None:
    """The seconds after which the server asks to be called again, where it says so."""
    pushback = str(dict(failure(error).trailing_metadata() or ()).get("grpc-retry-pushback-ms", ""))
    if pushback.isdecimal():
        return int(pushback) / 1000
    if detail := _detail(failure(error), RetryInfo()):
        return float(detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9)
    return None


@contextmanager
def translated(doing: str, operation_id: str) -> Iterator[None]:
    """Raise a failed call about an operation as what `from_rpc` gives for it, and one that was not made as `about` does."""
    try:
        with about(operation_id):
            yield
    except grpc.RpcError as error:
        raise from_rpc(error, doing, operation_id=operation_id) from error


@contextmanager
def about(operation_id: str) -> Iterator[None]:
    """Let errors of this client that end the work on an operation, as a token that cannot be had, not say that it was never
    ordered.
    """
    try:
        yield
    except YandexArtError as error:
        if error.operation_id is None:
            error.operation_id, error.billed = operation_id, "yes"
        raise


@contextmanager
def keyed(key: str | None) -> Iterator[None]:
    """Let every error of an order say its idempotency key."""
    try:
        yield
    except YandexArtError as error:
        error.idempotency_key = key
        raise


def from_operation(operation: Operation) -> YandexArtError:
    """The error to raise for an operation whose `result` is `error`."""
    status = operation.error
    code = code_of(status.code)
    kind = class_of(status)
    text = f"operation {operation.id} failed: {code.name}: {status.message}"
    meant = meaning(code, status.message)
    return kind(
        f"{text}. {meant}" if meant else text,
        code=code,
        details=status.message,
        operation_id=operation.id,
        billed=_bill(status, code),
    )


def class_of(status: Status) -> type[YandexArtError]:
    """The class of the error to raise for an operation that ended with that status."""
    code = code_of(status.code)
    return ContentRefused if _is_refusal(code, status.message) else ENDINGS.get(code, OperationFailed)


DOMAIN = "yandexart-grpc"
"""Whose word it is what an operation that failed did to the money."""
BILLS: dict[str, Billed] = {f"BILLED_{billed.upper()}": billed for billed in get_args(Billed)}
"""How that is said."""


def with_bill(status: Status, billed: Billed) -> Status:
    """The status of an operation, with what is known about money added to it (google.rpc.ErrorInfo)."""
    reason = next(reason for reason, said in BILLS.items() if said == billed)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN))
    return status


def _bill(status: Status, code: StatusCode) -> Billed:
    """Whether an operation that failed was paid for: a server of ours tells."""
    info = ErrorInfo()
    with suppress(DecodeError):
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN and info.reason in BILLS:
                return BILLS[info.reason]
    # An internal error of the service is not charged (contract/service.md, "The answer").
    return "no" if code is StatusCode.INTERNAL else "unknown"


def _is_refusal(code: StatusCode, details: str) -> bool:
    return code is StatusCode.INVALID_ARGUMENT and any(words in details for words in REFUSALS)


def _is_too_large(error: grpc.RpcError) -> bool:
    status = failure(error)
    return status.code() is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (status.details() or "")


def _is_servers(error: grpc.RpcError) -> bool:
    """Whether it was the server to which a message was too large."""
    return (failure(error).details() or "").startswith("SERVER:")


def code_of(number: int) -> StatusCode:
    """The code that a number on the wire stands for; UNKNOWN where it is none."""
    return next((code for code in StatusCode if code.value[0] == number), StatusCode.UNKNOWN)


def named_by_server(metadata: Mapping[str, str | bytes]) -> str | None:
    """What the server calls a request, in the metadata of its answer (contract/service.md, "Headers worth sending")."""
    found = metadata.get("x-request-id") or metadata.get("x-server-trace-id")
    return str(found) if found else None


def _request_id(status: Failure) -> str | None:
    found = named_by_server(dict([*(status.initial_metadata() or ()), *(status.trailing_metadata() or ())]))
    if found is None and (detail := _detail(status, RequestInfo())):
        return detail.request_id or None
    return found


def _detail(status: Failure, detail: Detail) -> Detail | None:
    """The detail of that type which a status may hold."""
    rich = Status()
    try:
        metadata = dict(status.trailing_metadata() or ())
        rich.ParseFromString(metadata.get("grpc-status-details-bin", b""))  # type: ignore[arg-type]  # -bin is bytes
        for packed in rich.details:
            if packed.type_url.endswith(f"/{detail.DESCRIPTOR.full_name}"):
                detail.ParseFromString(packed.value)
                return detail
    except DecodeError:
        log.debug("the details of a status cannot be read")
    return None
