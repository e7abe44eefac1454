"""Servers in processes of their own: `yandexart serve`, and the upstreams that are modules of the tests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).parent.parent


class Started(NamedTuple):
    """A server that can be reached."""

    endpoint: str
    process: subprocess.Popen[str]


@contextmanager
def program(*options: str | Path, listen: str = "127.0.0.1:0", stderr: IO[str] | None = None) -> Iterator[Started]:
    """`yandexart serve` with these options."""
    command = [Path(sys.executable).with_name("yandexart"), "serve", "--listen", listen, *options]
    with _started(*command, stderr=stderr) as started:
        yield started


@contextmanager
def module(name: str, *options: str | Path) -> Iterator[Started]:
    """`python -m` of a module with these options."""
    with _started(sys.executable, "-m", name, *options) as started:
        yield started


@contextmanager
def _started(*command: str | Path, stderr: IO[str] | None = None) -> Iterator[Started]:
    """Start it, wait for the line that it prints once it can be reached and that ends with its address; kill it in the end."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            assert said, "it ended before it could be reached"
            yield Started(said.split()[-1], process)
        finally:
            process.kill()
