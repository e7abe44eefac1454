"""Where operations are kept: one schema and one set of queries. `operations` is the only caller, and the only one that knows
what the states mean. What differs from one database to another stands in `sqlite` and `postgres`.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import sqlalchemy as sql
from sqlalchemy import Column, Connection, Engine, MetaData, Table, UniqueConstraint
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import allowance
from yandexart_grpc.server.commits import Commits, StoreFailure, committing
from yandexart_grpc.stubs import ImageGenerationRequest, ImageGenerationResponse, Status

__all__ = ["MEMORY", "Row", "State", "Store", "StoreFailure", "is_shared", "left_of", "open_store", "place_of"]

MEMORY = "sqlite://"
"""A store that lives as long as the process."""


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
    rank: int = 0
    """Who has the lower one goes first. A caller's orders have one after another, so that none is behind all of a burst."""
    warnings: tuple[str, ...] = ()
    """What was asked for and is not in the picture, a line each."""
    outcome: ImageGenerationResponse | Status | None = None
    """The picture or the error, once the state is DONE."""


class Database(Protocol):
    """What a store needs of a database beside SQL that all of them understand."""

    @property
    def engine(self) -> Engine:
        """Makes connections."""

    @property
    def lanes(self) -> int:
        """How many transactions it does at a time."""

    @property
    def unheard(self) -> float | None:
        """Seconds after which to look for what `listen` may have missed; None where it misses nothing."""

    def prepare(self, connection: Connection) -> None:
        """Get ready for a change of the schema, in its transaction."""

    def enqueue(self, connection: Connection, operation_id: str, rank: int) -> None:
        """Keep the operation's job, in the transaction that keeps the operation."""

    def announce(self, connection: Connection, operation_id: str) -> None:
        """Tell every server that the operation is done, once the transaction is committed."""

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """Tell each operation that is announced, until cancelled; None where some may have been missed."""


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
    Column("rank", sql.Integer, nullable=False, server_default="0"),
    Column("error", sql.LargeBinary),
    Column("response", sql.LargeBinary),
    UniqueConstraint("caller", "key"),
)
_IS_WAITING = _OPERATIONS.c.state == sql.literal_column(str(int(State.ACCEPTED)))
_LINES = (
    sql.Index("waiting", _OPERATIONS.c.rank, sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING),
    sql.Index(
        "waiting_of_caller", _OPERATIONS.c.caller, _OPERATIONS.c.rank, sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING
    ),
)


def _rank(connection: Connection) -> None:
    """Add what the first version of the schema had not."""
    allowance.create(connection)
    if "rank" not in {column["name"] for column in sql.inspect(connection).get_columns(_OPERATIONS.name)}:
        connection.execute(sql.text("ALTER TABLE operations ADD COLUMN rank INTEGER DEFAULT 0 NOT NULL"))
    for line in _LINES:
        line.create(connection, checkfirst=True)


_STEPS = (_METADATA.create_all, _rank)
"""What brings a store from one version of the schema to the next; a new one has version 0."""


class Store:
    """Operations in a database. Make it with `open_store`.

    Every method raises `StoreFailure` where the database cannot be read or written.
    """

    def __init__(self, database: Database, commits: Commits, store_id: str) -> None:
        self.id = store_id
        """Names the store, which remembers idempotency keys."""
        self.unheard = database.unheard
        """Seconds after which to look again at what was not announced; None where that cannot be."""
        self.listen = database.listen
        self._database = database
        self._do = commits.do

    async def accept(self, row: Row) -> Row:
        """Keep a new operation and return it; or return the one that the caller already gave this key."""

        def work(connection: Connection) -> Row:
            insert = allowance.INSERTS[connection.dialect.name](_OPERATIONS)
            add = (
                insert.values(_values(row) | {"rank": _next_rank(row.caller)})
                .on_conflict_do_nothing()
                .returning(_OPERATIONS.c.rank)
            )
            if (rank := connection.scalar(add)) is None:
                connection.execute(_expired(row.created))  # it may be one that was to be forgotten
                if (rank := connection.scalar(add)) is None:
                    return _row(connection.execute(sql.select(_OPERATIONS).where(_named(row.caller, row.key))).one())
            self._database.enqueue(connection, row.id, rank)
            return replace(row, rank=rank)

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

        def work(connection: Connection) -> bool:
            if not connection.execute(change).rowcount:
                # A connection may be lost after a commit, and before it is told: then this is the second attempt.
                return _first(connection, _OPERATIONS.c.id == row.id) == row
            if row.state is State.DONE:
                self._database.announce(connection, row.id)
            return True

        return await self._do(work)

    async def unfinished(self) -> list[Row]:
        """All operations that are not done, oldest first."""
        query = sql.select(_OPERATIONS).where(_OPERATIONS.c.state < State.DONE).order_by(_OPERATIONS.c.created)
        return await self._do(lambda connection: [_row(found) for found in connection.execute(query)])

    async def take(self, folder: str, limits: allowance.Limits) -> allowance.Taken:
        """Take one of the pictures that the folder may buy."""
        return await self._do(lambda connection: allowance.take(connection, folder, limits))

    async def purge(self, now: float) -> int:
        """Forget what expired before `now`, and return how many operations that were."""
        return await self._do(lambda connection: connection.execute(_expired(now)).rowcount)


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """The store at a URL: `sqlite:///path`, `sqlite://` in memory, or `postgresql://user@host/database`.

    Raises `ConfigurationError` when there can be none, when another server has a file, or when a newer version wrote it.
    """
    place = place_of(url)
    async with AsyncExitStack() as life:
        database: Database = life.enter_context(_module(place).opened(place))
        threads = life.enter_context(ThreadPoolExecutor(database.lanes, "yandexart-store"))
        life.callback(threads.submit, database.engine.dispose)  # by the thread that opened the file
        store_id = await asyncio.get_running_loop().run_in_executor(threads, _migrate, database, shown(url))
        yield Store(database, await life.enter_async_context(committing(database.engine, threads, database.lanes)), store_id)


