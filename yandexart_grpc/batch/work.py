"""Carries a batch out: one thread, a machine for each row in flight, and the ledger told of each step before it is taken."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from yandexart_grpc._step import Answer, Step, Steps, Talk, relayed
from yandexart_grpc._submit import submit
from yandexart_grpc._told import told
from yandexart_grpc._wait import finished, watch
from yandexart_grpc.batch.folder import FolderError, file_name, save
from yandexart_grpc.batch.ledger import Books, Record, State
from yandexart_grpc.batch.manifest import ENDED, Manifest
from yandexart_grpc.batch.rows import Row
from yandexart_grpc.batch.settle import Again, require_here, settle
from yandexart_grpc.client import YandexArt
from yandexart_grpc.errors import (
    ConfigurationError,
    ContentRefused,
    InvalidRequest,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OperationTimeout,
    OutcomeUnknown,
    ProtocolError,
    YandexArtError,
)
from yandexart_grpc.image import Image, outcome
from yandexart_grpc.settings import Timeout
from yandexart_grpc.stubs import ImageGenerationRequest, Operation

if TYPE_CHECKING:
    from yandexart_grpc._crowd import Crowd

OF_ONE_ROW = (InvalidRequest, ContentRefused, OperationFailed, OperationCancelled, NotFound, ProtocolError)
"""What ends one row alone. Of the other errors, those that are no time-out and no lost answer concern all rows."""
LOOK_AGAIN = 0.5
"""Seconds after which rows that others work on are looked at again."""


@dataclass(slots=True, kw_only=True)
class Summary:
    """What has become of the rows so far."""

    rows: int
    done: int = 0
    """Images that are in the folder, or in that of another batch with the same ledger."""
    failed: int = 0
    unknown: int = 0
    """Images that may have been bought, and cannot be fetched."""
    ordered: int = 0
    """Operations that this run submitted."""
    seconds: float = 0.0
    """How long this run took."""
    stopped_by: YandexArtError | KeyboardInterrupt | None = None
    """Why rows were left to the next run: an error that concerns them all, or Ctrl-C."""

    @property
    def unfinished(self) -> int:
        """Rows that the next run goes on with."""
        return self.rows - self.done - self.failed - self.unknown


class _Left(YandexArtError):
    """The row is left to the next run."""


class Work:
    """One run."""

    def __init__(
        self,
        art: YandexArt,
        folder: Path,
        ledger: Books,
        summary: Summary,
        *,
        again: Again,
        fetch: bool,
        timeout: Timeout,
        metadata: bool,
        on_change: Callable[[Summary], object] | None,
    ) -> None:
        self._art = art
        self._pace = art._pace
        self._endpoint = str(art._settings.operation_endpoint)
        self._folder = folder
        self._files = folder if fetch else None  # where files have to be
        self._ledger = ledger
        self._again = again
        self._known = ledger.records()
        self._manifest = Manifest(folder, self._known.values())
        self._summary = summary
        self._timeout = timeout
        self._metadata = metadata
        self._on_change = on_change
        self._start = self._pace.now()
        self._elsewhere = deque[Row]()  # those that others work on
        self._at = dict[str, Record]()  # the rows in flight
        self._born = dict[str, float]()  # when those of them were submitted that this run has submitted
        self._sending = set[str]()  # those whose orders are on their way
        self._interrupted = False

    def run(self, rows: Sequence[Row], in_flight: int) -> None:
        """Do what is missing."""
        waiting = self._begin(rows)
        with self._art._crowd() as crowd, _orderly(partial(self._interrupt, crowd)):
            while True:
                while self._summary.stopped_by is None and len(crowd) < in_flight and waiting:
                    self._take(waiting.popleft(), crowd)
                if self._interrupted and not self._sending:
                    break
                if len(crowd):
                    self._came(*crowd.next())
                elif self._elsewhere and self._summary.stopped_by is None:
                    self._art._naps.nap(LOOK_AGAIN)
                    waiting, self._elsewhere = self._elsewhere, deque()
                else:
                    break

    def _begin(self, rows: Sequence[Row]) -> deque[Row]:
        """Count what rests, and return what is left to do, what is ordered already first."""
        records = self._settled(rows, None)
        if not all(map(self._rests, records)):
            try:
                self._art.warm_up()
            except YandexArtError as error:
                self._stop(error)
            else:
                records = self._settled(rows, self._pace.scope)
                require_here(records, self._endpoint, self._pace.scope)
        for record in filter(self._rests, records):
            self._count(record)
        self._changed()
        todo = [(row, record) for row, record in zip(rows, records, strict=True) if not self._rests(record)]
        return deque(row for row, record in sorted(todo, key=lambda item: item[1].state is State.NEW))

    def _settled(self, rows: Sequence[Row], scope: str | None) -> list[Record]:
        return [settle(row, self._known.get(row.key), self._files, scope, self._again) for row in rows]

    def _take(self, row: Row, crowd: "Crowd[Row | None]") -> None:
        """Begin with a row as it is now, unless others work on it or have ended it."""
        try:
            if not self._ledger.take(row.key):
                self._elsewhere.append(row)
                return
            before, now = self._known.pop(row.key, None), self._ledger.find(row.key)
            if now:
                self._known[row.key] = now
            # What the user asks to buy again is what he could know of when this run began.
            record = settle(row, now, self._files, self._pace.scope, self._again if now == before else Again())
            require_here([record], self._endpoint, self._pace.scope)
            if record.state in ENDED:
                self._end(record)
                self._ledger.release(row.key)
                self._changed()
            else:
                crowd.add(row, self._machine(row, record))
        except (FolderError, ConfigurationError) as error:
            self._stop(error)

    def _rests(self, record: Record) -> bool:
        """Whether it ended in an earlier run, and nothing more is to be done."""
        return record.state in ENDED and record is self._known.get(record.key)

    # ── a row ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _machine(self, row: Row, record: Record) -> Steps:
        self._at[row.key] = record
        deadline = self._art._deadline(self._timeout)
        if record.operation_id and record.state is State.SUBMITTED:
            return told(watch(record.operation_id, self._pace, deadline), self._pace, record.operation_id)
        request = row.request.to_proto()
        return told(self._order(row, request, deadline), self._pace, request)

    def _order(self, row: Row, request: ImageGenerationRequest, deadline: float) -> Steps:
        """Submit, then watch; the ledger is told before the order is sent, and as soon as its operation has an id."""
        key = f"{self._ledger.batch_id}-{row.key[:32]}-{self._at[row.key].attempt}"
        operation = yield from _announced(submit(request, self._pace, deadline, key), partial(self._submitting, row))
        self._submitted(row, operation)
        if finished(operation):
            return operation
        if self._interrupted:
            raise _Left("interrupted")
        return (yield from watch(operation.id, self._pace, deadline, model=request.model_uri, born=self._born[row.key]))

    def _submitting(self, row: Row) -> None:
        if self._summary.stopped_by is not None:
            raise _Left("not ordered")
        record = replace(self._at[row.key], state=State.SUBMITTING, scope=self._pace.scope, endpoint=self._endpoint)
        self._write(replace(record, operation_id=None, file=None, sha256=None, error=None, seconds=None, billed=None))
        self._sending.add(row.key)

    def _submitted(self, row: Row, operation: Operation) -> None:
        self._sending.discard(row.key)
        self._born[row.key] = self._pace.now()
        try:
            self._write(replace(self._at[row.key], state=State.SUBMITTED, operation_id=operation.id, billed="yes"))
        except FolderError as error:
            text = f"{error}; it does not know of operation {operation.id}, which was ordered for line {row.line}"
            raise FolderError(text, operation_id=operation.id, billed="yes") from error
        self._summary.ordered += 1
        self._changed()

    def _came(self, row: Row | None, ended: Operation | YandexArtError) -> None:
        """Take in how a machine ended; one without a row only ends the wait of this thread."""
        if row is None:
            self._changed()
            return
        self._sending.discard(row.key)
        try:
            result = outcome(ended, row.request)
            if isinstance(result, Image):
                self._save(row, result)
            else:
                self._went_wrong(row, result)
            self._ledger.release(row.key)
        except FolderError as error:
            self._stop(error)
        self._born.pop(row.key, None)
        del self._at[row.key]
        self._changed()

    def _save(self, row: Row, image: Image) -> None:
        digest = save(self._folder, row, image, metadata=self._metadata)
        record = self._at[row.key]
        seconds = round(self._pace.now() - self._born[row.key], 3) if row.key in self._born else record.seconds
        self._end(replace(record, state=State.DONE, file=file_name(row), sha256=digest, seconds=seconds))

    def _went_wrong(self, row: Row, error: YandexArtError) -> None:
        record = replace(self._at[row.key], error=f"{type(error).__name__}: {error}", billed=error.billed)
        match error:
            case _Left() | OperationTimeout():
                return
            case OutcomeUnknown() if record.state is State.SUBMITTING and record.scope is not None:
                return  # the next run may send it again: the server knows it by its key
            case OutcomeUnknown():
                self._end(replace(record, state=State.UNKNOWN))
            case _ if isinstance(error, OF_ONE_ROW):
                self._end(replace(record, state=State.FAILED))
            case _:
                self._stop(error)
                if record.state is State.SUBMITTING and error.billed == "no":
                    self._take_back(row)

    def _take_back(self, row: Row) -> None:
        """Nothing was ordered: the ledger says again what it said before."""
        if before := self._known.get(row.key):
            self._ledger.write(before)
        else:
            self._ledger.forget(row.key)

    # ── the books ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, record: Record) -> None:
        self._ledger.write(record)
        self._at[record.key] = record

    def _end(self, record: Record) -> None:
        self._ledger.write(record)
        self._count(record)
        self._manifest.add(record)

    def _count(self, record: Record) -> None:
        setattr(self._summary, record.state, getattr(self._summary, record.state) + 1)  # done, failed and unknown

    def _changed(self) -> None:
        self._summary.seconds = round(self._pace.now() - self._start, 3)
        if self._on_change:
            self._on_change(self._summary)

    def _stop(self, error: YandexArtError) -> None:
        """Order nothing more. The first error is the one that is told, and others only where they name an operation."""
        if self._summary.stopped_by is None:
            self._summary.stopped_by = error
        elif isinstance(error, FolderError) and error.operation_id:
            self._summary.stopped_by.add_note(str(error))

    def _interrupt(self, crowd: "Crowd[Row | None]") -> None:
        """Called by a signal handler: makes `run` look at what it should do now."""
        self._interrupted = True
        self._summary.stopped_by = self._summary.stopped_by or KeyboardInterrupt()
        crowd.end(None, _Left("interrupted"))
        self._art._naps.end()


def _announced(steps: Steps, sending: Callable[[], None]) -> Steps:
    """The same machine, but `sending` is called before its first order. It may wait long until then, and has ordered nothing."""
    sent = False

    def make(step: Step) -> Talk[Answer | None]:
        nonlocal sent
        if isinstance(step.request, ImageGenerationRequest) and not sent:
            sending()
            sent = True
        return (yield step)

    return relayed(steps, make)


@contextmanager
def _orderly(ask: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call `ask`, and the second do what it did before. Only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        ask()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
