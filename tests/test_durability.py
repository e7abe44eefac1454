"""What the server keeps: nothing that was accepted is lost or made twice, whatever ends the process or fills the disk."""

import asyncio
import contextlib
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doors import PICTURE, Caller, response_of
from tests.processes import Started, program
from yandexart_grpc import ConfigurationError, stubs
from yandexart_grpc.failures import retry_after
from yandexart_grpc.request import ImageRequest, Message
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.server.store import Row, State, open_store


class Scripted:
    """A backend that counts what it is asked for, and answers when it is let."""

    def __init__(self, *, charges: bool = False, resumable: bool = False) -> None:
        self.charges, self.resumable = charges, resumable
        self.asked: list[str] = []
        self.resumed: list[str] = []
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def generate(self, request: ImageRequest, upstream: Upstream) -> stubs.ImageGenerationResponse:
        if self.resumable and upstream.id:
            self.resumed.append(upstream.id)
        else:
            self.asked.append(request.prompt)
            if self.resumable:
                await upstream.note(f"there-{len(self.asked)}")
        self.begun.set()
        await self.let.wait()
        return stubs.ImageGenerationResponse(image=PICTURE)

    async def close(self) -> None:
        """Nothing is held open."""


@asynccontextmanager
async def server(backend: Scripted, **settings: Any) -> AsyncIterator[Caller]:
    """A caller of a server with that backend, which is stopped without grace where nothing else is said; he hangs up last."""
    async with AsyncExitStack() as life:
        given = ServerSettings(listen="127.0.0.1:0", backend=backend, **({"grace": 0.0} | settings))
        async with serving(given) as running:
            caller = Caller(running.endpoint)
            life.push_async_callback(caller.close)
            yield caller


def picture(operation: stubs.Operation) -> bytes:
    """The image of a finished operation."""
    return response_of(operation).image


def content_of(file: str) -> bytes:
    """The bytes of a store."""
    return Path(file.removeprefix("sqlite:///")).read_bytes()


async def refusal(call: Any) -> tuple[StatusCode, str]:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


