"""The face of a scripted server: the real one of this package, embedded, whose backend and wire follow a script."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from yandexart_grpc.aio import AsyncYandexArt
from yandexart_grpc.client import YandexArt
from yandexart_grpc.server import embedded
from yandexart_grpc.settings import TIMEOUT, Settings
from yandexart_grpc.testing import clients
from yandexart_grpc.testing.backend import Courses, ScriptedBackend
from yandexart_grpc.testing.clock import Clock
from yandexart_grpc.testing.ledger import Ledger
from yandexart_grpc.testing.script import Script
from yandexart_grpc.testing.wire import Wire

FOLDER = "testing"
KEY = "AQVN-testing"


class ScriptedServer(Script):
    """A server that does what a test tells it. Make it with `scripted`, or take the fixture `yandexart_server`."""

    endpoint: str
    """Its address, as a client takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        """The time in which pictures are made and the clients of this server wait."""
        self.ledger = Ledger()
        """What reached the server."""
        self._clients = ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a client that is told nothing else comes here, in this process or another."""
        return {"YANDEXART_ENDPOINT": self.endpoint, "YC_FOLDER_ID": FOLDER, "YC_API_KEY": KEY}

    def client(self, *, timeout: float | None = TIMEOUT) -> YandexArt:
        """One more blocking client on the clock, which is closed with the server. `timeout` is that of `YandexArt`."""
        return self._clients.enter_context(clients.blocking(self._settings(timeout), self.clock))

    def async_client(self, *, timeout: float | None = TIMEOUT) -> AsyncYandexArt:
        """The same for asyncio, in the event loop that uses it first."""
        client = clients.awaited(self._settings(timeout), self.clock)
        self._clients.callback(clients.close, client)
        return client

    def _settings(self, timeout: float | None) -> Settings:
        return clients.settings_for(self.endpoint, FOLDER, KEY, timeout)


@contextmanager
def scripted() -> Iterator[ScriptedServer]:
    """A scripted server in this process, until the `with` block ends."""
    server = ScriptedServer()
    courses = Courses(server, server.clock, server.ledger)
    wire = Wire(server, courses, server.clock, server.ledger)
    with embedded(ScriptedBackend(courses, server.clock, server), grace=0.0, interceptors=[wire]) as running, server._clients:
        server.endpoint = running.endpoint
        yield server
