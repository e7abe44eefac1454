"""A store in a file, or in memory. It is one connection's: a second server on it is refused."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from filelock import FileLock, Timeout
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.pool import StaticPool

from yandexart_grpc.errors import ConfigurationError

log = logging.getLogger("yandexart_grpc.server")


class File:
    """SQLite, in one thread: its writers would wait for each other. Nobody else changes it, so there is nothing to hear."""

    lanes = 1
    unheard = None

    def __init__(self, place: URL) -> None:
        self.engine = sql.create_engine(place, poolclass=StaticPool, hide_parameters=True)  # prompts are among them
        sql.event.listen(self.engine, "connect", _connected)
        sql.event.listen(self.engine, "begin", _begun)

    def prepare(self, connection: Connection) -> None:
        """Nothing: the file is locked."""

    def enqueue(self, connection: Connection, operation_id: str, rank: int) -> None:
        """Nothing: what is not done is what has to be done."""

    def announce(self, connection: Connection, operation_id: str) -> None:
        """Nothing: nobody else would hear it."""

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """Nothing is ever heard."""


@contextmanager
def opened(place: URL) -> Iterator[File]:
    """The file at that place, which is made where there is none. Raises `ConfigurationError`."""
    with ExitStack() as life:
        if place.database:
            _lock(Path(place.database), life)
        yield File(place)


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
    for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begun(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
