"""Fixtures of the fault suite: servers that can be broken, and the proxy in front of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import Face
from tests.faults.counting_server import CountingBackend
from tests.faults.process import ServerProcess
from tests.faults.proxy import Proxy
from tests.foreign import Foreign, jpeg
from yandexart_grpc.server import embedded

Connect = Callable[..., Face]
PICTURE = jpeg()


@pytest.fixture
def connect(connect: Connect) -> Connect:
    """Makes clients of one kind, as `tests.conftest` does, whose waits end where something goes wrong."""
    return lambda **settings: connect(**{"timeout": 30} | settings)


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def proxied(life: ExitStack) -> Callable[[str], Proxy]:
    """Puts a proxy in front of an endpoint."""
    return lambda endpoint: life.enter_context(Proxy(endpoint.removeprefix("http://")))


@pytest.fixture
def serve(life: ExitStack) -> Callable[..., Foreign]:
    """Makes servers that are not ours, which answer with `PICTURE` where nothing else is said."""

    def make(**script: Any) -> Foreign:
        made = Foreign(**{"image": PICTURE} | script)
        life.callback(made.close)
        return made

    return make


class Local(NamedTuple):
    """Our server in this process."""

    endpoint: str
    ledger: Path


@pytest.fixture
def local(life: ExitStack, tmp_path: Path) -> Callable[..., Local]:
    """Starts our server in this process, with a ledger; it takes so many seconds for a picture."""

    def make(*, duration: float = 0.0) -> Local:
        ledger = tmp_path / "ledger"
        running = life.enter_context(embedded(CountingBackend(ledger, charges=True, duration=duration)))
        return Local(running.endpoint, ledger)

    return make


@pytest.fixture
def start(life: ExitStack, tmp_path: Path) -> Callable[..., ServerProcess]:
    """Starts our server in a process of its own, with a ledger."""
    return lambda *options: life.enter_context(ServerProcess(tmp_path / "ledger", *options))
