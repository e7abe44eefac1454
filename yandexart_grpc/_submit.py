"""The submit rule: what a failed submit means for money. A submit is made once and never repeated here.

A server that refuses has bought nothing. When the request may have left and no clear answer came back, the picture may have
been bought, and nothing but its owner may decide to send the request again.
"""

import logging

from grpc import RpcError, StatusCode

from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Step, Steps
from yandexart_grpc.errors import OutcomeUnknown, ProtocolError, QuotaExceeded, YandexArtError, from_rpc, is_local_limit
from yandexart_grpc.stubs import ImageGenerationRequest

log = logging.getLogger("yandexart_grpc")

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


def submit(request: ImageGenerationRequest, pace: Pace, deadline: float) -> Steps:
    """Send the request once it is its turn, and return the operation it became.

    Raises `QuotaExceeded` when its turn would come after the deadline.
    """
    if not (yield from pace.submits.turn(deadline)):
        raise QuotaExceeded(f"submitting: all turns of submits_per_minute={pace.submits.rate * 60:g} are taken until the timeout")
    try:
        answer = yield Step(request=request, timeout=min(deadline - pace.now(), pace.rpc_timeout))
    except RpcError as error:
        raise _failed(error) from error
    assert answer is not None  # drivers answer every call
    pace.holds = answer.holds
    if not answer.operation.id:
        raise ProtocolError("submitting: the operation in the answer has no id; the picture may have been bought")
    log.info("operation %s submitted", answer.operation.id)
    return answer.operation


def _failed(error: RpcError) -> YandexArtError:
    known = from_rpc(error, "submitting")
    if known.code not in UNKNOWN and not is_local_limit(error):
        return known
    return OutcomeUnknown(
        f"{known}; the request may have been accepted and paid for, so it was not sent again",
        code=known.code,
        details=known.details,
        request_id=known.request_id,
    )
