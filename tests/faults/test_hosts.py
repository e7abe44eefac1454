"""PostgreSQL, two servers and their caller on hosts of their own, whose links lose packets: no socket is closed, nobody is told.

Root makes the hosts, and without it these tests are skipped. What they made is removed, however they end.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpc import StatusCode
from sqlalchemy.engine import make_url

from tests.doors import Caller, error_of, response_of
from tests.faults.counting_server import executions
from tests.faults.hosts import Hosts, missing
from tests.faults.process import ServerProcess
from tests.faults.test_replicas import Client
from tests.postgres import running
from tests.test_postgres import begun

pytestmark = pytest.mark.faults
Start = Callable[..., ServerProcess]
ORDERS = 60


@pytest.fixture
def hosts(life: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """A host for PostgreSQL and two for servers; this machine is a fourth."""
    if reason := missing():
        pytest.skip(reason)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    return life.enter_context(Hosts("db", "one", "two"))


@pytest.fixture
def start(hosts: Hosts, life: ExitStack, tmp_path: Path) -> Start:
    """Starts a server on a host, with the database on another."""
    address = hosts.address("db")
    url = make_url(life.enter_context(running(hosts.on("db"), address)).database())
    store = url.set(host=address, port=5432, query={}).render_as_string()

    def make(host: str, *options: str) -> ServerProcess:
        given = ["--store", store, "--allow-anonymous", *options]
        server = ServerProcess(tmp_path / "ledger", *given, on=hosts.on(host), address=f"{hosts.address(host)}:50051")
        return life.enter_context(server)

    return make


async def test_hosts_are_one_server(hosts: Hosts, start: Start, tmp_path: Path) -> None:
    """A picture that was ordered on one is handed to whoever waits on the other, and a cancel reaches the one that draws."""
    front = start("one", "--role", "serve")
    worker = start("two", "--no-charges", "--duration", "2", "--concurrency", "1")
    async with Caller(front.endpoint) as one, Caller(worker.endpoint) as two:
        first = await one.submit("first")
        await begun(tmp_path / "ledger", 1)
        second = await two.submit("second")
        assert error_of(await one.cancel(first))[0] is StatusCode.CANCELLED
        here, there = await asyncio.gather(one.ended(second), two.ended(second))
        assert response_of(here) == response_of(there)
        assert error_of(await two.get(first))[0] is StatusCode.CANCELLED
    assert executions(tmp_path / "ledger") == {"first": 1, "second": 1}


@pytest.mark.parametrize(("host", "seconds"), [("two", 4.0), ("two", 20.0), ("db", 10.0)])
async def test_a_link_may_be_down(hosts: Hosts, start: Start, tmp_path: Path, host: str, seconds: float) -> None:
    """Of a server or of PostgreSQL, for shorter or longer than connections live: each order ends, with its picture or as unknown,
    and none is bought twice.
    """
    servers = [start(name, "--duration", "1", "--concurrency", "8") for name in ("one", "two")]
    callers = [Caller(server.endpoint) for server in servers]
    client = Client(callers, 1)
    ordering = [asyncio.create_task(client.order(f"cat-{number}")) for number in range(ORDERS)]
    await begun(tmp_path / "ledger", 10)
    hosts.cut(host)
    await asyncio.sleep(seconds)
    hosts.mend(host)
    await asyncio.gather(*ordering)
    made = {prompt for prompt, operation in client.ended.items() if operation.HasField("response")}
    unknown = {prompt for prompt in client.ended if prompt not in made}
    assert made | unknown == {f"cat-{number}" for number in range(ORDERS)}
    assert {error_of(client.ended[prompt])[0] for prompt in unknown} <= {StatusCode.ABORTED}
    assert len(unknown) <= 16
    bought = executions(tmp_path / "ledger")
    assert made <= bought.keys()
    assert set(bought.values()) == {1}
    for caller in callers:
        await caller.close()
