"""The life of an operation: accepted, running, done. The only place that changes it; doors translate what is said here.

State only moves forward: each change names the state it expects, and a change that comes too late is dropped.
"""

import logging
import secrets
import time
from dataclasses import replace

from grpc import StatusCode

from yandexart_grpc.errors import InvalidRequest, NotFound, PermissionDenied, YandexArtError, row
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.bells import Bells
from yandexart_grpc.server.store import Row, State, Store
from yandexart_grpc.server.workers import TaskWorkers
from yandexart_grpc.stubs import ImageGenerationRequest, ImageGenerationResponse, Operation, Status

log = logging.getLogger("yandexart_grpc.server")

_ID_LETTERS = "abcdefghijklmnopqrstuv0123456789"


class Operations:
    """Accepts requests, has them worked on, and tells what became of them."""

    def __init__(self, store: Store, workers: TaskWorkers, backend: Backend) -> None:
        self._store = store
        self._workers = workers
        self._backend = backend
        self._bells = Bells()

    async def accept(self, message: ImageGenerationRequest) -> Operation:
        """Take a request, and return its operation once that is kept.

        Raises `InvalidRequest` and `PermissionDenied` in the words of the real service (contract/service.md, "Errors seen").
        """
        request = ImageRequest.from_proto(message)
        if not request.has_folder:
            raise PermissionDenied(f"Access to model {request.model_uri} denied")
        if found := list(request.problems()):
            raise InvalidRequest("; ".join(found))
        now = time.time()
        entry = Row(id=_new_id(), request=request, state=State.ACCEPTED, created=now, modified=now)
        await self._store.add(entry)
        self._workers.start(entry.id, self._run(entry))
        log.info("operation %s accepted", entry.id)
        return _to_proto(entry)

    async def look(self, operation_id: str, hold: float = 0.0) -> Operation:
        """The operation as it is now; or once it is done, if that is within `hold` seconds. Raises `NotFound`."""
        with self._bells.listen(operation_id) as bell:
            entry = await self._get(operation_id)
            if hold > 0 and entry.state is not State.DONE:
                await bell.wait(hold)
                entry = await self._get(operation_id)
        return _to_proto(entry)

    def release(self) -> None:
        """Let nobody be held any more."""
        self._bells.silence()

    async def cancel(self, operation_id: str) -> Operation:
        """Stop the operation where that saves something, and return it as it is then. Raises `NotFound`.

        It is too late when the operation is done, and when a backend that charges has been called: that picture is paid for.
        """
        entry = await self._get(operation_id)
        stoppable = entry.state is State.ACCEPTED or (entry.state is State.RUNNING and not self._backend.charges)
        if stoppable and await self._finish(entry, _status(StatusCode.CANCELLED, "The operation was cancelled")):
            self._workers.stop(operation_id)
        return await self.look(operation_id)

    async def close(self) -> None:
        """Stop all work."""
        await self._workers.close()
        await self._backend.close()

    async def _run(self, entry: Row) -> None:
        running = replace(entry, state=State.RUNNING, modified=time.time())
        if not await self._store.advance(running, before=entry.state):
            return
        await self._finish(running, await self._outcome(running))

    async def _outcome(self, entry: Row) -> ImageGenerationResponse | Status:
        try:
            return await self._backend.generate(entry.request)
        except YandexArtError as error:
            return to_status(error)
        except Exception:
            log.exception("operation %s: the backend failed", entry.id)
            return _status(StatusCode.INTERNAL, "Internal error")

    async def _finish(self, entry: Row, outcome: ImageGenerationResponse | Status) -> bool:
        done = replace(entry, state=State.DONE, modified=time.time(), outcome=outcome)
        finished = await self._store.advance(done, before=entry.state)
        if finished:
            log.info("operation %s done", entry.id)
            self._bells.ring(entry.id)
        return finished

    async def _get(self, operation_id: str) -> Row:
        entry = await self._store.get(operation_id)
        if entry is None:
            raise NotFound(f"Operation {operation_id!r} not found")
        return entry


def to_status(error: YandexArtError) -> Status:
    """How a door, or the `error` of an operation, says an error: its code, or that of its class, and the words it came with."""
    return _status(error.code or row(type(error)).code, error.details or str(error))


def _status(code: StatusCode, message: str) -> Status:
    return Status(code=code.value[0], message=message)


def _new_id() -> str:
    return "fbv" + "".join(secrets.choice(_ID_LETTERS) for _ in range(17))


def _to_proto(entry: Row) -> Operation:
    operation = Operation(id=entry.id, description="Image generation", done=entry.state is State.DONE)
    operation.created_at.FromNanoseconds(int(entry.created * 1e9))
    operation.modified_at.FromNanoseconds(int(entry.modified * 1e9))
    if isinstance(entry.outcome, Status):
        operation.error.CopyFrom(entry.outcome)
    elif entry.outcome is not None:
        operation.response.Pack(entry.outcome)
    return operation
