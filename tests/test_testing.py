"""The test kit: a server that does what a test tells it, seen through both clients, in a time of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.conftest import Face, collect
from tests.doors import soon
from yandexart_grpc import (
    AsyncYandexArt,
    ContentRefused,
    OperationCancelled,
    OperationFailed,
    OperationTimeout,
    OutcomeUnknown,
    QuotaExceeded,
    YandexArt,
    stubs,
)
from yandexart_grpc.testing import Counts, ScriptedServer, scripted

LONG = 600.0
"""Seconds that no test would take: a wait in real time would be noticed."""
SPAN = 30.0
"""Seconds of a picture."""
LAST = 0.5
"""Seconds that a client keeps for its last question, at the most."""
NEVER = 1_000_000
"""Reads that no wait makes."""


@pytest.fixture(params=["sync", "aio"])
def art(request: pytest.FixtureRequest, yandexart_server: ScriptedServer) -> Face:
    """The client of either kind that the kit gives out, with a wait that has no end."""
    make = yandexart_server.client if request.param == "sync" else yandexart_server.async_client
    return Face(make(timeout=None))


@pytest.fixture(params=["ours", "like yandex"])
def server(request: pytest.FixtureRequest, yandexart_server: ScriptedServer) -> ScriptedServer:
    """The server, as ours and as Yandex."""
    return yandexart_server if request.param == "ours" else yandexart_server.like_yandex()


class TestClock:
    """Time."""

    async def test_ten_minutes_are_over_at_once(self, art: Face, server: ScriptedServer) -> None:
        """A client waits for the picture in the time of the clock, whether its reads are held or planned."""
        server.finish_after(LONG)
        image = await art.generate("a red cat", aspect_ratio="16:9")
        assert (image.width, image.height) == (1344, 768)
        assert server.clock.now() == pytest.approx(LONG, rel=0.02)
        assert server.clock.now() >= LONG

    async def test_a_server_that_holds_reads_is_asked_as_often_as_it_holds_them(self, art: Face, server: ScriptedServer) -> None:
        """Once for twelve seconds and twice for forty, as a read is held for thirty; without being held, by the plan."""
        await art.generate("short")
        server.finish_after(40)
        await art.generate("long")
        reads = [server.ledger.of(prompt).reads for prompt in ("short", "long")]
        assert min(reads) > 3 if server.is_yandex else reads == [1, 2]

    async def test_the_same_happens_each_time(self, art: Face, yandexart_server: ScriptedServer) -> None:
        """Another server and another client count the same reads and come to the same instant."""
        runs = []
        with scripted() as other:
            again = other.client if isinstance(art.behind, YandexArt) else other.async_client
            for server, client in ((yandexart_server, art), (other, Face(again()))):
                server.like_yandex().finish_after(33)
                for _ in range(3):
                    await client.generate("a red cat")
                runs.append((server.ledger.reads, server.clock.now()))
                await client.close()
        assert runs[0] == runs[1]

    async def test_a_client_learns_how_long_pictures_take(self, art: Face, yandexart_server: ScriptedServer) -> None:
        """From what it is told on the clock: what took a hundred seconds ten times is asked about less often."""
        yandexart_server.like_yandex().finish_after(100)
        reads = []
        for number in range(10):
            await art.generate(f"{number}")
            reads.append(yandexart_server.ledger.of(f"{number}").reads)
        assert reads[-1] < reads[0] / 2

    async def test_many_wait_for_one_time(self, art: Face, server: ScriptedServer) -> None:
        """Pictures that are made at the same time are ready at the same time."""
        server.finish_after(SPAN)
        images = await collect(art, "map", [f"{number}" for number in range(8)], in_flight=8)
        assert sorted(image.index for image in images) == [*range(8)]
        assert SPAN <= server.clock.now() < 1.1 * SPAN
        assert server.ledger.generations == server.ledger.pictures == 8

    async def test_time_stands_still_where_nobody_waits(self, art: Face, server: ScriptedServer) -> None:
        """A question is no wait: time passes as `advance` says."""
        operation = await art.submit("a red cat")
        assert not await operation.done()
        server.clock.advance(11.9)
        assert not await operation.done()
        server.clock.advance(0.1)
        assert await operation.done()
        assert server.clock.now() == 12.0
        assert (await operation.result()).operation_id == operation.id

    async def test_a_timeout_is_one_of_the_clock(self, art: Face, server: ScriptedServer) -> None:
        """The wait ends before the picture does, and its id picks it up."""
        server.finish_after(LONG)
        with pytest.raises(OperationTimeout) as raised:
            await art.generate("a red cat", timeout=LONG / 2)
        assert server.clock.now() == pytest.approx(LONG / 2, abs=LAST)
        image = await (await art.operation(raised.value.operation_id)).result()
        assert image.operation_id == raised.value.operation_id
        assert server.ledger.generations == server.ledger.pictures == 1

    async def test_both_clients_share_the_time(self, server: ScriptedServer) -> None:
        """A thread that blocks and a task that awaits: when both have their pictures, the longer time is over, and no more."""
        server.finish_after(LONG)
        long = server.client(timeout=None).submit("long")
        server.finish_after(LONG / 2)
        short = await server.async_client(timeout=None).submit("short")
        images = await asyncio.gather(asyncio.to_thread(long.result), short.result())
        assert [image.prompt for image in images] == ["long", "short"]
        assert LONG <= server.clock.now() < 1.02 * LONG

    async def test_a_task_that_is_cancelled_stops_no_clock(self, yandexart_server: ScriptedServer) -> None:
        """Whoever gives up is not waited for."""
        yandexart_server.finish_after(reads=NEVER)
        art = yandexart_server.async_client(timeout=None)
        task = asyncio.create_task(art.generate("never"))
        await soon(lambda: yandexart_server.ledger.reads > 0, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        yandexart_server.finish_after(LONG)
        await art.generate("a red cat")

    def test_only_forward(self, yandexart_server: ScriptedServer) -> None:
        """A span of time is positive."""
        with pytest.raises(ValueError, match=r"seconds: -1 is not a positive number"):
            yandexart_server.clock.advance(-1)


class TestScript:
    """What a server can be told."""

    @pytest.mark.parametrize("code", ["UNAVAILABLE", grpc.StatusCode.INTERNAL])
    async def test_reads_fail(self, code: Any, art: Face, server: ScriptedServer) -> None:
        """The next two of them; the third is answered."""
        server.reads.fail(2, code)
        server.finish_after(reads=1)
        await art.generate("a red cat")
        assert server.ledger.reads == 3

    async def test_an_operation_is_done_at_a_read(self, art: Face, server: ScriptedServer) -> None:
        """At the third, whatever time it is."""
        server.finish_after(reads=3)
        await art.generate("a red cat")
        assert server.ledger.reads == 3

    async def test_a_prompt_is_refused(self, art: Face, server: ScriptedServer) -> None:
        """That one, and it is not paid for; another is drawn."""
        server.refuse("a bad cat")
        with pytest.raises(ContentRefused) as raised:
            await art.generate("a bad cat")
        await art.generate("a red cat")
        assert server.ledger.of("a bad cat")[:2] == (1, 0)
        assert server.ledger.generations == 1
        assert (raised.value.operation_id is None) == server.is_yandex

    async def test_an_answer_is_lost(self, art: Face, yandexart_server: ScriptedServer) -> None:
        """Our server is asked again with the same key, and nothing is bought twice."""
        yandexart_server.lose_next_answer()
        image = await art.generate("a red cat")
        assert image.prompt == "a red cat"
        assert yandexart_server.ledger.of("a red cat") == Counts(submits=2, generations=1, reads=1, pictures=1)

    async def test_an_answer_of_yandex_is_lost(self, art: Face, yandexart_server: ScriptedServer) -> None:
        """Nobody knows what became of the order, and whoever sends it again buys a second picture."""
        yandexart_server.like_yandex().lose_next_answer()
        with pytest.raises(OutcomeUnknown) as raised:
            await art.generate("a red cat")
        assert (yandexart_server.ledger.submits, yandexart_server.ledger.generations) == (1, 1)
        await art.generate("a red cat", idempotency_key=raised.value.idempotency_key)
        assert yandexart_server.ledger.generations == 2

    async def test_a_quota_refuses_an_order(self, art: Face, server: ScriptedServer) -> None:
        """It is sent again when the server says, and the refused one is not paid for."""
        server.finish_after(0).submits.fail(1, "RESOURCE_EXHAUSTED", retry_after=LONG)
        await art.generate("a red cat")
        assert server.clock.now() >= LONG
        assert server.ledger.of("a red cat")[:2] == (2, 1)
        server.submits.fail(1, "RESOURCE_EXHAUSTED", details="quota limit exceed: allowed 500 requests per day")
        with pytest.raises(QuotaExceeded, match="500 requests per day"):
            await art.generate("a blue dog", timeout=10)

    async def test_a_picture_fails(self, art: Face, server: ScriptedServer) -> None:
        """The operation ends with that error when its picture would have been ready."""
        server.pictures.fail(1, "INTERNAL", details="no paint")
        with pytest.raises(OperationFailed, match="no paint"):
            await art.generate("a red cat")
        assert (server.ledger.generations, server.ledger.pictures) == (1, 0)
        assert server.clock.now() >= 12

    async def test_an_operation_is_cancelled(self, art: Face, server: ScriptedServer) -> None:
        """Before its picture is ready, also while somebody waits for it."""
        operation = await art.submit("a red cat")
        assert await operation.cancel()
        with pytest.raises(OperationCancelled):
            await (await art.operation(operation.id)).result()
        assert server.clock.now() == 0

    async def test_what_the_server_does_not_know(self, art: Face, server: ScriptedServer) -> None:
        """An operation of nobody, read or cancelled, is not found."""
        for method in ("done", "cancel"):
            with pytest.raises(Exception, match="'nobody' not found"):
                await getattr(await art.operation("nobody"), method)()

    async def test_the_same_request_is_the_same_picture(self, art: Face, server: ScriptedServer) -> None:
        """And another seed another one."""
        one, same, other = [await art.generate("a red cat", seed=seed) for seed in (1, 1, 2)]
        assert one.data == same.data != other.data

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (lambda server: server.reads.fail(0), "times: 0 is not an integer from 1"),
            (lambda server: server.submits.fail(1, "OK"), "code: 'OK' is none of CANCELLED, UNKNOWN"),
            (lambda server: server.finish_after(), "seconds, reads: one of them is needed"),
            (lambda server: server.finish_after(1, reads=1), "seconds, reads: one of them is needed"),
            (lambda server: server.finish_after(-1), "seconds: -1 is not a number from 0"),
            (lambda server: server.finish_after(reads=0), "reads: 0 is not an integer from 1"),
        ],
    )
    def test_a_script_that_is_wrong(self, wrong: Callable[[ScriptedServer], object], words: str, server: ScriptedServer) -> None:
        """Is refused at once, by field, value and limit."""
        with pytest.raises(ValueError, match=words):
            wrong(server)
        assert server.unused() == []

    def test_the_ledger_tells_all(self, yandexart_server: ScriptedServer) -> None:
        """A failed assertion shows every count."""
        assert repr(yandexart_server.ledger) == "Ledger(submits=0, generations=0, reads=0, pictures=0)"


class TestOthers:
    """Callers that are not on the clock."""

    async def test_a_client_of_the_environment(self, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a service makes for itself comes to the server, and finds its picture ready at its first question."""
        server.finish_after(LONG)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        async with AsyncYandexArt() as art:
            await art.generate("a red cat")
        assert server.ledger.of("a red cat") == Counts(1, 1, 1, 1)

    def test_the_bare_stubs(self, server: ScriptedServer) -> None:
        """They too; and where reads decide, they have to ask so often."""
        server.finish_after(LONG)
        request = stubs.ImageGenerationRequest(
            model_uri="art://folder/yandex-art/latest", messages=[stubs.Message(text="a red cat")]
        )
        with grpc.insecure_channel(server.endpoint.removeprefix("http://")) as channel:
            generate, get = stubs.ImageGenerationAsyncServiceStub(channel).Generate, stubs.OperationServiceStub(channel).Get
            accepted = generate(request)
            read = get(stubs.GetOperationRequest(operation_id=accepted.id))
            assert read.done
            assert read.HasField("response")
            server.finish_after(reads=2)
            other = stubs.GetOperationRequest(operation_id=generate(request).id)
            assert [get(other).done for _ in range(3)] == [False, True, True]
        known = {field.name for field, _ in read.ListFields()}
        assert known == ({"id", "done", "response"} if server.is_yandex else known | {"created_at", "modified_at"})
        assert {field.name for field, _ in accepted.ListFields()} == (
            {"id"} if server.is_yandex else known - {"done", "response"}
        )

    def test_no_variable_reaches_a_client_of_the_kit(
        self, yandexart_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even one that is wrong."""
        names = ("YANDEXART_ENDPOINT", "YANDEXART_STORE", "YC_FOLDER_ID", "YC_API_KEY", "YC_TOKEN", "YANDEXART_TRUSTED_HOST")
        for name in names:
            monkeypatch.setenv(name, "no:/such thing")
        assert yandexart_server.client().generate("a red cat").prompt == "a red cat"

    async def test_announcements(self, server: ScriptedServer) -> None:
        """A client knows whether the server keeps keys."""
        art = server.client()
        art.warm_up()
        assert (art.idempotency_scope is None) == server.is_yandex
