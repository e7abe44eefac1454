"""Where operations are kept: one schema and one set of queries. `operations` is the only caller, and the only one that knows
what the states mean.

SQLite syncs every commit to the disk, so what waits for one is committed together. It is one connection's file: a second server
on it is refused.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from filelock import FileLock, Timeout
from sqlalchemy import Column, Connection, MetaData, Table, UniqueConstraint
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.stubs import ImageGenerationRequest, ImageGenerationResponse, Status

log = logging.getLogger("yandexart_grpc.server")

MEMORY = "sqlite://"
"""A store that lives as long as the process."""

Answer = TypeVar("Answer")
Work = Callable[[Connection], Answer]
"""Some queries of one transaction. It may be run again after a failure."""


class State(IntEnum):
    """How far an operation is; it only ever grows."""

    ACCEPTED = 0
    RUNNING = 1
    DONE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation. Times are seconds since the epoch."""

    id: str
    caller: str
    key: str | None
    """What the caller calls it: unique for each caller."""
    request: ImageRequest
    state: State
    created: float
    started: float | None = None
    """When the backend was called last."""
    ended: float | None = None
    expires: float | None = None
    """When it is forgotten; known once it is done."""
    attempts: int = 0
    """How often the backend was called."""
    charged: bool = False
    """Whether the backend that was called takes money."""
    upstream: str = ""
    """Under which id the backend can find it again."""
    warnings: tuple[str, ...] = ()
    """What was asked for and is not in the picture, a line each."""
    outcome: ImageGenerationResponse | Status | None = None
    """The picture or the error, once the state is DONE."""


class StoreFailure(Exception):
    """The store could not do what was asked, and has changed nothing. The message says why."""


_METADATA = MetaData()
_STORE = Table(
    "store",
    _METADATA,
    Column("id", sql.String(32), primary_key=True),
    Column("version", sql.Integer, nullable=False),
)
_OPERATIONS = Table(
    "operations",
    _METADATA,
    Column("id", sql.String(50), primary_key=True),
    Column("caller", sql.String(255), nullable=False),
    Column("key", sql.String(255)),
    Column("state", sql.SmallInteger, nullable=False, index=True),
    Column("created", sql.Double, nullable=False),
    Column("started", sql.Double),
    Column("ended", sql.Double),
    Column("expires", sql.Double, index=True),
    Column("attempts", sql.Integer, nullable=False),
    Column("charged", sql.Boolean, nullable=False),
    Column("upstream", sql.String(255), nullable=False),
    Column("warnings", sql.Text, nullable=False),
    Column("request", sql.LargeBinary, nullable=False),
    Column("error", sql.LargeBinary),
    Column("response", sql.LargeBinary),
    UniqueConstraint("caller", "key"),
)
_STEPS = (_METADATA.create_all,)
"""What brings a store from one version of the schema to the next; a new one has version 0."""


