"""The submit rule: what a failed submit means for money. A submit is made once and never repeated here.

A server that refuses has bought nothing. When the request may have left and no clear answer came back, the picture may have
been bought, and nothing but its owner may decide to send the request again.
"""

from collections.abc import Generator

from grpc import RpcError, StatusCode

from yandexart_grpc._plan import Step
from yandexart_grpc.errors import OutcomeUnknown, ProtocolError, YandexArtError, failure, from_rpc, is_local_limit
from yandexart_grpc.stubs import Operation

UNKNOWN = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.ABORTED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
    }
)
"""Codes of `Generate` after which nobody knows whether the request was accepted. The connection was ready before it was
sent, so UNAVAILABLE is one of them."""


def submit(timeout: float) -> Generator[Step, Operation, Operation]:
    """Send the request once, with `timeout` seconds for the answer, and return the operation it became."""
    try:
        operation = yield Step(0.0, timeout)
    except RpcError as error:
        raise _failed(error) from error
    if not operation.id:
        raise ProtocolError("submitting: the server answered with an operation that has no id; the picture may have been bought")
    return operation


def _failed(error: RpcError) -> YandexArtError:
    known = from_rpc(error, "submitting")
    if known.code not in UNKNOWN and not is_local_limit(error):
        return known
    return OutcomeUnknown(
        f"{known}; the request may have been accepted and paid for, so it was not sent again",
        code=failure(error).code(),
        details=known.details,
        request_id=known.request_id,
    )
