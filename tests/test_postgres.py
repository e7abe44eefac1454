"""Many servers on one PostgreSQL, which is a real one; where one of them dies, they are processes."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from tests.doors import Caller
from tests.faults.counting_server import executions
from tests.faults.process import ServerProcess
from tests.postgres import Postgres
from tests.test_durability import Scripted, entry, picture, refusal, server
from yandexart_grpc import ConfigurationError
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.store import State, StoreFailure, open_store

REPLACED = 30.0
"""Seconds in which a worker that died is replaced."""

Join = Callable[..., Any]
Start = Callable[..., ServerProcess]


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A database that is not in use yet."""
    return postgres.database()


@pytest.fixture
async def join(url: str) -> AsyncIterator[Join]:
    """Starts servers of this process on the database, and returns a caller of each."""
    async with AsyncExitStack() as life:

        async def make(backend: Scripted, **settings: Any) -> Caller:
            return await life.enter_async_context(server(backend, store=url, **settings))

        yield make


@pytest.fixture
async def start(url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts servers in processes of their own on the database, with one ledger."""
    async with AsyncExitStack() as life:
        yield lambda *options: life.enter_context(ServerProcess(tmp_path / "ledger", "--store", url, *options))


@pytest.fixture
async def call() -> AsyncIterator[Callable[[ServerProcess], Caller]]:
    """Makes callers of processes, who hang up in the end."""
    async with AsyncExitStack() as life:

        def make(process: ServerProcess) -> Caller:
            caller = Caller(process.endpoint)
            life.push_async_callback(caller.close)
            return caller

        yield make


class TestSchema:
    """The tables, ours and those of the jobs."""

    async def test_ten_servers_may_start_at_once(self, postgres: Postgres, url: str) -> None:
        """All of them find the same schema, and one of them has made it."""

        async def name() -> str:
            async with open_store(url) as store:
                return store.id

        names = set(await asyncio.gather(*(name() for _ in range(10))))
        assert postgres.do("SELECT id FROM store", url) == [(names.pop(),)]
        assert not names

    async def test_a_newer_schema_is_refused(self, postgres: Postgres, url: str) -> None:
        """With both versions."""
        async with open_store(url):
            postgres.do("UPDATE store SET version = 1000", url)
        with pytest.raises(ConfigurationError, match="has schema 1000, and this version knows up to 5"):
            async with open_store(url):
                pytest.fail("a newer schema was opened")

    async def test_the_tables_of_the_jobs_follow_their_library(self, postgres: Postgres, url: str) -> None:
        """What a newer procrastinate changes is changed once, by the first server that has it."""
        async with open_store(url):
            ((last,),) = postgres.do("SELECT name FROM jobs_migrated", url)
        postgres.do("UPDATE jobs_migrated SET name = '03.04.00_01'", url)
        postgres.do("DROP FUNCTION procrastinate_trigger_function_status_events_update_v1 CASCADE", url)
        postgres.do("DROP FUNCTION procrastinate_retry_job_v2", url)
        postgres.do("DELETE FROM pg_enum WHERE enumlabel = 'retried'", url)
        async with open_store(url) as store:
            await store.accept(entry(1))
        assert postgres.do("SELECT name FROM jobs_migrated", url) == [(last,)]
        assert postgres.do("SELECT proname FROM pg_proc WHERE proname = 'procrastinate_retry_job_v2'", url)

    async def test_an_operation_and_its_job_are_kept_together(self, postgres: Postgres, url: str) -> None:
        """One transaction has both: neither is there without the other."""
        async with open_store(url) as store:
            await store.accept(entry(1, key="k"))
            postgres.do("ALTER TABLE procrastinate_jobs RENAME TO away", url)
            with pytest.raises(StoreFailure):
                await store.accept(entry(2))
            postgres.do("ALTER TABLE away RENAME TO procrastinate_jobs", url)
            assert (await store.accept(entry(3, key="k"))).id == "id1"
            assert await store.get("id2") is None
        assert postgres.do("SELECT args ->> 'operation_id' FROM procrastinate_jobs", url) == [("id1",)]

    async def test_a_row_comes_back_as_it_went(self, url: str) -> None:
        """With its bytes and its floats."""
        async with open_store(url) as store:
            row = entry(1, caller="c", key="k", created=1 / 3, state=State.ACCEPTED, warnings=("no seed", "no rain"))
            kept = await store.accept(row)
            assert kept == await store.get("id1") == await store.find("c", "k") == replace(row, rank=1)


class TestSettings:
    """What is said before anything is ordered."""

    @pytest.mark.parametrize("backend", ["cloud", "images"])
    async def test_what_a_caller_sent_cannot_go_to_another_server(self, url: str, backend: str) -> None:
        """It is written nowhere, so orders in a caller's name need one server."""
        with pytest.raises(ConfigurationError, match="--upstream-credentials server"):
            async with serving(ServerSettings(backend=backend, store=url)):
                pytest.fail("it started")

    async def test_a_role_needs_a_store_that_is_shared(self) -> None:
        """A server alone does everything."""
        with pytest.raises(ConfigurationError, match="role: 'serve' needs a store that servers share"):
            async with serving(ServerSettings(role="serve")):
                pytest.fail("it started")

    @pytest.mark.parametrize(
        "wrong",
        [
            "postgresql://me:s3cret@127.0.0.1:1/none",
            "postgresql://me:s3cret@127.0.0.1:port/none",
            "postgresql://me:p@rt/s3cret@127.0.0.1:1/none",
            "postgresql://me@127.0.0.1:1/none?password=s3cret",
            "postgresql://me:?s3cret@127.0.0.1:1/none",
            "postgresql://me:s3cret/none",
            "postgresql://me:s3cret@127.0.0.1",
            "mysql://me:s3cret@127.0.0.1/none",
        ],
    )
    async def test_a_password_is_never_shown(self, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
        """Not in an error, not in a log, and not where settings are printed."""
        caplog.set_level(logging.DEBUG)
        settings = ServerSettings(store=wrong)
        with pytest.raises(ConfigurationError, match="store: ") as caught:
            async with serving(settings):
                pytest.fail("it started")
        assert "s3cret" not in f"{caught.value} {settings!r} {caplog.text}"

    def test_the_command_line_shows_no_password(self) -> None:
        """Only what is wrong."""
        command = [str(Path(sys.executable).with_name("yandexart")), "serve", "-v"]
        command += ["--store", "postgresql://me:s3cret@127.0.0.1:1/none"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert "cannot be used" in ended.stderr
        assert "s3cret" not in ended.stdout + ended.stderr


class TestTogether:
    """Several servers do the work of one."""

    async def test_accepted_here_made_there_and_read_elsewhere(self, join: Join) -> None:
        """A held read on a third server is answered when the picture is ready."""
        backend = Scripted()
        front, _, reader = [await join(backend, role=role) for role in ("serve", "work", "serve")]
        operation_id = await front.submit(key="k")
        held = asyncio.create_task(reader.get(operation_id, hold=20))
        await backend.begun.wait()
        assert await reader.submit(key="k") == operation_id
        began = time.monotonic()
        backend.let.set()
        assert picture(await held) == picture(await front.get(operation_id))
        assert time.monotonic() - began < 1.0
        assert backend.asked == ["a cat"]

    async def test_a_server_that_only_works_takes_no_orders(self, join: Join) -> None:
        """It tells its health, and nothing else."""
        worker = await join(Scripted(), role="work")
        assert (await refusal(worker.begin()))[0] is StatusCode.UNIMPLEMENTED

    async def test_a_cancel_reaches_the_server_that_draws(self, join: Join) -> None:
        """It stops drawing, and begins the next one."""
        backend = Scripted()
        front, _ = [await join(backend, role=role, concurrency=1) for role in ("serve", "work")]
        first = await front.submit("first")
        await backend.begun.wait()
        second = await front.submit("second")
        assert (await front.cancel(first)).error.code == StatusCode.CANCELLED.value[0]
        backend.let.set()
        assert picture(await front.get(second, hold=10))
        assert (await front.get(first)).error.code == StatusCode.CANCELLED.value[0]

    async def test_too_much_is_refused_wherever_it_waits(self, join: Join) -> None:
        """Jobs are counted, not those that this server took."""
        front, other = [await join(Scripted(), role="serve", queue=2) for _ in range(2)]
        for _ in range(2):
            await front.submit()
        await asyncio.sleep(1.5)
        assert (await refusal(other.begin()))[0] is StatusCode.RESOURCE_EXHAUSTED

    async def test_each_picture_is_made_once(self, start: Start, call: Callable[..., Caller], tmp_path: Path) -> None:
        """Whoever takes the order, and whoever makes it."""
        callers = [call(process) for process in [start("--concurrency", "8") for _ in range(3)]]
        ids = await asyncio.gather(*(callers[n % 3].submit(f"cat {n}") for n in range(90)))
        done = await asyncio.gather(*(callers[(n + 1) % 3].get(one, hold=30) for n, one in enumerate(ids)))
        assert all(picture(operation) for operation in done)
        assert executions(tmp_path / "ledger") == {f"cat {n}": 1 for n in range(90)}

    async def test_a_server_that_stops_hands_over(self, join: Join, url: str) -> None:
        """What it has not finished within its grace is drawn by another."""
        first, second = Scripted(), Scripted()
        second.let.set()
        front = await join(first, role="serve")
        async with server(first, store=url, role="work", grace=0.1):
            operation_id = await front.submit()
            await first.begun.wait()
        await join(second, role="work")
        assert picture(await front.get(operation_id, hold=20))
        assert second.asked == ["a cat"]


class TestFaults:
    """What goes wrong."""

    @pytest.mark.parametrize("charges", [False, True])
    async def test_a_killed_worker_is_replaced(
        self, start: Start, call: Callable[..., Caller], tmp_path: Path, charges: bool
    ) -> None:
        """Its free pictures are drawn again; one that may have been bought ends as such, and is not bought again."""
        bill = "--charges" if charges else "--no-charges"
        front = call(start("--role", "serve"))
        worker = start("--role", "work", bill, "--duration", "600")
        operation_id = await front.submit()
        await begun(tmp_path / "ledger", 1)
        worker.kill()
        start("--role", "work", bill)
        began = time.monotonic()
        operation = await front.get(operation_id, hold=30)
        assert time.monotonic() - began < REPLACED
        assert operation.done
        assert operation.error.code == (StatusCode.ABORTED.value[0] if charges else 0)
        assert executions(tmp_path / "ledger")["a cat"] == (1 if charges else 2)

    @pytest.mark.faults
    async def test_a_server_that_is_stopped_is_not_taken_for_dead(
        self, start: Start, call: Callable[..., Caller], tmp_path: Path
    ) -> None:
        """What it was paid for is finished within its grace, however long it takes no more work."""
        front = call(start("--role", "serve"))
        worker = start("--role", "work", "--duration", "25", "--grace", "60")
        start("--role", "work")
        ids = [await front.submit(f"cat {number}") for number in range(20)]
        await begun(tmp_path / "ledger", 20)
        assert await asyncio.to_thread(worker.stop) == 0
        assert all([picture(await front.get(operation_id, hold=10)) for operation_id in ids])
        assert set(executions(tmp_path / "ledger").values()) == {1}

    async def test_a_lost_subscription_is_made_again(self, join: Join, postgres: Postgres, url: str) -> None:
        """Whoever waits meanwhile is still woken."""
        backend = Scripted()
        front, _ = [await join(backend, role=role) for role in ("serve", "work")]
        operation_id = await front.submit()
        held = asyncio.create_task(front.get(operation_id, hold=20))
        await backend.begun.wait()
        listening = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        assert postgres.do(listening, url)
        backend.let.set()
        assert picture(await asyncio.wait_for(held, 6))

    async def test_postgresql_may_be_restarted(self, start: Start, call: Callable[..., Caller], postgres: Postgres) -> None:
        """Work goes on meanwhile and is kept afterwards; nothing is bought twice, and orders are taken again."""
        processes = [start("--duration", "3") for _ in range(2)]
        front, other = map(call, processes)
        before = [await front.submit(f"before {n}") for n in range(10)]
        await begun(processes[0].ledger, 10)
        postgres.stop()
        assert (await refusal(front.begin()))[0] is StatusCode.UNAVAILABLE
        await asyncio.sleep(1)
        postgres.start()
        for operation_id in before:
            assert picture(await until_answered(other, operation_id))
        after = await front.submit("after")
        assert picture(await other.get(after, hold=20))
        assert set(executions(processes[0].ledger).values()) == {1}


async def begun(ledger: Path, pictures: int) -> None:
    """Wait until that many pictures are in the ledger."""
    for _ in range(400):
        if len(executions(ledger)) >= pictures:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("they never began")


async def until_answered(caller: Caller, operation_id: str) -> Any:
    """The finished operation, asked for until there is an answer."""
    for _ in range(100):
        operation = await caller.get(operation_id, hold=10)
        if operation.done:
            return operation
    raise AssertionError("it never ended")
