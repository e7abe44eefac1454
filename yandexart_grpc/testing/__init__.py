"""A server that does what a test tells it, with its clients, in a time of its own. Needs `yandexart-grpc[server]`.

pytest has it as the fixtures of `yandexart_grpc.testing_fixtures`; `scripted()` is the same without pytest.
"""

from yandexart_grpc.testing.clock import Clock
from yandexart_grpc.testing.ledger import Counts, Ledger
from yandexart_grpc.testing.script import Faults
from yandexart_grpc.testing.server import ScriptedServer, scripted

__all__ = ["Clock", "Counts", "Faults", "Ledger", "ScriptedServer", "scripted"]
