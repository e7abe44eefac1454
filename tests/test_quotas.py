"""Quotas of a folder: kept by all servers on a store together, and shared fairly by those who call them."""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from grpc import StatusCode

from benchmarks.fleet import most_in
from tests.test_durability import Scripted, entry, picture, server
from yandexart_grpc import ConfigurationError
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.errors import QuotaExceeded
from yandexart_grpc.server import ServerSettings, allowance, quotas
from yandexart_grpc.server.allowance import DAY, Quota, Taken
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.quotas import Quotas
from yandexart_grpc.server.store import State, open_store
from yandexart_grpc.server.workers import TaskWorkers


class Clock:
    """A clock that is set by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000 * DAY + 0.5
        monkeypatch.setattr(allowance, "time", SimpleNamespace(time=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a store in SQLite."""
    return Clock(monkeypatch)


class TestLimits:
    """What may be said."""

    def test_each_may_be_left_out(self) -> None:
        """And they stand in any order."""
        assert Quota.parse("reads=3,day=7,minute=5") == Quota(5, 7, 3)
        assert Quota.parse("minute=5") == Quota(minute=5)

    @pytest.mark.parametrize("text", ["", "5", "hour=5", "minute=0", "day=-1", "minute=5,minute=6", "minute=5;day=6", "day=6,"])
    async def test_all_else_is_refused(self, text: str) -> None:
        """By a server, before it starts, with what may be said."""
        with pytest.raises(ValueError, match=r"quota: .* is none of minute=N, day=N, reads=N, each once, N from 1 to 999999999"):
            Quota.parse(text)
        if text:
            with pytest.raises(ConfigurationError, match=re.escape(repr(text))):
                async with serving(ServerSettings(quota=text)):
                    pytest.fail("it started")


class TestAllowance:
    """The row of a folder."""

    @pytest.mark.parametrize("limit", [1, 2, 7, 60, 500])
    async def test_no_minute_holds_more(self, clock: Clock, limit: int) -> None:
        """Wherever it begins, and however late each one leaves; and most of it can be used."""
        random, left = Random(limit), []
        begin = clock.now
        async with open_store("sqlite://") as store:
            while clock.now < begin + 300:
                taken = await store.take("folder", Quota(minute=limit))
                if not taken.wait:
                    left.append(clock.now + random.uniform(0, 1.9))
                clock.now += taken.wait + random.choice([0, 0, 0, random.expovariate(limit / 3)])
        left.sort()
        for number, at in enumerate(left):
            assert sum(1 for other in left[number : number + limit + 1] if other < at + 60) <= limit
        assert len(left) >= 5 * limit * 0.8

    async def test_a_day_ends(self, clock: Clock) -> None:
        """Then there is as much again; until then, it is told how long that takes."""
        async with open_store("sqlite://") as store:
            limits = Quota(day=2)
            assert [(await store.take("folder", limits)).is_over for _ in range(3)] == [False, False, True]
            refused = await store.take("folder", limits)
            assert refused.wait == pytest.approx(DAY - 0.5)
            assert not (await store.take("another", limits)).is_over
            clock.now += refused.wait
            assert not (await store.take("folder", limits)).wait


