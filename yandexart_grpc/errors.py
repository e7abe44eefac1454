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

What each call means for money is said by `billed` and `resend`.
"""

from typing import ClassVar, Literal, NamedTuple

from grpc import StatusCode

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


def code_of(number: int) -> StatusCode:
    """The code that a number on the wire stands for; UNKNOWN where it is none."""
    return next((code for code in StatusCode if code.value[0] == number), StatusCode.UNKNOWN)
