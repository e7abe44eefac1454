"""Where operations are kept: one set of queries, on the tables of `schema`. `operations` is the only caller, and the only one
that knows what the states mean. What differs from one database to another stands in `sqlite` and `postgres`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Protocol

import sqlalchemy as sql
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from yandexart_grpc._otel import span
from yandexart_grpc.address import shown
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.server import allowance
from yandexart_grpc.server.allowance import Left
from yandexart_grpc.server.commits import Commits, StoreFailure, committing
from yandexart_grpc.server.listing import Kind, Listed, Selection, listed
from yandexart_grpc.server.schema import (
    IS_WAITING,
    OPERATIONS,
    PROMPTS,
    THUMBNAILS,
    Row,
    State,
    Thumbnail,
    migrate,
    require_current,
    row_of,
    values,
    words_of,
)

__all__ = [
    "MEMORY",
    "Kind",
    "Left",
    "Listed",
    "Row",
    "Selection",
    "State",
    "Store",
    "StoreFailure",
    "Thumbnail",
    "is_shared",
    "kept_in",
    "left_of",
    "listed_in",
    "open_store",
    "place_of",
]

MEMORY = "sqlite://"
"""A store that lives as long as the process."""


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
            found = values(row) | {"rank": _next_rank(row.caller)}
            add = allowance.INSERTS[connection.dialect.name](OPERATIONS).values(found).on_conflict_do_nothing()
            add = add.returning(OPERATIONS.c.rank)
            if (rank := connection.scalar(add)) is None:
                connection.execute(_expired(row.created))  # it may be one that was to be forgotten
                if (rank := connection.scalar(add)) is None:
                    return row_of(connection.execute(sql.select(OPERATIONS).where(_named(row.caller, row.key))).one())
            connection.execute(PROMPTS.insert().values(words_of(row.id, row.request)))
            self._database.enqueue(connection, row.id, rank)
            return replace(row, rank=rank)

        with self._span("INSERT", row):
            return await self._do(work)

    async def find(self, caller: str, key: str) -> Row | None:
        """The operation to which the caller gave this key."""
        return await self._do(lambda connection: _first(connection, _named(caller, key)))

    async def get(self, operation_id: str) -> Row | None:
        """The operation as it is now, if there is one."""
        return await self._do(lambda connection: _first(connection, OPERATIONS.c.id == operation_id))

    async def advance(self, row: Row, *, before: State) -> bool:
        """Replace the operation by `row` if its state is still `before`, and return whether it was."""
        here = (OPERATIONS.c.id == row.id) & (OPERATIONS.c.state == before) & (OPERATIONS.c.state <= row.state)
        change = OPERATIONS.update().where(here).values(values(row))

        def work(connection: Connection) -> bool:
            if not connection.execute(change).rowcount:
                # A connection may be lost after a commit, and before it is told: then this is the second attempt.
                return _first(connection, OPERATIONS.c.id == row.id) == row
            if row.state is State.DONE:
                self._database.announce(connection, row.id)
            return True

        with self._span("UPDATE", row):
            return await self._do(work)

    async def unfinished(self) -> list[Row]:
        """All operations that are not done, oldest first."""
        query = sql.select(OPERATIONS).where(OPERATIONS.c.state < State.DONE).order_by(OPERATIONS.c.created)
        return await self._do(lambda connection: [row_of(found) for found in connection.execute(query)])

    async def listed(self, selection: Selection) -> list[Listed]:
        """The newest operations of a selection, newest first."""
        return await self._do(lambda connection: listed(connection, selection, time.time()))

    async def thumbnail(self, operation_id: str, caller: str) -> Thumbnail | None:
        """The small picture of the caller's operation, if it was kept."""
        query = sql.select(THUMBNAILS.c.width, THUMBNAILS.c.height, THUMBNAILS.c.image).join(OPERATIONS)
        here = query.where(OPERATIONS.c.id == operation_id, OPERATIONS.c.caller == caller, OPERATIONS.c.expires > time.time())

        def work(connection: Connection) -> Thumbnail | None:
            found = connection.execute(here).first()
            return None if found is None else Thumbnail(*found)

        return await self._do(work)

    async def keep_thumbnail(self, operation_id: str, thumbnail: Thumbnail) -> None:
        """Keep the small picture of an operation as long as that."""

        def work(connection: Connection) -> None:
            kept = {"operation": operation_id, "width": thumbnail.width, "height": thumbnail.height, "image": thumbnail.image}
            connection.execute(allowance.INSERTS[connection.dialect.name](THUMBNAILS).values(kept).on_conflict_do_nothing())

        await self._do(work)

    async def take(self, folder: str, limits: allowance.Quota) -> allowance.Taken:
        """Take one of the pictures that the folder may buy."""
        return await self._do(lambda connection: allowance.take(connection, folder, limits))

    async def reserve(self, folder: str, limits: allowance.Quota) -> float:
        """Give the folder's next read its time, and return how many seconds that is away."""
        return await self._do(lambda connection: allowance.reserve(connection, folder, limits))

    async def left(self) -> list[Left]:
        """What is left of the quotas of each folder that has bought something."""
        return await self._do(allowance.left)

    async def purge(self, now: float) -> int:
        """Forget what expired before `now`, and return how many operations that were."""
        return await self._do(lambda connection: connection.execute(_expired(now)).rowcount)

    def _span(self, statement: str, row: Row) -> AbstractContextManager[None]:
        """What is traced of a change: it lasts until that is committed."""
        known = {"db.collection.name": OPERATIONS.name, "db.operation.name": statement, "yandexart.operation.id": row.id}
        return span("store", {"db.system.name": self._database.engine.dialect.name, **known}, kind="CLIENT")


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """The store at a URL: `sqlite:///path`, `sqlite://` in memory, or `postgresql://user@host/database`.

    Raises `ConfigurationError` when there can be none, when another server has a file, or when a newer version wrote it.
    """
    place = place_of(url)
    async with AsyncExitStack() as life:
        database: Database = life.enter_context(_module(place).opened(place))
        life.callback(database.engine.dispose)  # also of connections that are in use until the threads have ended
        threads = life.enter_context(ThreadPoolExecutor(database.lanes, "yandexart-store"))
        life.callback(threads.submit, database.engine.dispose)  # by the thread that opened the file
        store_id = await asyncio.get_running_loop().run_in_executor(threads, _migrated, database, shown(url))
        yield Store(database, await life.enter_async_context(committing(database.engine, threads, database.lanes)), store_id)