class Store:
    """Operations in a database. Make it with `open_store`.

    Every method raises `StoreFailure` where the database cannot be read or written.
    """

    def __init__(self, connection: Connection, thread: ThreadPoolExecutor, store_id: str) -> None:
        self.id = store_id
        """Names the store, which remembers idempotency keys."""
        self._connection = connection
        self._thread = thread
        self._waiting: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._arrived = asyncio.Event()

    async def accept(self, row: Row) -> Row:
        """Keep a new operation and return it; or return the one that the caller already gave this key."""

        add = insert(_OPERATIONS).values(_values(row)).on_conflict_do_nothing()

        def work(connection: Connection) -> Row:
            if connection.execute(add).rowcount:
                return row
            connection.execute(_expired(row.created))  # it may be one that was to be forgotten
            if connection.execute(add).rowcount:
                return row
            return _row(connection.execute(sql.select(_OPERATIONS).where(_named(row.caller, row.key))).one())

        return await self._do(work)

    async def find(self, caller: str, key: str) -> Row | None:
        """The operation to which the caller gave this key."""
        return await self._do(lambda connection: _first(connection, _named(caller, key)))

    async def get(self, operation_id: str) -> Row | None:
        """The operation as it is now, if there is one."""
        return await self._do(lambda connection: _first(connection, _OPERATIONS.c.id == operation_id))

    async def advance(self, row: Row, *, before: State) -> bool:
        """Replace the operation by `row` if its state is still `before`, and return whether it was."""
        here = (_OPERATIONS.c.id == row.id) & (_OPERATIONS.c.state == before) & (_OPERATIONS.c.state <= row.state)
        change = _OPERATIONS.update().where(here).values(_values(row))
        return await self._do(lambda connection: connection.execute(change).rowcount == 1)

    async def unfinished(self) -> list[Row]:
        """All operations that are not done, oldest first."""
        query = sql.select(_OPERATIONS).where(_OPERATIONS.c.state < State.DONE).order_by(_OPERATIONS.c.created)
        return await self._do(lambda connection: [_row(found) for found in connection.execute(query)])

    async def purge(self, now: float) -> int:
        """Forget what expired before `now`, and return how many operations that were."""
        return await self._do(lambda connection: connection.execute(_expired(now)).rowcount)

    async def _do(self, work: Work[Answer]) -> Answer:
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        self._arrived.set()
        return await done

    async def serve(self) -> None:
        """Do what arrives, and commit together what has arrived together, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            waiting, self._waiting = self._waiting, []
            if not await self._commit(waiting):
                for one in waiting:  # one that cannot be done does not take the others along
                    await self._commit([one], last=True)

    async def _commit(self, waiting: Sequence[tuple[Work[Any], asyncio.Future[Any]]], *, last: bool = False) -> bool:
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, [one for one, _ in waiting])
        except Exception as error:  # whatever it is, somebody waits to hear of it
            log.debug("the store failed", exc_info=True)
            for _, done in waiting if last else ():
                _settle(done.set_exception, done, StoreFailure(str(error.orig)) if isinstance(error, DBAPIError) else error)
            return False
        for (_, done), answer in zip(waiting, answers, strict=True):
            _settle(done.set_result, done, answer)
        return True

    def close(self) -> None:
        """Close the database, in the thread that opened it."""
        self._connection.close()
        self._connection.engine.dispose()

    def _transact(self, works: Sequence[Work[Any]]) -> list[Any]:
        with self._connection.begin():
            return [work(self._connection) for work in works]


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """The store at a URL: `sqlite:///path`, or `sqlite://` in memory.

    Raises `ConfigurationError` when there can be none, when another server has it, or when a newer version wrote it.
    """
    place = _place(url)
    with ExitStack() as life:
        if place.database:
            _lock(Path(place.database), life)
        thread = life.enter_context(ThreadPoolExecutor(1, "yandexart-store"))
        store = await asyncio.get_running_loop().run_in_executor(thread, _open, place, thread)
        life.callback(thread.submit, store.close)
        serving = asyncio.create_task(store.serve())
        try:
            yield store
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def _open(place: URL, thread: ThreadPoolExecutor) -> Store:
    engine = sql.create_engine(place, poolclass=StaticPool, hide_parameters=True)  # prompts are among them
    sql.event.listen(engine, "connect", _connected)
    sql.event.listen(engine, "begin", _begun)
    try:
        connection = engine.connect()
        return Store(connection, thread, _migrate(connection, str(place)))
    except DBAPIError as error:
        raise ConfigurationError(f"store: {str(place)!r} cannot be used: {error.orig}") from error


def _place(url: str) -> URL:
    try:
        place = make_url(url)
    except ArgumentError:
        place = URL.create("")
    if place.drivername != "sqlite" or place.host or place.query:
        raise ConfigurationError(f"store: {url!r} is neither sqlite:///path nor {MEMORY}")
    return place


def _lock(path: Path, life: ExitStack) -> None:
    """Hold a lock beside the file: others may read and copy the file itself, but one alone serves it."""
    lock = FileLock(f"{path}.lock", timeout=0)
    life.callback(lock.release)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigurationError(f"store: {str(path)!r} is in use by another server") from None
    except OSError as error:
        if not path.exists():
            raise ConfigurationError(f"store: {str(path)!r} cannot be made: {error.strerror}") from error
        log.warning("the store %s cannot be locked (%s): it can be read alone", path, error.strerror)


def _connected(connection: Any, _: object) -> None:
    """Settings of a new connection. A journal that is cut, and synced, is what survives a loss of power; what is
    deleted is overwritten.
    """
    connection.isolation_level = None  # transactions begin where we say so, and not where the driver thinks
    cursor = connection.cursor()
    for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL", "secure_delete = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begun(connection: sql.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _migrate(connection: Connection, url: str) -> str:
    """Bring the schema up to date, and return the id of the store."""
    with connection.begin():
        is_new = not sql.inspect(connection).has_table(_STORE.name)
        store_id, version = (secrets.token_hex(16), 0) if is_new else connection.execute(sql.select(_STORE)).one()
        if version > len(_STEPS):
            raise ConfigurationError(f"store: {url!r} has schema {version}, and this version knows up to {len(_STEPS)}")
        for step in _STEPS[version:]:
            step(connection)
        if version < len(_STEPS):
            connection.execute(_STORE.delete())
            connection.execute(_STORE.insert().values(id=store_id, version=len(_STEPS)))
    return str(store_id)


def _named(caller: str, key: str | None) -> sql.ColumnElement[bool]:
    return (_OPERATIONS.c.caller == caller) & (_OPERATIONS.c.key == key)


def _expired(now: float) -> sql.Delete:
    return _OPERATIONS.delete().where(_OPERATIONS.c.expires <= now)


def _first(connection: Connection, where: sql.ColumnElement[bool]) -> Row | None:
    found = connection.execute(sql.select(_OPERATIONS).where(where)).first()
    return None if found is None else _row(found)


def _values(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "caller": row.caller,
        "key": row.key,
        "state": row.state,
        "created": row.created,
        "started": row.started,
        "ended": row.ended,
        "expires": row.expires,
        "attempts": row.attempts,
        "charged": row.charged,
        "upstream": row.upstream,
        "warnings": "\n".join(row.warnings),
        "request": row.request.to_proto().SerializeToString(),
        "error": row.outcome.SerializeToString() if isinstance(row.outcome, Status) else None,
        "response": row.outcome.SerializeToString() if isinstance(row.outcome, ImageGenerationResponse) else None,
    }


def _row(found: sql.Row[Any]) -> Row:
    outcome: ImageGenerationResponse | Status | None = None
    if found.error is not None:
        outcome = Status.FromString(found.error)
    elif found.response is not None:
        outcome = ImageGenerationResponse.FromString(found.response)
    return Row(
        id=found.id,
        caller=found.caller,
        key=found.key,
        request=ImageRequest.from_proto(ImageGenerationRequest.FromString(found.request)),
        state=State(found.state),
        created=found.created,
        started=found.started,
        ended=found.ended,
        expires=found.expires,
        attempts=found.attempts,
        charged=found.charged,
        upstream=found.upstream,
        warnings=tuple(found.warnings.splitlines()),
        outcome=outcome,
    )


def _settle(settle: Callable[[Any], None], done: asyncio.Future[Any], answer: object) -> None:
    """Tell the answer to whoever still waits for it."""
    if not done.done():
        settle(answer)
