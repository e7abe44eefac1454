"""The fixtures of pytest, which loads this module in every run of whoever has us installed: so it loads nothing of ours.

A fixture loads what it needs when it is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from yandexart_grpc.aio import AsyncYandexArt
    from yandexart_grpc.client import YandexArt
    from yandexart_grpc.testing import ScriptedServer


@pytest.fixture
def yandexart_server(request: pytest.FixtureRequest) -> "Iterator[ScriptedServer]":
    """A server that does what the test tells it; what it is told and never asked for fails the test."""
    try:
        from yandexart_grpc.testing import scripted
    except ImportError as error:
        pytest.fail(f"yandexart_server needs the server: pip install 'yandexart-grpc[server]' ({error})", pytrace=False)
    failed = request.session.testsfailed
    with scripted() as server:
        yield server
        if request.session.testsfailed == failed and (unused := server.unused()):
            pytest.fail(f"scripted and never asked for: {', '.join(unused)}", pytrace=False)


@pytest.fixture
def yandexart_client(yandexart_server: "ScriptedServer") -> "YandexArt":
    """A blocking client of `yandexart_server`, on its clock."""
    return yandexart_server.client()


@pytest.fixture
def async_yandexart_client(yandexart_server: "ScriptedServer", request: pytest.FixtureRequest) -> "AsyncYandexArt":
    """A client for asyncio of `yandexart_server`, on its clock, in whichever event loop the test runs."""
    if "anyio_backend" in request.fixturenames and request.getfixturevalue("anyio_backend_name") != "asyncio":
        pytest.fail("async_yandexart_client needs asyncio: let the fixture anyio_backend return 'asyncio'", pytrace=False)
    return yandexart_server.async_client()