def left_of(url: str) -> list[allowance.Left]:
    """What is left of the quotas in the store at a URL, whoever serves it. Raises `ConfigurationError`."""
    place = place_of(url)
    if place.drivername == "sqlite" and not (place.database and Path(place.database).is_file()):
        raise ConfigurationError(f"store: {url!r} is no file")
    engine = sql.create_engine(place.set(drivername="postgresql+psycopg") if is_shared(url) else place)
    try:
        with engine.begin() as connection:
            return allowance.left(connection)
    except DBAPIError as error:
        raise ConfigurationError(f"store: {shown(url)!r} cannot be read: {error.orig}") from error
    except ImportError as error:
        raise _missing(error) from error
    finally:
        engine.dispose()


def is_shared(url: str) -> bool:
    """Whether many servers may use the store at a URL at the same time."""
    return url.startswith("postgresql:")


def shown(url: str) -> str:
    """A URL without what nobody should read in it: all that may be a password, also where it is written wrongly."""
    return url if url.startswith("sqlite:") else re.sub("//.*@", "//***@", url.partition("?")[0])


def place_of(url: str) -> URL:
    """Where a store is. Raises `ConfigurationError`."""
    try:
        place = make_url(url)
    except (ArgumentError, ValueError):  # the second is for a port that is no number
        place = URL.create("")
    is_file = place.drivername == "sqlite" and not place.host and not place.query
    is_database = is_shared(url) and place.database and "@" not in place.database  # which is a piece of a password
    if not is_file and not is_database:
        kinds = f"sqlite:///path, {MEMORY} nor postgresql://user@host/database"
        raise ConfigurationError(f"store: {shown(url)!r} is neither {kinds}")
    return place


def _module(place: URL) -> ModuleType:
    """What knows the database at that place, loaded when it is needed."""
    try:
        if place.drivername == "postgresql":
            from yandexart_grpc.server import postgres

            return postgres
        from yandexart_grpc.server import sqlite
    except ImportError as error:
        raise _missing(error) from error
    return sqlite


def _missing(error: ImportError) -> ConfigurationError:
    return ConfigurationError(f"store: PostgreSQL needs more packages: pip install 'yandexart-grpc[postgres]' ({error})")


def _migrate(database: Database, url: str) -> str:
    """Bring the schema up to date, and return the id of the store."""
    try:
        with database.engine.begin() as connection:
            database.prepare(connection)
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
    except DBAPIError as error:
        raise ConfigurationError(f"store: {url!r} cannot be used: {error.orig}") from error


def _next_rank(caller: str) -> sql.ScalarSelect[int]:
    """The rank of a caller's next order: behind all of his that wait, and before the next ones of the others."""
    first = sql.select(sql.func.min(_OPERATIONS.c.rank) - 1).where(_IS_WAITING).scalar_subquery()
    mine = sql.select(sql.func.max(_OPERATIONS.c.rank)).where(_IS_WAITING, _OPERATIONS.c.caller == caller).scalar_subquery()
    ahead, behind = sql.func.coalesce(mine, 0), sql.func.coalesce(first, 0)
    return sql.select(sql.case((ahead > behind, ahead), else_=behind) + 1).scalar_subquery()


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
        "rank": row.rank,
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
        rank=found.rank,
        warnings=tuple(found.warnings.splitlines()),
        outcome=outcome,
    )
