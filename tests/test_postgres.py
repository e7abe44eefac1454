"""Many servers on one PostgreSQL: it is a real one, started by the fixture."""

import asyncio

import pytest

from tests.postgres import Postgres
from yandexart_grpc.server.store import open_store


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A database that is not in use yet."""
    return postgres.database()


async def test_ten_may_start_at_once(url: str) -> None:
    """All of them find the same schema, and one of them has made it."""

    async def name() -> str:
        async with open_store(url) as store:
            return store.id

    assert len(set(await asyncio.gather(*(name() for _ in range(10))))) == 1