def left_of(url: str) -> list[Left]:
    """What is left of the quotas in the store at a URL, whoever serves it. Raises `ConfigurationError`."""
    with _reading(url) as connection:
        return allowance.left(connection)


def listed_in(url: str, selection: Selection) -> list[Listed]:
    """The newest operations of a selection in the store at a URL, whoever serves it. Raises `ConfigurationError`."""
    with _reading(url) as connection:
        return listed(connection, selection, time.time())


def kept_in(url: str, ids: Iterable[str]) -> Iterator[Row]:
    """These operations of the store at a URL with their pictures, one at a time. Raises `ConfigurationError`."""
    with _reading(url) as connection:
        for operation_id in ids:
            if row := _first(connection, OPERATIONS.c.id == operation_id):
                yield row


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    """A connection that changes nothing, beside the servers that use the store."""
    place = place_of(url)
    if place.drivername == "sqlite" and not (place.database and Path(place.database).is_file()):
        raise ConfigurationError(f"store: {url!r} is no file")
    try:
        with ExitStack() as life:
            engine = sql.create_engine(place.set(drivername="postgresql+psycopg") if is_shared(url) else place)
            life.callback(engine.dispose)
            connection = life.enter_context(engine.connect()).execution_options(postgresql_readonly=True)
            if not is_shared(url):
                connection.exec_driver_sql("PRAGMA query_only = ON")
            require_current(connection, shown(url))
            yield connection
    except DBAPIError as error:
        raise ConfigurationError(f"store: {shown(url)!r} cannot be read: {error.orig}") from error
    except ImportError as error:
        raise _missing(error) from error


def is_shared(url: str) -> bool:
    """Whether many servers may use the store at a URL at the same time."""
    return url.startswith("postgresql:")


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


def _migrated(database: Database, url: str) -> str:
    """The id of the store, once its schema is up to date."""
    try:
        with database.engine.begin() as connection:
            database.prepare(connection)
            return migrate(connection, url)
    except DBAPIError as error:
        raise ConfigurationError(f"store: {url!r} cannot be used: {error.orig}") from error


def _next_rank(caller: str) -> sql.ScalarSelect[int]:
    """The rank of a caller's next order: behind all of his that wait, and before the next ones of the others."""
    first = sql.select(sql.func.min(OPERATIONS.c.rank) - 1).where(IS_WAITING).scalar_subquery()
    mine = sql.select(sql.func.max(OPERATIONS.c.rank)).where(IS_WAITING, OPERATIONS.c.caller == caller).scalar_subquery()
    ahead, behind = sql.func.coalesce(mine, 0), sql.func.coalesce(first, 0)
    return sql.select(sql.case((ahead > behind, ahead), else_=behind) + 1).scalar_subquery()


def _named(caller: str, key: str | None) -> sql.ColumnElement[bool]:
    return (OPERATIONS.c.caller == caller) & (OPERATIONS.c.key == key)


def _expired(now: float) -> sql.Delete:
    return OPERATIONS.delete().where(OPERATIONS.c.expires <= now)


def _first(connection: Connection, where: sql.ColumnElement[bool]) -> Row | None:
    found = connection.execute(sql.select(OPERATIONS).where(where)).first()
    return None if found is None else row_of(found)
