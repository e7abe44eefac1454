"""A ledger in PostgreSQL, which many batches share on many machines.

To take a row is to have an advisory lock in the session of one connection, by which everything is written: PostgreSQL lets go of
it when that connection is gone, and not before. So a row is taken over only from a batch that can write nothing any more, and
therefore orders nothing more. What it had ordered is judged by `settle`, as after any crash.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from types import TracebackType
from typing import Any, Self

import psycopg

from yandexart_grpc.address import shown
from yandexart_grpc.batch.folder import FolderError
from yandexart_grpc.batch.ledger import COLUMNS, Record, record_of
from yandexart_grpc.errors import ConfigurationError

VERSION = 1
SCHEMA_LOCK = 0x79616774
"""The number of the lock that excludes other batches while the tables are made."""
WATCHED: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "yandexart batch",
}
"""A database that vanishes from the network is noticed within ten seconds."""
SESSION = """
    SELECT set_config(name, value, false)
    FROM (VALUES
        ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'),
        ('idle_session_timeout', '0'), ('synchronous_commit', 'on')
    ) AS wanted (name, value)
    WHERE name <> 'synchronous_commit' OR current_setting(name) = 'off'
"""
"""A batch that vanishes is noticed within half a minute, one that waits is not thrown out, and what is written is on the disk."""
SCHEMA = """
    CREATE TABLE IF NOT EXISTS yandexart_batch (id text NOT NULL, version integer NOT NULL);
    CREATE TABLE IF NOT EXISTS yandexart_rows (
        key text PRIMARY KEY, prompt text NOT NULL, seed bigint NOT NULL, state text NOT NULL, attempt integer NOT NULL,
        scope text, endpoint text, operation_id text, file text, sha256 text, error text, seconds double precision, billed text
    );
"""
_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^][@:/?#,]*)(:\d*)?"
_PLACE = re.compile(rf"postgres(ql)?://([^@/?#]*@)?{_HOST}(,{_HOST})*/[^@/?#]+(\?[^@]*)?")
"""Stricter than PostgreSQL, so that no piece of a password is taken for another part of the URL, and shown."""
_NAMES = ", ".join(COLUMNS)
_FIND = f"SELECT {_NAMES} FROM yandexart_rows WHERE %s::text[] IS NULL OR key = ANY(%s)".encode()
_WRITE = f"""
    INSERT INTO yandexart_rows ({_NAMES}) VALUES ({", ".join(["%s"] * len(COLUMNS))})
    ON CONFLICT (key) DO UPDATE SET {", ".join(f"{name} = EXCLUDED.{name}" for name in COLUMNS)}
    WHERE yandexart_rows.state <> 'done' OR EXCLUDED.state = 'done'
""".encode()
"""What is done stays done, also where it could not be fetched: somebody has the image."""


class SharedLedger:
    """An open ledger, of which these rows are wanted. Its methods raise `FolderError` once the connection is lost."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        """Connect, and make the tables where there are none.

        Raises `ConfigurationError` when that cannot be done, or when a newer version made the tables.
        """
        self._keys = list(keys)
        self._shown = shown(url)
        self._connection = _connected(url)
        try:
            with _configured(url):
                self.batch_id = self._begin()
        except BaseException:
            self._connection.close()
            raise

    def records(self) -> dict[str, Record]:
        """What is known of the rows, by key."""
        with self._translated():
            return _found(self._connection, self._keys)

    def take(self, key: str) -> bool:
        """Whether the row is ours from now on: no other batch has it."""
        with self._translated():
            (taken,) = self._one("SELECT pg_try_advisory_lock(%s)", _number(key))
        return bool(taken)

    def find(self, key: str) -> Record | None:
        """What is known of a row now. It has to be a query of its own: one that took the row would see what was before."""
        with self._translated():
            return _found(self._connection, [key]).get(key)

    def write(self, record: Record) -> None:
        """Keep what is known of a row now; it is on the disk when this returns."""
        values = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in astuple(record)]
        with self._translated():
            self._connection.execute(_WRITE, values)

    def forget(self, key: str) -> None:
        """Undo what was written about a row that nothing was ordered for."""
        with self._translated():
            self._connection.execute("DELETE FROM yandexart_rows WHERE key = %s", (key,))

    def release(self, key: str) -> None:
        """Let other batches take the row."""
        with self._translated():
            self._connection.execute("SELECT pg_advisory_unlock(%s)", (_number(key),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._connection.close()

    def _begin(self) -> str:
        """Make the tables where there are none, and return the id of the ledger."""
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
            self._connection.execute(SCHEMA)
            self._connection.execute(
                "INSERT INTO yandexart_batch SELECT %s, %s WHERE NOT EXISTS (SELECT FROM yandexart_batch)",
                (secrets.token_hex(8), VERSION),
            )
            batch_id, version = self._one("SELECT id, version FROM yandexart_batch")
        if version > VERSION:
            raise ConfigurationError(
                f"ledger: the version of {self._shown} is {version}, and the newest that is known here is {VERSION}"
            )
        self._connection.execute(SESSION)
        return str(batch_id)

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        (row,) = self._connection.execute(query.encode(), values)
        return row

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise FolderError(f"ledger: {self._shown}: {_said(error)}") from error


def look(url: str, keys: Sequence[str] | None = None) -> dict[str, Record]:
    """What a ledger knows of these rows, or of all; nothing is made there. Raises `ConfigurationError`."""
    with _connected(url) as connection, _configured(url):
        try:
            return _found(connection, None if keys is None else list(keys))
        except psycopg.errors.UndefinedTable:
            return {}


def _connected(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    if not _PLACE.fullmatch(url):
        kind = "postgresql://user@host/database, in which special characters of a password are written as %40"
        raise ConfigurationError(f"ledger: this is not {kind}")  # it may be any piece of a password, and is not shown
    with _configured(url):
        return psycopg.connect(url, autocommit=True, **WATCHED)


@contextmanager
def _configured(url: str) -> Iterator[None]:
    """Tell what cannot be done before the work begins."""
    try:
        yield
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:  # the URL cannot be understood, and the error quotes it
            raise ConfigurationError(f"ledger: {shown(url)} has an unknown parameter or a wrong %-sign") from None
        raise ConfigurationError(f"ledger: {shown(url)} cannot be used: {_said(error)}") from error
    except psycopg.Error as error:
        raise ConfigurationError(f"ledger: {shown(url)} cannot be used: {_said(error)}") from error


def _found(connection: psycopg.Connection[tuple[Any, ...]], keys: list[str] | None) -> dict[str, Record]:
    return {values[0]: record_of(values) for values in connection.execute(_FIND, (keys, keys))}


def _number(key: str) -> int:
    """The number of a row's lock. Two rows with the same one would only wait for each other."""
    return int.from_bytes(bytes.fromhex(key[:16]), signed=True)


def _said(error: psycopg.Error) -> str:
    return " ".join(str(error).split())
