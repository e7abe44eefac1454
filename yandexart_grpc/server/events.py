"""Who else hears of the life of operations: logs, figures, a page. `operations` alone tells them, and they change nothing."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from yandexart_grpc.server.store import Row, State

log = logging.getLogger("yandexart_grpc.server")

REMEMBERED = 10_000
"""Operations whose reads are counted: those that were read last."""


class Observer:
    """Hears what becomes of operations on this server; where many share a store, each hears of what it does itself.

    Every method does nothing: override those that you need. They are called in the event loop of the server, which goes on when
    they return, so none may wait. Prompts stand in `row.request`, and belong nowhere.
    """

    def accepted(self, row: Row) -> None:
        """A new operation is kept."""

    def began(self, row: Row) -> None:
        """The backend is about to be called for it."""

    def ended(self, row: Row) -> None:
        """It is done; `outcome` is its picture or its error."""

    def read(self, operation_id: str, held: bool) -> None:
        """A question for it is about to be answered, which may have been `held` until it was done."""

    def handed(self, row: Row, lag: float, reads: int) -> None:
        """For the first time, it is done when it is read here: `lag` seconds after its end, at the read of that number."""


@dataclass(slots=True)
class _Reader:
    """What was read of an operation."""

    reads: int = 0
    is_done: bool = False


class Audience:
    """All observers of one server."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        self._readers: OrderedDict[str, _Reader] = OrderedDict()

    def accepted(self, row: Row) -> None:
        """Tell `Observer.accepted`."""
        self._tell(lambda observer: observer.accepted(row))

    def began(self, row: Row) -> None:
        """Tell `Observer.began`."""
        self._tell(lambda observer: observer.began(row))

    def ended(self, row: Row) -> None:
        """Tell `Observer.ended`."""
        self._tell(lambda observer: observer.ended(row))

    def answered(self, row: Row, *, held: bool) -> None:
        """Tell `Observer.read`, and `Observer.handed` where this is the first to see the operation done."""
        self._tell(lambda observer: observer.read(row.id, held))
        reader = self._readers.setdefault(row.id, _Reader())
        self._readers.move_to_end(row.id)
        if len(self._readers) > REMEMBERED:
            self._readers.popitem(last=False)
        reader.reads += 1
        if row.state is State.DONE and not reader.is_done:
            reader.is_done = True
            lag = max(0.0, time.time() - (row.ended or 0.0))  # the clock may be that of another machine
            self._tell(lambda observer: observer.handed(row, lag, reader.reads))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                what(observer)
            except Exception:  # whatever it is, a picture is not lost for it
                log.exception("an observer failed")
