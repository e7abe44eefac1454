"""Fixtures: an embedded server, and one face for both clients so that a claim about them is written once."""

import asyncio
import inspect
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import chromium, documents
from tests.environments import build
from tests.postgres import Postgres, running
from yandexart_grpc import AsyncOperation, AsyncYandexArt, Operation, YandexArt
from yandexart_grpc.server import Embedded, embedded

# What a test claims does not depend on how busy the machine is.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

# Whatever runs in the background of a shell ignores Ctrl-C, and so would all commands that are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what was not tested where there is no browser."""
    if any(chromium.MISSING in str(skipped.longrepr) for skipped in terminalreporter.stats.get("skipped", ())):
        terminalreporter.section(chromium.MISSING, sep="!", red=True, bold=True)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no credential of the machine reaches a test, and no test the data of its user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in os.environ:
        if name.startswith(("YC_", "YANDEXART_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("YC_METADATA_ADDR", "127.0.0.1:1")
    folders = os.environ["PATH"].split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(folder for folder in folders if not Path(folder, "yc").exists()))


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a command sets up in this process to write its log ends with its test."""
    ours = [logging.getLogger(name) for name in ("yandexart_grpc", "yandexart_grpc.server.operations")]
    levels, handlers = [log.level for log in ours], logging.root.handlers[:]
    yield
    for log, level in zip(ours, levels, strict=True):
        log.setLevel(level)
    logging.root.handlers[:] = handlers


@pytest.fixture(scope="session")
def server() -> Iterator[Embedded]:
    """A server that draws as fast as it can."""
    with embedded(duration="fixed:0") as running:
        yield running


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[documents.World]:
    """Where the examples of the documents are run."""
    with documents.world(tmp_path_factory.mktemp("world")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that lives as long as the tests."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of this checkout."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(built: tuple[Path, Path]) -> Path:
    """The wheel of this checkout."""
    return built[1]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    return f"sqlite:///{tmp_path}/new/store.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of a store of either kind that is not there yet."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("file"))
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.database()


class Face:
    """A client or a handle of either kind, whose methods are awaited; the blocking ones run in a thread."""

    def __init__(self, behind: YandexArt | AsyncYandexArt | Operation | AsyncOperation) -> None:
        self.behind = behind

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.behind, name)
        if not callable(member):
            return member

        async def call(*args: Any, **kwargs: Any) -> Any:
            if inspect.iscoroutinefunction(member):
                result = await member(*args, **kwargs)
            else:
                result = await asyncio.to_thread(member, *args, **kwargs)
            return Face(result) if isinstance(result, Operation | AsyncOperation) else result

        return call


async def collect(face: Face, method: str, *args: Any, into: list[Any] | None = None, **kwargs: Any) -> list[Any]:
    """Everything that an iterator of either client yields; `into` keeps what comes before an error."""
    items = getattr(face.behind, method)(*args, **kwargs)
    into = [] if into is None else into
    if isinstance(face.behind, YandexArt):
        await asyncio.to_thread(into.extend, items)
    else:
        async for item in items:
            into.append(item)
    return into


@pytest.fixture(params=[YandexArt, AsyncYandexArt], ids=["sync", "aio"])
async def connect(request: pytest.FixtureRequest, server: Embedded) -> AsyncIterator[Callable[..., Face]]:
    """Makes clients of one kind, for the embedded server where nothing else is said, and closes them in the end."""
    made: list[Face] = []

    def make(**settings: Any) -> Face:
        settings = {"endpoint": server.endpoint, "folder_id": "folder"} | settings
        made.append(Face(request.param(**settings)))
        return made[-1]

    yield make
    for face in made:
        await face.close()
