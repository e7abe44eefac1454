"""What a failed call, or the error of an operation, becomes: translated here, and nowhere else."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar, cast, get_args

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from yandexart_grpc.errors import (
    Billed,
    ConfigurationError,
    ContentRefused,
    InvalidRequest,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OutcomeUnknown,
    YandexArtError,
    code_of,
    row,
)
from yandexart_grpc.meaning import meaning, refuses
from yandexart_grpc.stubs import ErrorInfo, Operation, RequestInfo, RetryInfo, Status

log = logging.getLogger("yandexart_grpc")

Detail = TypeVar("Detail", RetryInfo, RequestInfo)

_SENT_AS = "client_request_id"

ENDINGS = {StatusCode.CANCELLED: OperationCancelled, StatusCode.ABORTED: OutcomeUnknown}
"""What the `error` of an operation becomes where that is neither `ContentRefused` nor `OperationFailed`."""


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
    return code is StatusCode.INVALID_ARGUMENT and refuses(details)


def _is_too_large(error: grpc.RpcError) -> bool:
    status = failure(error)
    return status.code() is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (status.details() or "")


def _is_servers(error: grpc.RpcError) -> bool:
    """Whether it was the server to which a message was too large."""
    return (failure(error).details() or "").startswith("SERVER:")


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
