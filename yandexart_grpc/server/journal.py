"""The lines of the log that tell the life of each operation: one for each state, with fields that a formatter may write."""

import logging
import time

from grpc import StatusCode

from yandexart_grpc.errors import code_of
from yandexart_grpc.server.events import Observer
from yandexart_grpc.server.store import Row
from yandexart_grpc.stubs import Status

log = logging.getLogger("yandexart_grpc.server.operations")


class Journal(Observer):
    """Writes at the level INFO. No prompt is written, and of an error no word: it may have one in it."""

    def accepted(self, row: Row) -> None:
        _write(row, "accepted")

    def began(self, row: Row) -> None:
        _write(row, "running")

    def ended(self, row: Row) -> None:
        if isinstance(row.outcome, Status):
            code = code_of(row.outcome.code)
            _write(row, "cancelled" if code is StatusCode.CANCELLED else "failed", code=code.name)
        else:
            _write(row, "done")


def _write(row: Row, state: str, **more: str) -> None:
    if log.isEnabledFor(logging.INFO):
        fields = {
            "operation_id": row.id,
            "state": state,
            "caller": row.caller,
            "model": row.request.model_uri,
            "seconds": round((row.ended or time.time()) - row.created, 3),
            **more,
        }
        if row.trace:
            fields["trace_id"] = row.trace.split("-")[1]
        log.info("operation %s %s", row.id, state, extra={"fields": fields})
