"""Row 21 of the catalogue on many machines: servers on one PostgreSQL die at any instant, one is cut off from it, and it is
restarted.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import TypeVar

import grpc
import pytest
from grpc import StatusCode
from sqlalchemy.engine import make_url

from benchmarks.fleet import most_in
from tests.doors import Caller
from tests.faults.counting_server import executions, instants
from tests.faults.process import ServerProcess
from tests.faults.proxy import Proxy
from tests.faults.test_connections import until
from tests.postgres import Postgres
from yandexart_grpc import stubs

REPLICAS, CLIENTS, IN_FLIGHT = 4, 8, 64
AWAY = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED, StatusCode.CANCELLED)
"""How a server, or PostgreSQL behind it, says that it cannot answer now."""
Answer = TypeVar("Answer")
PATIENCE = 120.0
"""Seconds within which everything has to come to its end."""


def proxied(life: ExitStack, url: str) -> tuple[Proxy, str]:
    """A way to a database that can be broken, and its URL there."""
    place = make_url(url)
    proxy = life.enter_context(Proxy(f"{place.query['host']}/.s.PGSQL.5432"))
    return proxy, place.set(host="127.0.0.1", port=int(proxy.endpoint.rpartition(":")[2]), query={}).render_as_string()


class Client:
    """Orders pictures of one server after another, each under a key of its own, until every order has ended."""

    def __init__(self, callers: list[Caller], number: int) -> None:
        self._callers = callers
        self._random = Random(number)
        self.ended: dict[str, stubs.Operation] = {}

    async def order(self, prompt: str) -> None:
        """Order a picture, and ask for it until it has ended."""
        operation_id = await self.insist(lambda caller: caller.submit(prompt, key=prompt))
        while not (operation := await self.insist(lambda caller: caller.get(operation_id, hold=5))).done:
            pass
        self.ended[prompt] = operation

    async def insist(self, call: Callable[[Caller], Awaitable[Answer]]) -> Answer:
        """Call one server or another until there is an answer."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await call(self._random.choice(self._callers))
            except grpc.aio.AioRpcError as error:
                if error.code() not in AWAY or time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)


async def break_things(
    replicas: list[ServerProcess], postgres: Postgres, proxy: Proxy, cut: float, pause: float, over: asyncio.Event
) -> int:
    """Kill a random server again and again, and start it again each time, until the work is over. Meanwhile restart PostgreSQL,
    and, where that is to last for some seconds, cut the first server off from it. Returns how many were killed.
    """
    random, cutting = Random(1), None
    for number in itertools.count():
        await asyncio.sleep(pause)
        if number == 3 and cut:
            cutting = asyncio.create_task(cut_off(proxy, cut))
        if over.is_set() and number > 1 and (not cut or (cutting and cutting.done())):
            return number
        replica = random.choice(replicas[1:] if cutting and not cutting.done() else replicas)
        replica.kill()
        if number == 1:
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(1)
            await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(replica.start)
    raise AssertionError


async def cut_off(proxy: Proxy, seconds: float) -> None:
    """Let nothing through for that long."""
    proxy.set(stalled=True)
    await asyncio.sleep(seconds)
    proxy.set()


@pytest.mark.parametrize(
    ("charges", "orders", "pause", "minute", "cut"),
    [
        (True, 100, 1.0, 9_000, 0.0),
        pytest.param(False, 100, 1.0, 9_000, 0.0, marks=pytest.mark.faults),
        pytest.param(True, 2_000, 5.0, 800, 10.0, marks=pytest.mark.faults),
    ],
)
async def test_servers_may_die_at_any_instant(
    postgres: Postgres, life: ExitStack, tmp_path: Path, charges: bool, orders: int, pause: float, minute: int, cut: float
) -> None:
    """Each order ends, with its picture or as unknown; none that costs money is made twice, no minute has more than the quota,
    and no job is left.
    """
    ledger, url = tmp_path / "ledger", postgres.database()
    options = ["--duration", "0.3", "--concurrency", "8", "--quota", f"minute={minute}"]
    options += ["--charges" if charges else "--no-charges"]
    proxy, through = proxied(life, url)
    stores = [through, *[url] * (REPLICAS - 1)]
    replicas = [life.enter_context(ServerProcess(ledger, "--store", store, *options)) for store in stores]
    callers = [Caller(replica.endpoint) for replica in replicas]
    clients = [Client(callers, number) for number in range(CLIENTS)]

    async def work(number: int) -> None:
        for order in range(number, orders, IN_FLIGHT):
            await clients[number % CLIENTS].order(f"cat-{order}")

    over = asyncio.Event()
    breaking = asyncio.create_task(break_things(replicas, postgres, proxy, cut, pause, over))
    try:
        await asyncio.gather(*(work(number) for number in range(IN_FLIGHT)))
    finally:
        over.set()
        kills = await breaking
    ended = {prompt: operation for client in clients for prompt, operation in client.ended.items()}
    made = {prompt for prompt, operation in ended.items() if operation.HasField("response")}
    unknown = {prompt for prompt, operation in ended.items() if operation.error.code == StatusCode.ABORTED.value[0]}
    assert made | unknown == set(ended) == {f"cat-{order}" for order in range(orders)}
    assert not (unknown and not charges)
    assert len(unknown) <= (kills + 1) * 8
    bought = executions(ledger)
    assert made | unknown >= bought.keys() >= made
    assert not charges or set(bought.values()) == {1}
    assert not charges or most_in(60.0, instants(ledger)) <= minute
    # One that was killed with its operation done leaves a job, which others find.
    await until(lambda: postgres.do("SELECT count(*) FROM procrastinate_jobs", url) == [(0,)], 60.0)
    for caller in callers:
        await caller.close()


@pytest.mark.faults
async def test_a_server_may_be_cut_off_for_ten_seconds(postgres: Postgres, life: ExitStack, tmp_path: Path) -> None:
    """What it was drawing is kept when it is back: it is not taken for dead, and nothing is made twice."""
    ledger, url = tmp_path / "ledger", postgres.database()
    proxy, through = proxied(life, url)
    options = ["--duration", "3", "--charges", "--concurrency", "10"]
    far = life.enter_context(ServerProcess(ledger, "--store", through, *options))
    near = life.enter_context(ServerProcess(ledger, "--store", url, *options))
    caller, other = Caller(far.endpoint), Caller(near.endpoint)
    ids = [await caller.submit(f"cat-{number}") for number in range(20)]
    await asyncio.sleep(1)
    cutting = asyncio.create_task(cut_off(proxy, 10.0))
    during = await other.submit("during")
    await cutting
    after = await Client([caller], 0).insist(lambda caller: caller.submit("after"))
    ended = [await other.get(operation_id, hold=30) for operation_id in (*ids, during, after)]
    assert all(operation.HasField("response") for operation in ended)
    assert set(executions(ledger).values()) == {1}
    assert len(executions(ledger)) == 22
    await caller.close()
    await other.close()
