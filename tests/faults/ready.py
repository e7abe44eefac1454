"""What the product can do already: tests that need more are skipped, aloud."""

import inspect

import pytest

from yandexart_grpc import YandexArt
from yandexart_grpc.cli.app import yandexart

KEYS = "idempotency_key" in inspect.signature(YandexArt.submit).parameters
BATCH = "batch" in yandexart.commands

needs_keys = pytest.mark.skipif(not KEYS, reason="the client sends no idempotency keys yet")
needs_batch = pytest.mark.skipif(not BATCH, reason="there is no command `yandexart batch` yet")
