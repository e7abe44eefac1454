"""The server: the same contract, served by you. Needs `yandexart-grpc[server]`."""

from yandexart_grpc.server.app import Embedded, embedded, serve
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.settings import ServerSettings

__all__ = ["Backend", "Embedded", "ServerSettings", "embedded", "serve"]