class TestRestart:
    """Another process goes on where the last one stopped."""

    async def test_a_finished_picture_is_still_there(self, store: str) -> None:
        """With its image and its times."""
        backend = Scripted()
        backend.let.set()
        async with server(backend, store=store) as caller:
            before = await caller.get(await caller.submit(), hold=10)
        async with server(backend, store=store) as caller:
            after = await caller.get(before.id)
        assert after == before
        assert picture(after) == PICTURE
        assert after.modified_at.ToNanoseconds() > after.created_at.ToNanoseconds()

    @pytest.mark.parametrize("charges", [False, True])
    async def test_what_waited_for_its_turn_is_made_once(self, store: str, charges: bool) -> None:
        """The backend had not been called for it, so it is called now."""
        first = Scripted(charges=charges)
        async with server(first, store=store, concurrency=1) as caller:
            await caller.submit("running")
            waiting = await caller.submit("waiting")
            await first.begun.wait()
        assert first.asked == ["running"]
        second = Scripted(charges=charges)
        second.let.set()
        async with server(second, store=store) as caller:
            assert picture(await caller.get(waiting, hold=10)) == PICTURE
        assert second.asked.count("waiting") == 1

    async def test_what_was_being_drawn_for_free_is_drawn_again(self, store: str) -> None:
        """It costs nothing."""
        first, second = Scripted(), Scripted()
        async with server(first, store=store) as caller:
            operation_id = await caller.submit()
            await first.begun.wait()
        second.let.set()
        async with server(second, store=store) as caller:
            assert picture(await caller.get(operation_id, hold=10)) == PICTURE

    async def test_what_may_have_been_bought_is_not_bought_again(self, store: str) -> None:
        """It ends as ABORTED, in words that say so, although it never ends on its own."""
        first, second = Scripted(charges=True), Scripted(charges=True)
        async with server(first, store=store) as caller:
            operation_id = await caller.submit()
            await first.begun.wait()
        async with server(second, store=store) as caller:
            operation = await caller.get(operation_id, hold=10)
        assert operation.done
        assert operation.error.code == StatusCode.ABORTED.value[0]
        assert "may have been bought" in operation.error.message
        assert second.asked == []

    async def test_the_backend_of_the_time_decides_what_may_have_been_bought(self, store: str) -> None:
        """A free backend does not draw what one that charges was asked for."""
        first, second = Scripted(charges=True), Scripted()
        async with server(first, store=store) as caller:
            operation_id = await caller.submit()
            await first.begun.wait()
        async with server(second, store=store) as caller:
            assert (await caller.get(operation_id, hold=10)).error.code == StatusCode.ABORTED.value[0]
        assert second.asked == []

    async def test_the_operator_may_have_it_bought_again(self, store: str) -> None:
        """By `--unknown resend`."""
        first, second = Scripted(charges=True), Scripted(charges=True)
        async with server(first, store=store) as caller:
            operation_id = await caller.submit()
            await first.begun.wait()
        second.let.set()
        async with server(second, store=store, unknown="resend") as caller:
            assert picture(await caller.get(operation_id, hold=10)) == PICTURE
        assert second.asked == ["a cat"]

    async def test_what_the_backend_can_find_again_is_not_asked_for_again(self, store: str) -> None:
        """It is given the id that it had noted."""
        first, second = Scripted(charges=True, resumable=True), Scripted(charges=True, resumable=True)
        async with server(first, store=store) as caller:
            operation_id = await caller.submit()
            await first.begun.wait()
        second.let.set()
        async with server(second, store=store) as caller:
            assert picture(await caller.get(operation_id, hold=10)) == PICTURE
        assert (second.asked, second.resumed) == ([], ["there-1"])

    async def test_what_ends_the_process_each_time_is_given_up(self, store: str) -> None:
        """After five attempts."""
        first = Scripted()
        async with server(first, store=store) as caller:
            operation_id = await caller.submit()
            await first.begun.wait()
        for _ in range(4):
            again = Scripted()
            async with server(again, store=store):
                await again.begun.wait()
        async with server(Scripted(), store=store) as caller:
            assert (await caller.get(operation_id, hold=10)).error.message == "Given up after 5 attempts"

    def test_a_killed_server_goes_on(self, store: str) -> None:
        """SIGKILL in the middle of drawing: the next server on the file hands out the same operation."""
        with (
            served(store, duration="fixed:0.5") as (endpoint, process),
            grpc.insecure_channel(address := endpoint.removeprefix("http://")) as channel,
        ):
            request = stubs.ImageGenerationRequest(model_uri="art://f/m", messages=[stubs.Message(text="a cat", weight=1)])
            operation_id = stubs.ImageGenerationAsyncServiceStub(channel).Generate(request, timeout=10).id
            process.kill()
            process.wait()
            with served(store, listen=address):
                question = stubs.GetOperationRequest(operation_id=operation_id)
                hold = (("prefer", "wait=50"),)  # a worker on PostgreSQL may have begun it, who is missed after a while
                operation = stubs.OperationServiceStub(channel).Get(question, timeout=60, metadata=hold, wait_for_ready=True)
        assert picture(operation)


class TestStop:
    """A server that is told to stop."""

    async def test_work_that_has_begun_is_finished_and_handed_over(self, store: str) -> None:
        """Within the grace; a held read gets its image."""
        backend = Scripted(charges=True)
        async with server(backend, store=store, grace=10.0) as caller:
            operation_id = await caller.submit()
            await backend.begun.wait()
            held = asyncio.create_task(caller.get(operation_id, hold=10))
            asyncio.get_running_loop().call_later(0.2, backend.let.set)
            await asyncio.sleep(0.1)
        assert picture(await held) == PICTURE
        async with server(Scripted(charges=True), store=store) as caller:
            assert picture(await caller.get(operation_id)) == PICTURE

    async def test_who_is_held_is_answered_when_the_time_is_over(self) -> None:
        """With what there is: the operation is not done."""
        backend = Scripted()
        async with server(backend, grace=0.2) as caller:
            held = asyncio.create_task(caller.get(await caller.submit(), hold=30))
            await asyncio.sleep(0.1)
        assert not (await held).done