class TestReads:
    """How often a folder may ask for its pictures."""

    @pytest.mark.parametrize("limit", [1, 2, 11, 19, 50])
    async def test_no_second_holds_more(self, clock: Clock, limit: int) -> None:
        """Wherever it begins, although each read is up to 0.1 s late, and however many servers ask; most of it can be used."""
        random, left = Random(limit), list[float]()
        begin = clock.now
        async with open_store("sqlite://") as store:
            servers = [begin] * 30  # when each is free to ask for its next read
            while (now := min(servers)) < begin + 20:
                clock.now = now
                gone = now + await store.reserve("folder", Quota(reads=limit)) + random.uniform(0, 0.1)
                left.append(gone)
                servers[servers.index(now)] = gone + random.choice([0, random.expovariate(5)])
        assert most_in(1.0, left) <= limit
        assert len(left) >= (0.45 if limit < 3 else 0.8) * limit * 20

    async def test_who_asked_first_reads_first(self, store: str) -> None:
        """On whichever server: one who comes to another server does not wait for all who wait on the first."""
        let: list[str] = []
        async with contextlib.AsyncExitStack() as life:
            stores = [await life.enter_async_context(open_store(store)) for _ in range(1 if store.startswith("sqlite") else 2)]
            servers = [Quotas(stores[number % len(stores)], Quota(reads=20)) for number in range(2)]

            async def read(server: int, folder: str, caller: str) -> None:
                await servers[server].read(folder, caller)
                let.append(caller)

            many = [asyncio.create_task(read(0, "folder", "many")) for _ in range(1000)]
            await read(0, "folder", "many")
            before = len(let)
            await read(1, "folder", "one")
            assert len(let) <= before + 100
            before = len(let)
            await read(0, "folder", "another")
            assert len(let) <= before + 3
            for task in many:
                task.cancel()
            await asyncio.gather(*many, return_exceptions=True)

    async def test_without_a_limit_nothing_is_written(self, store: str) -> None:
        """Nobody waits for the store then."""
        async with open_store(store) as kept:
            await Quotas(kept, Quota(minute=5)).read("folder", "caller")
            assert await kept._do(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM reads").scalar()) == 0

    async def test_a_store_that_fails_for_a_moment_is_waited_for(self, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The read goes when it is back."""
        monkeypatch.setattr(quotas, "PAUSE", 0.01)
        async with open_store(store) as kept:

            async def rename(old: str, new: str) -> None:
                await kept._do(lambda connection: connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}"))

            await rename("reads", "away")
            reading = asyncio.create_task(Quotas(kept, Quota(reads=5)).read("folder", "caller"))
            await asyncio.sleep(0.05)
            assert not reading.done()
            await rename("away", "reads")
            await asyncio.wait_for(reading, 10)


class TestRanks:
    """The order of what waits for a worker."""

    async def test_a_burst_waits_for_itself(self, store: str) -> None:
        """Of several callers each has his next one in turn, and one who comes late is not behind all that the others want."""
        async with open_store(store) as kept:

            async def ordered(number: int, caller: str) -> int:
                return (await kept.accept(entry(number, caller=caller))).rank

            assert [await ordered(number, "many") for number in range(100)] == list(range(1, 101))
            assert [await ordered(number, "two") for number in (100, 101)] == [1, 2]
            for number in range(50):
                done = await kept.get(f"id{number}")
                assert done
                await kept.advance(replace(done, state=State.RUNNING), before=State.ACCEPTED)
            assert await ordered(102, "late") == 1
            for number in (100, 101, 102):
                done = await kept.get(f"id{number}")
                assert done
                await kept.advance(replace(done, state=State.RUNNING), before=State.ACCEPTED)
            assert await ordered(103, "later") == 51
            assert await ordered(104, "many") == 101

    async def test_an_older_store_learns_it(self, store: str) -> None:
        """What the first version of the schema has is kept."""
        async with open_store(store) as kept:
            await kept.accept(entry(1, caller="old"))
            scripts = ["DROP INDEX waiting", "DROP INDEX waiting_of_caller", "ALTER TABLE operations DROP COLUMN rank"]
            for script in (*scripts, "DROP TABLE quotas", "DROP TABLE reads", "UPDATE store SET version = 1"):
                await kept._do(lambda connection, script=script: connection.exec_driver_sql(script))  # type: ignore[misc]
        async with open_store(store) as kept:
            assert await kept.get("id1") == entry(1, caller="old")
            assert (await kept.accept(entry(2, caller="old"))).rank == 1
            assert not (await kept.take("folder", Quota())).wait

    async def test_workers_take_the_lowest_rank_first(self) -> None:
        """And pass over what was stopped; a place that is not taken is free again."""
        workers, begun = TaskWorkers(1), []
        let, ended = asyncio.Event(), asyncio.Event()

        def work(name: str) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                begun.append(name)
                await let.wait()
                if len(begun) == 4:
                    ended.set()

            return run

        for name, rank in (("running", 9), ("last", 3), ("first", 1), ("stopped", 2), ("second", 2)):
            workers.start(name, work(name), rank)
            await asyncio.sleep(0)
        workers.stop("stopped")
        let.set()
        await asyncio.wait_for(ended.wait(), 5)
        assert begun == ["running", "first", "second", "last"]
        await workers.drain(0)


class TestTurns:
    """Who goes next."""

    async def test_a_burst_starves_nobody(self) -> None:
        """Who orders one picture while another waits for a hundred gets it as the second."""
        order: list[str] = []
        async with open_store("sqlite://") as store:
            turns = Quotas(store, Quota(minute=3000))

            async def wait(caller: str) -> None:
                await turns.buy("folder", caller)
                order.append(caller)

            many = [asyncio.create_task(wait("many")) for _ in range(200)]
            await asyncio.sleep(0)
            await wait("one")
            assert len(order) <= 3
            for task in many:
                task.cancel()
            await asyncio.gather(*many, return_exceptions=True)

    async def test_who_goes_away_is_passed_over(self) -> None:
        """The next one gets the turn, also when it comes after all others have gone."""
        async with open_store("sqlite://") as store:
            turns = Quotas(store, Quota(minute=600))
            waiting = [asyncio.create_task(turns.buy("folder", "caller")) for _ in range(40)]
            await waiting[0]
            for task in waiting[1:]:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*waiting)
            await asyncio.wait_for(turns.buy("folder", "other"), 5)

    async def test_who_comes_as_the_last_one_goes_is_served(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the very moment after the last turn was given, and before whoever has it knows."""
        async with open_store("sqlite://") as store:
            turns, take, given = Quotas(store, Quota(minute=600)), store.take, asyncio.Event()

            async def telling(folder: str, limits: Quota) -> Taken:
                taken = await take(folder, limits)
                given.set()
                return taken

            monkeypatch.setattr(store, "take", telling)
            first = asyncio.create_task(turns.buy("folder", "first"))
            await given.wait()
            async with asyncio.timeout(5):
                await turns.buy("folder", "second")
                await first

    async def test_a_day_that_is_used_up_is_an_error(self) -> None:
        """For everybody who waits, with the time to come back."""
        async with open_store("sqlite://") as store:
            turns = Quotas(store, Quota(day=1))
            ends = await asyncio.gather(*(turns.buy("folder", "caller") for _ in range(5)), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, QuotaExceeded)]
        assert len(refused) == 4
        assert all(0 < (end.retry_after or 0) <= DAY for end in refused)


class TestServers:
    """What a server makes of it."""

    async def test_servers_on_one_store_buy_no_more_together(self, store: str) -> None:
        """What is too much ends with an error that says so, and is not bought."""
        backend = Scripted(charges=True)
        backend.let.set()
        settings = {"store": store, "quota": "minute=3000,day=3"}
        async with contextlib.AsyncExitStack() as life:
            servers = 1 if store.startswith("sqlite") else 2
            callers = [await life.enter_async_context(server(backend, **settings)) for _ in range(servers)]
            ids = [await callers[number % servers].submit(f"cat {number}") for number in range(6)]
            ended = [await callers[0].get(operation_id, hold=10) for operation_id in ids]
        made = [operation for operation in ended if not operation.HasField("error")]
        refused = [operation for operation in ended if operation.HasField("error")]
        assert [picture(operation) for operation in made] == [picture(made[0])] * 3
        assert {operation.error.code for operation in refused} == {StatusCode.RESOURCE_EXHAUSTED.value[0]}
        assert "3 pictures a day for folder folder is used up" in refused[0].error.message
        assert len(backend.asked) == 3
        shown = CliRunner().invoke(yandexart, ["quota", "--store", store, "--json"])
        (left,) = json.loads(shown.stdout)["folders"]
        assert (left["folder"], left["day"]) == ("folder", 0)
        assert "folder: " in CliRunner().invoke(yandexart, ["quota", "--store", store]).stdout

    async def test_what_costs_nothing_is_not_counted(self) -> None:
        """A backend that draws is asked as often as one likes."""
        backend = Scripted()
        backend.let.set()
        async with server(backend, quota="day=1") as caller:
            for _ in range(3):
                assert picture(await caller.get(await caller.submit(), hold=10))

    def test_a_store_that_is_not_there_is_an_error(self) -> None:
        """Nothing is made where nothing was."""
        shown = CliRunner().invoke(yandexart, ["quota", "--store", "sqlite:///nowhere/at/all.db"])
        assert shown.exit_code == 2
        assert "is no file" in shown.stderr
