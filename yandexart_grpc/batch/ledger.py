"""The ledger of a batch, which knows what was ordered because it is told before anything is sent: what one has to do, and the
one that is a SQLite file. `shared` has that of many batches.

The rollback journal and synchronous=FULL are what survives a power loss (faults.md, row 22); the exclusive lock keeps a second
batch out for as long as this one lives.
"""

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from yandexart_grpc.batch.folder import FolderError
from yandexart_grpc.errors import Billed, ConfigurationError

NAME = "ledger.db"
VERSION = 1


class State(StrEnum):
    """How far a row is."""

    NEW = "new"
    """To be ordered. The ledger keeps no such row."""
    SUBMITTING = "submitting"
    """An order was sent, or is about to be; the answer is not known."""
    SUBMITTED = "submitted"
    """The operation has an id."""
    DONE = "done"
    """The image is a file."""
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The image may have been bought, and no id is known that would bring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the ledger knows of a row. The fields are the columns of its table."""

    key: str
    prompt: str
    seed: int
    state: State = State.NEW
    attempt: int = 1
    """Grows when the user asks to buy again, and with it the idempotency key changes."""
    scope: str | None = None
    """Within which the server said that it honours idempotency keys; None where it said nothing."""
    endpoint: str | None = None
    operation_id: str | None = None
    file: str | None = None
    sha256: str | None = None
    """Of the file."""
    error: str | None = None
    seconds: float | None = None
    """From the order to the image, where one run has seen both."""
    billed: Billed | None = None


class Books(Protocol):
    """A ledger as the work needs it. What a batch has taken is its own until it is released, or until the batch is gone.

    Every method raises `FolderError` when the ledger cannot be read or written.
    """

    @property
    def batch_id(self) -> str:
        """The same for all that write into this ledger."""

    def records(self) -> dict[str, Record]:
        """Every row that it knows, by key."""

    def take(self, key: str) -> bool:
        """Whether the row may be worked on: nobody else does."""

    def find(self, key: str) -> Record | None:
        """What is known of a row that was taken."""

    def write(self, record: Record) -> None:
        """Keep what is known of a row now; it is on the disk when this returns."""

    def forget(self, key: str) -> None:
        """Undo what was written about a row that nothing was ordered for."""

    def release(self, key: str) -> None:
        """Let others work on the row."""


COLUMNS = [field.name for field in fields(Record)]
_STATE = COLUMNS.index("state")
_SCHEMA = f"""
    CREATE TABLE batch (id TEXT NOT NULL);
    CREATE TABLE rows (key TEXT PRIMARY KEY, {", ".join(COLUMNS[1:])});
    PRAGMA user_version = {VERSION};
"""


def look(path: Path) -> dict[str, Record]:
    """What the ledger in a file knows of its rows, by key; nothing is changed.

    Raises `ConfigurationError` when a batch has it open, and when it is none.
    """
    with _translated(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=0, uri=True)) as connection:
        connection.execute("PRAGMA query_only = ON")
        return _records(connection)


def record_of(values: Sequence[Any]) -> Record:
    """The record whose columns have these values."""
    return Record(**dict(zip(COLUMNS, values, strict=True)) | {"state": State(values[_STATE])})


class Ledger:
    """An open ledger, which nobody else can open meanwhile."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger of the folder, or begin one.

        Raises `ConfigurationError` when another batch has it open, or when it is none that can be read, and `FolderError`
        when it cannot be written.
        """
        self._path = folder / NAME
        with self._translated():
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        try:
            with self._translated():
                self.batch_id = self._begin()
        except BaseException:
            self._connection.close()
            raise

    def records(self) -> dict[str, Record]:
        """Every row that it knows, by key."""
        with self._translated():
            return _records(self._connection)

    def take(self, key: str) -> bool:
        """They are all ours already."""
        return True

    def find(self, key: str) -> Record | None:
        """What is known of a row."""
        with self._translated():
            found = self._connection.execute(f"SELECT {', '.join(COLUMNS)} FROM rows WHERE key = ?", (key,)).fetchone()
        return record_of(found) if found else None

    def write(self, record: Record) -> None:
        """Keep what is known of a row now; it is on the disk when this returns. Raises `FolderError`."""
        marks = ", ".join("?" * len(COLUMNS))
        with self._translated():
            self._connection.execute(f"INSERT OR REPLACE INTO rows ({', '.join(COLUMNS)}) VALUES ({marks})", astuple(record))

    def forget(self, key: str) -> None:
        """Undo what was written about a row that nothing was ordered for. Raises `FolderError`."""
        with self._translated():
            self._connection.execute("DELETE FROM rows WHERE key = ?", (key,))

    def release(self, key: str) -> None:
        """Nobody waits for it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._connection.close()

    def _begin(self) -> str:
        """Lock the ledger, make its tables where there are none, and return the id of the batch."""
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "synchronous = FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("BEGIN EXCLUSIVE")  # this mode keeps the lock from now on
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise ConfigurationError(f"{self._path}: its version is {version}, and the newest that is known here is {VERSION}")
        if version == 0:
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
            self._connection.execute("INSERT INTO batch VALUES (?)", (secrets.token_hex(8),))
        self._connection.execute("COMMIT")
        (batch_id,) = self._connection.execute("SELECT id FROM batch").fetchone()
        return str(batch_id)

    def _translated(self) -> AbstractContextManager[None]:
        return _translated(self._path)


def _records(connection: sqlite3.Connection) -> dict[str, Record]:
    found = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM rows ORDER BY rowid")
    return {values[0]: record_of(values) for values in found}


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise ConfigurationError(f"{path.parent}: another batch is at work in this folder") from error
        raise FolderError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"{path}: not the ledger of a batch: {error}") from error