class TestKeys:
    """The idempotency key of a caller."""

    async def test_the_same_key_is_the_same_operation(self, store: str) -> None:
        """Also while it runs, when it is done, and after a restart; the picture is made once."""
        backend = Scripted(charges=True)
        async with server(backend, store=store) as caller:
            ids = set(await asyncio.gather(*(caller.submit(key="k") for _ in range(20))))
            backend.let.set()
            await caller.get(next(iter(ids)), hold=10)
            ids.add(await caller.submit(key="k"))
        async with server(backend, store=store) as caller:
            ids.add(await caller.submit(key="k"))
            assert picture(await caller.get(next(iter(ids)))) == PICTURE
        assert len(ids) == 1
        assert backend.asked == ["a cat"]

    async def test_without_a_key_equal_requests_are_two(self) -> None:
        """As at Yandex."""
        async with server(Scripted()) as caller:
            assert await caller.submit() != await caller.submit()

    async def test_a_key_of_another_request_is_refused(self) -> None:
        """With the operation that it stands for, and no picture."""
        backend = Scripted()
        async with server(backend) as caller:
            first = await caller.submit(key="k")
            code, words = await refusal(caller.begin("a dog", key="k"))
        assert code is StatusCode.ALREADY_EXISTS
        assert "'k'" in words
        assert first in words
        assert backend.asked == ["a cat"]

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
    async def test_a_wrong_key_is_named(self, key: str) -> None:
        """With its limit."""
        async with server(Scripted()) as caller:
            code, words = await refusal(caller.begin(key=key))
        assert code is StatusCode.INVALID_ARGUMENT
        assert "idempotency_key" in words
        assert "255" in words

    async def test_the_store_that_knows_the_keys_is_announced(self, store: str) -> None:
        """By every submit, refused ones too, and by the health service; its name outlives the process but not the file."""

        async def scopes(url: str) -> set[str]:
            found = set()
            async with server(Scripted(), store=url) as caller:
                health: Any = caller.channel.unary_unary("/grpc.health.v1.Health/Check")
                for call in caller.begin(), caller.begin(""), health(b"", wait_for_ready=True):
                    found.add(dict(await call.initial_metadata())["idempotency-scope"])
                    with contextlib.suppress(grpc.RpcError):
                        await call
            return found

        first, again = await scopes(store), await scopes(store)
        in_memory = await scopes("sqlite://")
        assert len(first) == len(in_memory) == 1
        assert first == again != in_memory

    async def test_a_caller_who_hangs_up_gets_the_picture_by_the_key(self) -> None:
        """The operation is accepted or not; one that is goes on."""
        backend = Scripted()
        backend.let.set()
        async with server(backend) as caller:
            for delay in range(10):
                call = caller.begin(f"cat {delay}", key=str(delay))
                await asyncio.sleep(delay / 1000)
                call.cancel()
            for delay in range(10):
                assert picture(await caller.get(await caller.submit(f"cat {delay}", key=str(delay)), hold=10)) == PICTURE
        assert sorted(backend.asked) == sorted(set(backend.asked))


