"""What the product can do already: tests that need more are skipped, aloud."""

import inspect
from dataclasses import fields

import pytest

from yandexart_grpc import YandexArt
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.request import ImageOptions
from yandexart_grpc.server import ServerSettings

STORE = "store" in {field.name for field in fields(ServerSettings)}
KEYS = "idempotency_key" in {*inspect.signature(YandexArt.submit).parameters, *ImageOptions.__annotations__}
BATCH = "batch" in yandexart.commands

needs_store = pytest.mark.skipif(not STORE, reason="the server keeps nothing across its end yet")
needs_keys = pytest.mark.skipif(not KEYS, reason="the client sends no idempotency keys yet")
needs_batch = pytest.mark.skipif(not BATCH, reason="there is no command `yandexart batch` yet")
