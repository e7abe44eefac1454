"""A store that many servers share. PostgreSQL keeps the operations, procrastinate's jobs beside them, and carries the news.

One transaction keeps an operation and its job, so that there is never one without the other. Pictures are `bytea` in the row,
and as messages of gRPC they are in memory as a whole anyway.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
import sqlalchemy as sql
from procrastinate import SyncPsycopgConnector
from procrastinate.schema import SchemaManager
from sqlalchemy import Connection
from sqlalchemy.engine import URL

log = logging.getLogger("yandexart_grpc.server")

QUEUE, TASK = "yandexart", "yandexart.picture"
"""Where procrastinate keeps our jobs, and what they are called there."""
CHANNEL = "yandexart_done"
"""On which it is told that an operation is done."""
SCHEMA_LOCK, RESCUE_LOCK = 0x79616772, 0x79616773
"""Numbers of locks that exclude other servers: while the schema is changed, and while stalled jobs are looked for."""
RESUBSCRIBE = 1.0
"""Seconds until the next attempt to listen."""
WATCHED = {
    "connect_timeout": 5,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "yandexart",
    "options": "-c idle_in_transaction_session_timeout=10s -c tcp_keepalives_idle=3 -c tcp_keepalives_interval=2"
    " -c tcp_keepalives_count=3",
}
"""A database that vanishes from the network is noticed within ten seconds; and so is a server, whose locks others wait for."""


_MIGRATED = sql.Table("jobs_migrated", sql.MetaData(), sql.Column("name", sql.String(255), primary_key=True))
"""The last change of procrastinate's own schema that was made here."""


class Postgres:
    """PostgreSQL, in a few connections: each does at a time what one disk takes at a time."""

    lanes = 4
    unheard = 3.0

    def __init__(self, place: URL) -> None:
        self.engine = sql.create_engine(
            place, pool_size=self.lanes, max_overflow=0, pool_pre_ping=True, connect_args=WATCHED, hide_parameters=True
        )
        self._jobs = procrastinate.App(connector=SyncPsycopgConnector())
        self._parameters = parameters(place)

    def prepare(self, connection: Connection) -> None:
        """Keep other servers from changing the schema until the end of the transaction, and bring that of the jobs up to date."""
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        _MIGRATED.create(connection, checkfirst=True)
        last = connection.scalar(sql.select(_MIGRATED.c.name))
        known = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"), key=lambda file: file.name)
        todo: list[str] = [SchemaManager.get_schema()]
        if last is not None:
            todo = [file.read_text() for file in known if file.name > last]
        elif sql.inspect(connection).has_table("procrastinate_jobs"):
            todo = []  # those of another program, which keeps them up to date
        for script in todo:
            _driver(connection).execute(script)
        if last is None or last < known[-1].name:
            connection.execute(_MIGRATED.delete())
            connection.execute(_MIGRATED.insert().values(name=known[-1].name))

    def enqueue(self, connection: Connection, operation_id: str, rank: int) -> None:
        """Keep a job for the operation, in the same transaction."""
        deferrer = self._jobs.configure_task(TASK, queue=QUEUE, priority=-rank, connection=_driver(connection))
        deferrer.defer(operation_id=operation_id)

    def announce(self, connection: Connection, operation_id: str) -> None:
        """Tell all servers that the operation is done, once the transaction is committed."""
        connection.execute(sql.select(sql.func.pg_notify(CHANNEL, operation_id)))

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """Tell the operations that are announced; None where some may have been missed."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(autocommit=True, **self._parameters) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    heard(None)
                    async for news in connection.notifies():
                        heard(news.payload)
            except psycopg.Error as error:
                log.warning("the store is not heard: %s", error)
                await asyncio.sleep(RESUBSCRIBE)


@contextmanager
def opened(place: URL) -> Iterator[Postgres]:
    """The database at that place."""
    yield Postgres(place.set(drivername="postgresql+psycopg"))


def parameters(place: URL) -> dict[str, Any]:
    """What a connection of our own is made with."""
    place = place.set(drivername="postgresql+psycopg")
    return {**WATCHED, **place.get_dialect()().create_connect_args(place)[1]}


def _driver(connection: Connection) -> Any:
    """The connection of psycopg behind ours."""
    return connection.connection.driver_connection