class TestQueue:
    """More work than can be done."""

    async def test_too_much_is_refused_with_a_hint(self) -> None:
        """As RESOURCE_EXHAUSTED, with the seconds after which to try again; what is known by its key is not refused."""
        backend = Scripted()
        async with server(backend, concurrency=1, queue=2) as caller:
            running = await caller.submit("running", key="0")
            await backend.begun.wait()
            known = [await caller.submit("waiting", key=str(n)) for n in (1, 2)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.submit("too much", key="3")
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert "2 operations wait" in (caught.value.details() or "")
            assert retry_after(caught.value) == 1.0
            assert [await caller.submit("waiting", key=str(n)) for n in (1, 2)] == known
            backend.let.set()
            for operation_id in (running, *known):
                await caller.get(operation_id, hold=10)
            assert await caller.submit("too much", key="3")

    async def test_a_cancel_wins_while_the_work_begins(self, store: str) -> None:
        """Whatever state the operation comes to meanwhile: what costs nothing is stopped in each."""
        backend = Scripted()
        backend.let.clear()
        async with server(backend, store=store) as caller:

            async def cancelled(pause: float) -> int:
                operation_id = await caller.submit()
                await asyncio.sleep(pause)
                return (await caller.cancel(operation_id)).error.code

            codes = await asyncio.gather(*(cancelled(number / 2000) for number in range(60)))
            assert codes == [StatusCode.CANCELLED.value[0]] * 60

    async def test_what_waits_can_be_cancelled_also_where_the_backend_charges(self) -> None:
        """The backend is not called for it."""
        backend = Scripted(charges=True)
        async with server(backend, concurrency=1) as caller:
            await caller.submit("running")
            await backend.begun.wait()
            waiting = await caller.submit("waiting")
            assert (await caller.cancel(waiting)).error.code == StatusCode.CANCELLED.value[0]
            backend.let.set()
            await caller.get(await caller.submit("last"), hold=10)
        assert backend.asked == ["running", "last"]


class TestExpiry:
    """Pictures and prompts are kept as long as is said, and no longer."""

    async def test_a_finished_operation_is_forgotten(self, file: str) -> None:
        """Its id is unknown, its key is free, and neither prompt nor picture is left in the file."""
        backend = Scripted()
        backend.let.set()
        async with server(backend, store=file, keep=0.5) as caller:
            done = await caller.get(await caller.submit("a secret cat", key="k"), hold=10)
            assert done.done
            await asyncio.sleep(0.6)
            assert (await refusal(caller.get(done.id)))[0] is StatusCode.NOT_FOUND
            assert await caller.submit("another cat", key="k") != done.id
            await asyncio.sleep(1.2)
        content = content_of(file)
        assert b"secret" not in content
        assert PICTURE[:100] not in content

    async def test_what_is_not_finished_is_kept(self, file: str) -> None:
        """However long it takes."""
        backend = Scripted()
        async with server(backend, store=file, keep=0.1) as caller:
            operation_id = await caller.submit()
            await asyncio.sleep(0.5)
            assert not (await caller.get(operation_id)).done


def served(store: str, *, listen: str = "127.0.0.1:0", duration: str = "fixed:0") -> AbstractContextManager[Started]:
    """`yandexart serve` in a process of its own."""
    return program("--demo-duration", duration, "--store", store, listen=listen)


class TestDisk:
    """A disk that takes nothing more."""

    async def test_a_full_disk_takes_no_orders_and_loses_nothing(self, file: str) -> None:
        """Orders are refused before anything is ordered, finished pictures are there, and all is well when there is space."""
        with served(file) as (endpoint, process):
            caller = Caller(endpoint)
            done = await caller.get(await caller.submit(), hold=10)
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, hard))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.submit("another cat", key="k")
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert "nothing was ordered" in (caught.value.details() or "")
            assert retry_after(caught.value) == 10.0
            assert await caller.get(done.id) == done
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            assert picture(await caller.get(await caller.submit("another cat", key="k"), hold=10))
            await caller.close()

    async def test_a_picture_that_cannot_be_saved_is_handed_out_and_saved_later(self, file: str) -> None:
        """The disk fills while it is being made."""
        with served(file, duration="fixed:0.5") as (endpoint, process):
            caller = Caller(endpoint)
            operation_id = await caller.submit()
            await asyncio.sleep(0.2)
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, hard))
            held = await caller.get(operation_id, hold=10)
            assert picture(held)
            assert await caller.get(operation_id) == held
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            await asyncio.sleep(1.5)
            process.send_signal(signal.SIGKILL)
            await caller.close()
        with served(file) as (endpoint, _):
            caller = Caller(endpoint)
            assert await caller.get(operation_id) == held
            await caller.close()


