"""The life of an operation: accepted, running, done. The only place that changes it; doors translate what is said here.

State only moves forward: each change names the state it expects, and a change that comes too late is dropped. Nothing is told
before it is kept: an operation is in the store before its id is answered, and it is `running` there before the backend is called.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, TypeVar

from grpc import StatusCode

from yandexart_grpc._otel import about, span, tell, traceparent
from yandexart_grpc.errors import InvalidRequest, NotFound, PermissionDenied, QuotaExceeded, Unavailable, YandexArtError
from yandexart_grpc.failures import class_of, with_bill
from yandexart_grpc.request import ImageRequest, problems_of_key
from yandexart_grpc.server.answers import read, status, to_proto, to_status, unknown_outcome
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.bells import Bells
from yandexart_grpc.server.callers import ANYBODY, Caller
from yandexart_grpc.server.events import Audience, Observer
from yandexart_grpc.server.gallery import Gallery
from yandexart_grpc.server.limits import Limits, Owned, Seats
from yandexart_grpc.server.quotas import Quotas
from yandexart_grpc.server.store import Row, State, Store, StoreFailure
from yandexart_grpc.server.workers import Workers
from yandexart_grpc.stubs import ImageGenerationRequest, ImageGenerationResponse, Operation, Status

log = logging.getLogger("yandexart_grpc.server")

Unknown = Literal["fail", "resend"]
"""What becomes of an operation that may have been bought before a restart: it ends with an error, or it is ordered again."""

ATTEMPTS = 5
"""How often a backend is called for one operation before it is given up: what ends the process may do so each time."""
LONGEST_PAUSE = 10.0
"""Seconds after which a caller who was turned away is told to come back, at the most."""
STORE_PAUSE = 1.0
"""Seconds until the store is tried again after it failed."""
LONGEST_LOOK = 60.0
"""Seconds after which whoever follows an operation looks again, although nothing was heard of it."""
TIDY = 60.0
"""Seconds from one removal of expired operations to the next, at the most."""

_ID_LETTERS = "abcdefghijklmnopqrstuv0123456789"

Answer = TypeVar("Answer")


class Operations:
    """Accepts requests, has them worked on, and tells what became of them."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        backend: Backend,
        *,
        keep: float,
        queue: int,
        unknown: Unknown = "fail",
        limits: Limits = Limits(),  # noqa: B008  # it cannot change
        quotas: Quotas | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """A finished operation is kept for `keep` seconds; at most `queue` wait for their turn. `observers` hear of all of it."""
        self._quotas = quotas
        self._store = store
        self._workers = workers
        self._backend = backend
        self._keep = keep
        self._queue = queue
        self._unknown = unknown
        self._limits = limits
        self.gallery = Gallery(store, self._get)
        self._audience = Audience([*observers, self.gallery.live, self.gallery.figures])
        self._seats = Seats(limits.held_reads, limits.held_reads_per_caller)
        self._unfinished = Owned()
        """The operations in flight, by caller."""
        self._bells = Bells[Row]()
        self._sketches = Bells[bytes]()
        self._authorizations: dict[str, str] = {}
        """What the callers of unfinished operations sent: it is never written down."""
        self._arriving = 0
        self._unsaved: dict[str, Row] = {}
        """What is done, and could not be written down yet."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._usual = 1.0
        """Seconds that a picture took lately."""

    @property
    def scope(self) -> str:
        """The store in which idempotency keys are remembered."""
        return self._store.id

    @property
    def charges(self) -> bool:
        """Whether a picture costs money."""
        return self._backend.charges

    @property
    def stopping(self) -> bool:
        """Whether nobody is held any more, because the server is about to end."""
        return self._bells.silent

    async def start(self) -> None:
        """Go on with what an earlier process left, listen to others, and begin to forget what expires."""
        self._workers.open(self._take_up)
        for entry in () if self._workers.shared else await self._store.unfinished():
            self._unfinished.add(entry.id, entry.caller)
            if verdict := self._verdict(entry):
                self._spawn(self._finish(entry, verdict))
            else:
                log.info("operation %s taken up again", entry.id)
                self._begin(entry)
        self._spawn(self._store.listen(self._heard))
        self._spawn(self._tidy())

    async def accept(
        self,
        message: ImageGenerationRequest,
        *,
        key: str | None = None,
        caller: Caller = ANYBODY,
        authorization: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Operation:
        """Take a request, and return its operation once that is kept; the same key by the same caller is the same operation.

        `authorization` is what the caller sent under that name, for a backend that goes on in his name; a key of this server
        goes no further. `headers` is all that he sent, which may tell of a trace.

        Raises `InvalidRequest` and `PermissionDenied` in the words of the real service (contract/service.md, "Errors seen");
        `InvalidRequest` as well when the key stands for another request, `QuotaExceeded` when too many wait, too many of the
        caller are in flight or the store is full, and `Unavailable` when the server is about to stop.
        """
        request = ImageRequest.from_proto(message)
        if not request.has_folder:
            raise PermissionDenied(f"Access to model {request.model_uri} denied")
        if caller.folder not in (None, request.folder):
            raise InvalidRequest(
                f"Specified folder ID '{request.folder}' does not match with service account folder ID '{caller.folder}'"
            )
        found = list(request.problems())
        if key is not None:
            found += problems_of_key(key)
        if found:
            raise InvalidRequest("; ".join(found))
        entry = Row(id=_new_id(), caller=caller.name, key=key, request=request, state=State.ACCEPTED, created=time.time())
        with span("accept", about(request.model_uri), kind="SERVER", headers=headers):
            entry = replace(entry, trace=traceparent())
            # What has begun is brought to its end, whoever hangs up meanwhile.
            kept = await asyncio.shield(self._spawn(self._accept(entry, "" if caller.name else authorization)))
            tell({"yandexart.operation.id": kept.id})
        return to_proto(kept)

    def may_hold(self, caller: Caller) -> bool:
        """Whether there is a place for one more read of the caller to be held in."""
        return self._seats.free(caller.name)

    def held(self, caller: Caller) -> AbstractContextManager[None]:
        """Take that place until the `with` block ends."""
        return self._seats.taken(caller.name)

    async def look(self, operation_id: str, hold: float = 0.0, *, caller: Caller = ANYBODY) -> Operation:
        """The operation as it is now; or once it is done, if that is within `hold` seconds and the caller may be held.

        Raises `NotFound`, also when the operation is that of another caller.
        """
        held = hold > 0 and self.may_hold(caller)
        if held:
            with self._seats.taken(caller.name):
                entry = await self._held(operation_id, caller, time.monotonic() + hold)
        else:
            entry = await self._get(operation_id, caller)
        self._audience.answered(entry, held=held)
        return to_proto(entry)

    async def follow(self, operation_id: str, *, caller: Caller = ANYBODY) -> AsyncIterator[bytes | Operation]:
        """The sketches of the picture as they are made, the newest where some are missed, and then the finished operation.

        The operation comes unfinished when the server stops before. Raises `NotFound`, also when it is that of another caller.
        """
        while True:
            with self._sketches.listen(operation_id) as bell:
                entry = await self._get(operation_id, caller)
                if entry.state is State.DONE or self._sketches.silent:
                    break
                sketch = await bell.wait(LONGEST_LOOK)
            if sketch is not None:
                yield sketch
        self._audience.answered(entry, held=True)
        yield to_proto(entry)

    async def cancel(self, operation_id: str, *, caller: Caller = ANYBODY) -> Operation:
        """Stop the operation where that saves something, and return it as it is then.

        Raises `NotFound`, also when it is that of another caller.

        It is too late when the operation is done, and when a backend that charges has been called: that picture is paid for.
        """
        return to_proto(await asyncio.shield(self._spawn(self._cancel(operation_id, caller))))

    async def drain(self, grace: float) -> None:
        """Let the work that has begun go on for `grace` seconds, leave the rest to the next process, and hold nobody any more."""
        self.gallery.live.close()
        await self._workers.drain(grace)
        self._bells.silence()
        self._sketches.silence()

    async def close(self) -> None:
        """Stop everything that is still going on."""
        await self.drain(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._backend.close()

    async def _take_up(self, operation_id: str) -> None:
        """Do what is left to do for an operation whose turn it is, here or after another worker is gone."""
        entry = await self._store.get(operation_id)
        if entry is None or entry.state is State.DONE:
            return
        if verdict := self._verdict(entry):
            await self._finish(entry, verdict)
        else:
            await self._run(entry)

    async def _held(self, operation_id: str, caller: Caller, end: float) -> Row:
        """The operation when it is done, or as it is at the end."""
        while True:
            with self._bells.listen(operation_id) as bell:
                entry = await self._get(operation_id, caller)
                left = end - time.monotonic()
                if entry.state is State.DONE or left <= 0 or self._bells.silent:
                    return entry
                news = await bell.wait(min(left, self._store.unheard or left))
            if news is not None:
                return news

    def _heard(self, operation_id: str | None) -> None:
        """Some server ended the operation: tell those who wait here, and stop working on it. None: look at all of them."""
        if operation_id is None:
            self._unfinished.clear()  # nobody knows how many of them ended meanwhile
            self._bells.wake()
            return
        self._unfinished.drop(operation_id)
        self._unsaved.pop(operation_id, None)
        self._bells.ring(operation_id, None)
        self._sketches.ring(operation_id, None)
        self._workers.stop(operation_id)

    def _verdict(self, entry: Row) -> Status | None:
        """How an operation ends on which somebody worked who is gone; None where it is to be worked on."""
        if entry.state is State.RUNNING and not self._may_run_again(entry):
            return unknown_outcome(entry)
        if entry.attempts >= ATTEMPTS:
            return status(StatusCode.INTERNAL, f"Given up after {entry.attempts} attempts")
        return None

    def _may_run_again(self, entry: Row) -> bool:
        """Whether to call the backend for an operation for which it was called before."""
        resumable = self._backend.resumable and entry.upstream
        return bool(resumable or not entry.charged or self._unknown == "resend")

    async def _accept(self, entry: Row, authorization: str) -> Row:
        if self._workers.waiting + self._arriving >= self._queue and not await self._is_known(entry):
            raise QuotaExceeded(
                f"{self._queue} operations wait for their turn already, and nothing was ordered; try again later",
                retry_after=self._usual_pause(),
            )
        if self._unfinished.of(entry.caller) >= self._limits.in_flight_per_caller and not await self._is_known(entry):
            raise QuotaExceeded(
                f"{self._limits.in_flight_per_caller} operations of this caller are in flight already, and nothing was ordered;"
                " try again later",
                retry_after=self._usual_pause(),
            )
        self._arriving += 1
        self._unfinished.add(entry.id, entry.caller)
        kept = None
        try:
            kept = await self._store.accept(entry)
        except StoreFailure as error:
            if error.lost:
                raise Unavailable(f"the store went away, and whether the operation is kept is not known: {error}") from error
            raise QuotaExceeded(
                f"the store cannot keep the operation, and nothing was ordered: {error}", retry_after=LONGEST_PAUSE
            ) from error
        finally:
            self._arriving -= 1
            if kept is None or kept.id != entry.id:
                self._unfinished.drop(entry.id)
        if kept.id == entry.id:
            self._audience.accepted(kept)
            if not self._workers.shared:  # it may be another machine's turn, and it is sent nowhere
                self._authorizations[entry.id] = authorization
            self._begin(kept)
        elif kept.request != entry.request:
            raise InvalidRequest(
                f"idempotency_key: {entry.key!r} stands for another request, operation {kept.id}; take another key",
                code=StatusCode.ALREADY_EXISTS,
            )
        return kept

    def _usual_pause(self) -> float:
        """Seconds after which a place is likely to be free again."""
        return min(max(1.0, self._usual), LONGEST_PAUSE)

    async def _is_known(self, entry: Row) -> bool:
        return entry.key is not None and await read(self._store.find(entry.caller, entry.key)) is not None

    async def _cancel(self, operation_id: str, caller: Caller) -> Row:
        while True:  # it may go on to the next state in between
            entry = await self._get(operation_id, caller)
            if entry.state is State.DONE or (entry.state is State.RUNNING and entry.charged):
                return entry
            cancelled = _done(entry, status(StatusCode.CANCELLED, "The operation was cancelled"), self._keep)
            if await read(self._store.advance(cancelled, before=entry.state)):
                self._workers.stop(operation_id)
                self._tell(cancelled)
                return cancelled

    def _begin(self, entry: Row) -> None:
        self._workers.start(entry.id, lambda: self._run(entry), entry.rank)

    async def _run(self, entry: Row) -> None:
        known = {**about(entry.request.model_uri), "yandexart.operation.id": entry.id}
        with span("work", known, headers={"traceparent": entry.trace}):
            if isinstance(outcome := await self._work_on(entry), Status):
                tell({}, error=class_of(outcome).__name__)

    async def _work_on(self, entry: Row) -> ImageGenerationResponse | Status | None:
        """What came of it; None where that is too late."""
        work = _Work(self, entry)
        if self._quotas and self._backend.charges and not entry.upstream:
            try:
                await self._quotas.buy(entry.request.folder, entry.caller)
            except QuotaExceeded as error:
                refusal = with_bill(to_status(error), "no")
                await self._finish(entry, refusal)
                return refusal
        if not await work.began(charges=self._backend.charges):
            return None
        self._audience.began(work.entry)
        start = time.monotonic()
        outcome = await self._outcome(work)
        self._usual += (time.monotonic() - start - self._usual) / 10
        await self._finish(work.entry, outcome)
        return outcome

    async def _outcome(self, work: "_Work") -> ImageGenerationResponse | Status:
        try:
            return await self._backend.generate(work.entry.request, work)
        except YandexArtError as error:
            return with_bill(to_status(error), error.billed)
        except Exception:
            log.exception("operation %s: the backend failed", work.entry.id)
            return with_bill(status(StatusCode.INTERNAL, "Internal error"), "unknown" if self._backend.charges else "no")

    async def _finish(self, entry: Row, outcome: ImageGenerationResponse | Status) -> None:
        """End the operation. What cannot be written down is handed out all the same, and written as soon as it can be."""
        done = _done(entry, outcome, self._keep)
        try:
            if not await self._store.advance(done, before=entry.state):
                return
        except StoreFailure as error:
            log.error("operation %s is done and cannot be saved: %s", entry.id, error)
            self._unsaved[entry.id] = done
            self._tell(done)
            await self._insist(done, before=entry.state)
            self._unsaved.pop(entry.id, None)
        else:
            self._tell(done)

    def _tell(self, done: Row) -> None:
        self._audience.ended(done)
        self._authorizations.pop(done.id, None)
        self._unfinished.drop(done.id)
        self._bells.ring(done.id, done)
        self._sketches.ring(done.id, None)

    async def _insist(self, entry: Row, *, before: State) -> bool:
        """`Store.advance`, tried until the store can."""
        while True:
            try:
                return await self._store.advance(entry, before=before)
            except StoreFailure as error:
                log.warning("operation %s cannot be saved: %s", entry.id, error)
                await asyncio.sleep(STORE_PAUSE)

    async def _get(self, operation_id: str, caller: Caller) -> Row:
        entry = self._unsaved.get(operation_id) or await read(self._store.get(operation_id))
        if entry is None or entry.caller != caller.name or (entry.expires is not None and entry.expires <= time.time()):
            raise NotFound(f"Operation {operation_id!r} not found")
        return entry

    async def _tidy(self) -> None:
        while True:
            try:
                if forgotten := await self._store.purge(time.time()):
                    log.info("%d operations forgotten", forgotten)
            except StoreFailure as error:
                log.warning("expired operations cannot be removed: %s", error)
            await asyncio.sleep(min(TIDY, self._keep))

    def _spawn(self, work: Coroutine[Any, Any, Answer]) -> "asyncio.Task[Answer]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Work:
    """One operation in the hands of a worker: what the backend is given as its `Upstream`."""

    def __init__(self, operations: Operations, entry: Row) -> None:
        self._operations = operations
        self.entry = entry

    @property
    def operation_id(self) -> str:
        return self.entry.id

    @property
    def id(self) -> str:
        return self.entry.upstream

    async def began(self, *, charges: bool) -> bool:
        """Write down that the backend is about to be called; False when that is too late."""
        before = self.entry.state
        self.entry = replace(
            self.entry, state=State.RUNNING, started=time.time(), attempts=self.entry.attempts + 1, charged=charges
        )
        return await self._operations._insist(self.entry, before=before)

    async def note(self, upstream_id: str) -> None:
        self.entry = replace(self.entry, upstream=upstream_id)
        await self._operations._insist(self.entry, before=State.RUNNING)

    async def may_read(self) -> None:
        if quotas := self._operations._quotas:
            await quotas.read(self.entry.request.folder, self.entry.caller)

    @property
    def authorization(self) -> str:
        return self._operations._authorizations.get(self.entry.id, "")

    def warn(self, text: str) -> None:
        self.entry = replace(self.entry, warnings=(*self.entry.warnings, text))

    @property
    def followed(self) -> bool:
        return self.entry.id in self._operations._sketches

    def sketch(self, image: bytes) -> None:
        self._operations._sketches.ring(self.entry.id, image)


def _done(entry: Row, outcome: ImageGenerationResponse | Status, keep: float) -> Row:
    now = time.time()
    return replace(entry, state=State.DONE, ended=now, expires=now + keep, outcome=outcome)


def _new_id() -> str:
    return "fbv" + "".join(secrets.choice(_ID_LETTERS) for _ in range(17))