class TestFile:
    """The file itself."""

    async def test_a_second_server_says_why_not(self, file: str) -> None:
        """One process serves a file; others may read it."""
        async with server(Scripted(), store=file) as caller:
            await caller.submit()
            with pytest.raises(ConfigurationError, match="in use by another server"):
                async with server(Scripted(), store=file):
                    pytest.fail("two servers on one file")
            with sqlite3.connect(file.removeprefix("sqlite:///")) as reader:
                assert reader.execute("SELECT count(*) FROM operations").fetchone() == (1,)
            reader.close()

    async def test_a_newer_schema_is_refused(self, file: str) -> None:
        """With both versions, and without touching it."""
        async with server(Scripted(), store=file):
            pass
        with contextlib.closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute("UPDATE store SET version = 1000")
        before = content_of(file)
        with pytest.raises(ConfigurationError, match="has schema 1000, and this version knows up to 5"):
            async with server(Scripted(), store=file):
                pytest.fail("a newer schema was opened")
        assert content_of(file) == before

    async def test_it_survives_a_loss_of_power(self, file: str) -> None:
        """A rollback journal, and every commit is synced."""
        async with open_store(file) as store:
            assert await store._do(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar()) == "truncate"
            assert await store._do(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar()) == 2

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("store.db", "neither sqlite:///path"),
            ("mysql://host/x", "neither sqlite:///path"),
            ("sqlite://host/x.db", "neither sqlite:///path"),
            ("sqlite:///{tmp}/text", "file is not a database"),
            ("sqlite:///{tmp}", "unable to open database file"),
            ("sqlite:///{tmp}/text/below", "cannot be made"),
        ],
    )
    async def test_a_store_that_cannot_be_is_refused(self, tmp_path: Path, url: str, words: str) -> None:
        """With the URL and the reason."""
        (tmp_path / "text").write_text("no database, but a file that is long enough to be taken for one" * 20)
        with pytest.raises(ConfigurationError, match=words):
            async with open_store(url.format(tmp=tmp_path)):
                pytest.fail("it was opened")


def entry(number: int, **fields: Any) -> Row:
    request = ImageRequest(messages=(Message(f"cat {number}"),), model_uri="art://f/m")
    known: dict[str, Any] = {"id": f"id{number}", "caller": "", "key": None, "request": request, "state": State.ACCEPTED}
    return Row(**(known | {"created": float(number)} | fields))


class TestStore:
    """The store alone."""

    @settings(max_examples=20)
    @given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(State), st.sampled_from(State)), max_size=30))
    async def test_state_moves_forward_alone(self, changes: list[tuple[int, State, State]]) -> None:
        """A change is made if and only if the state is the one expected, and no later than the new one."""
        async with open_store("sqlite://") as store:
            states = dict.fromkeys(range(5), State.ACCEPTED)
            for number in states:
                await store.accept(entry(number))
            for attempt, (number, before, after) in enumerate(changes):
                expected = states[number] is before <= after
                assert await store.advance(entry(number, state=after, attempts=attempt + 1), before=before) is expected
                if expected:
                    states[number] = after
            unfinished = [n for n, state in states.items() if state is not State.DONE]
            assert [found.id for found in await store.unfinished()] == [f"id{n}" for n in unfinished]

    async def test_a_change_may_be_made_twice(self) -> None:
        """Whoever does not know whether it was made asks again, and hears that it was."""
        async with open_store("sqlite://") as store:
            accepted = await store.accept(entry(1))
            running = replace(accepted, state=State.RUNNING, started=2.0, attempts=1)
            assert await store.advance(running, before=State.ACCEPTED)
            assert await store.advance(running, before=State.ACCEPTED)

    async def test_what_arrives_together_is_kept_together_and_one_failure_is_alone(self) -> None:
        """Of many writes in one commit, the one that cannot be done fails."""
        async with open_store("sqlite://") as store:
            wrong = entry(0, upstream=object())
            results = await asyncio.gather(*(store.accept(row) for row in (entry(1), wrong, entry(2))), return_exceptions=True)
            assert [type(result).__name__ for result in results] == ["Row", "StoreFailure", "Row"]
            assert [found.id for found in await store.unfinished()] == ["id1", "id2"]
            assert (await store.accept(entry(3))).id == "id3"

    async def test_a_row_comes_back_as_it_went(self) -> None:
        """Every field."""
        row = entry(
            1,
            caller="c",
            key="k",
            state=State.DONE,
            started=2.0,
            ended=3.0,
            expires=4.0,
            attempts=2,
            charged=True,
            upstream="there",
            warnings=("no seed", "no rain"),
            outcome=stubs.Status(code=3, message="no"),
        )
        async with open_store("sqlite://") as store:
            kept = await store.accept(row)
            assert kept == await store.get("id1") == await store.find("c", "k") == replace(row, rank=1)
            assert (await store.get("id2"), await store.find("d", "k")) == (None, None)
