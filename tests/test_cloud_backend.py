"""The cloud backend: a server of ours in front of a service that takes money, which is as foreign as Yandex or one of ours."""

import asyncio
import itertools
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc import StatusCode

from benchmarks.fleet import most_in
from tests.doors import AUTHORIZATION, PICTURE, Caller, ask, error_of, response_of
from tests.foreign import Answer, Foreign, Held, alone, failed, finished, jpeg, nameless, pictured, refused
from tests.images_upstream import REFUSAL
from tests.postgres import Postgres
from tests.processes import Started, program
from yandexart_grpc import ConfigurationError, stubs
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.server import Embedded, ServerSettings, embedded
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.backends.cloud import CLIENTS

Serve = Callable[..., Foreign]


@asynccontextmanager
async def cloud(upstream: str | None, **settings: Any) -> AsyncIterator[Caller]:
    """A caller of a server that orders at `upstream`, and is stopped without grace."""
    given = {"listen": "127.0.0.1:0", "backend": "cloud", "upstream": upstream, "upstream_timeout": 20.0, "grace": 0.0}
    async with serving(ServerSettings(**(given | settings))) as running, Caller(running.endpoint) as caller:
        yield caller


@asynccontextmanager
async def process(upstream: str, store: str) -> AsyncIterator[tuple[Caller, Started]]:
    """A caller of `yandexart serve --backend cloud` in a process of its own."""
    with program("--backend", "cloud", "--upstream", upstream, "--store", store) as server:
        async with Caller(server.endpoint) as caller:
            yield caller, server


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes foreign servers, whose orders are done at once where nothing else is said, and closes them in the end."""
    made: list[Foreign] = []

    def make(**script: Any) -> Foreign:
        made.append(Foreign(**{"image": PICTURE, "generate": itertools.repeat(pictured(PICTURE))} | script))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    return f"sqlite:///{tmp_path}/store.db"


async def until(true: Callable[[], object]) -> None:
    """Look again and again."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # it comes true in a thread of the foreign server
            await asyncio.sleep(0.01)


class TestForwarding:
    """The request and the picture."""

    @pytest.mark.parametrize(
        "request_",
        [
            ask(),
            stubs.ImageGenerationRequest(
                model_uri="art://another/yandex-art-2.0",
                messages=[stubs.Message(text="рыжий кот", weight=0.5), stubs.Message(text="rain", weight=-1)],
                generation_options=stubs.ImageGenerationOptions(
                    mime_type="image/jpeg", seed=2**63 - 1, aspect_ratio=stubs.AspectRatio(width_ratio=16, height_ratio=9)
                ),
            ),
            stubs.ImageGenerationRequest(
                model_uri="art://folder/m",
                messages=[stubs.Message(text="a cat", weight=1)],
                generation_options=stubs.ImageGenerationOptions(),
            ),
        ],
        ids=["no seed", "everything", "nothing"],
    )
    async def test_a_request_arrives_as_it_came(self, serve: Serve, request_: stubs.ImageGenerationRequest) -> None:
        """Each field, and none that was not there: where no seed was asked for, none is."""
        upstream = serve()
        async with cloud(upstream.listen()) as caller:
            assert response_of(await caller.made(request_)).image == PICTURE
        [order] = upstream.submits
        assert stubs.ImageGenerationRequest.FromString(order.request.SerializeToString()) == request_

    async def test_a_picture_comes_as_it_is(self, serve: Serve) -> None:
        """20 MB, byte by byte, with the version of its model."""
        large = stubs.ImageGenerationResponse(image=jpeg(size=20 * 2**20), model_version="2.1")
        upstream = serve(generate=[finished(large)])
        async with cloud(upstream.listen()) as caller:
            assert response_of(await caller.made()) == large

    async def test_a_server_of_ours_is_an_upstream(self, server: Embedded) -> None:
        """Its pictures arrive, and its refusals in its words."""
        async with cloud(server.endpoint) as caller:
            assert response_of(await caller.made()).model_version == "demo"
            assert error_of(await caller.made(ask("refuse this prompt"))) == (StatusCode.INVALID_ARGUMENT, REFUSAL)

    async def test_a_picture_that_was_ordered_cannot_be_cancelled(self, serve: Serve) -> None:
        """It is paid for, so it is handed over."""
        held = Held()
        upstream = serve(generate=[alone], reads=[held])
        async with cloud(upstream.listen()) as caller:
            operation_id = await caller.submit()
            await until(held.asked.is_set)
            assert not (await caller.cancel(operation_id)).done
            held.release.set()
            assert response_of(await caller.ended(operation_id)).image == PICTURE


class TestMoney:
    """What a failure means: nothing was ordered, or it may have been bought."""

    @pytest.mark.parametrize(
        "lost", [*map(refused, (StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.DEADLINE_EXCEEDED)), nameless]
    )
    async def test_an_order_whose_answer_is_lost_is_not_sent_again(self, serve: Serve, lost: Answer) -> None:
        """It ends as ABORTED, in words that say that it may have been bought."""
        upstream = serve(generate=[lost])
        async with cloud(upstream.listen()) as caller:
            code, words = error_of(await caller.made())
        assert code is StatusCode.ABORTED
        assert "may have been bought" in words
        assert len(upstream.executions) == 1

    async def test_a_server_that_keeps_keys_is_asked_again(self, serve: Serve) -> None:
        """With the same key, so that it makes one picture."""
        upstream = serve(generate=[refused(StatusCode.UNAVAILABLE), pictured(PICTURE)], scope="there")
        async with cloud(upstream.listen()) as caller:
            assert response_of(await caller.made()).image == PICTURE
        assert (len(upstream.submits), len(upstream.executions)) == (2, 1)

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (StatusCode.INVALID_ARGUMENT, REFUSAL),
            (StatusCode.INVALID_ARGUMENT, "Specified folder ID 'x' does not match with service account folder ID 'y'"),
            (StatusCode.PERMISSION_DENIED, "Access to model art://folder/yandex-art/latest denied"),
            (StatusCode.UNAUTHENTICATED, "Unknown api key"),
            (StatusCode.RESOURCE_EXHAUSTED, "daily quota limit exceed: allowed 5000 requests"),
            (StatusCode.FAILED_PRECONDITION, "the model is not allowed here"),
        ],
    )
    @pytest.mark.parametrize("where", ["of the call", "of the operation"])
    async def test_a_refusal_keeps_code_and_words(self, serve: Serve, code: StatusCode, words: str, where: str) -> None:
        """Whether `Generate` says it, or the operation."""
        upstream = serve(generate=[refused(code, words) if where == "of the call" else failed(code.value[0], words)])
        async with cloud(upstream.listen()) as caller:
            assert error_of(await caller.made()) == (code, words)
        assert len(upstream.submits) == 1

    async def test_a_quota_is_waited_for(self, serve: Serve) -> None:
        """As long as the server says."""
        full = refused(StatusCode.RESOURCE_EXHAUSTED, metadata=(("grpc-retry-pushback-ms", "100"),))
        upstream = serve(generate=[full, pictured(PICTURE)])
        async with cloud(upstream.listen()) as caller:
            assert response_of(await caller.made()).image == PICTURE

    async def test_a_server_that_is_not_there_is_tried_and_nothing_is_ordered(self) -> None:
        """For a while, which is told."""
        async with cloud("http://127.0.0.1:1", upstream_timeout=0.5) as caller:
            code, words = error_of(await caller.made())
        assert code is StatusCode.UNAVAILABLE
        assert "nothing was ordered" in words
        assert words.endswith("tried for 0.5 s")

    async def test_a_server_that_comes_later_gets_the_order(self, serve: Serve) -> None:
        """Once."""
        upstream = serve()
        endpoint = upstream.listen()
        upstream.close()
        async with cloud(endpoint) as caller:
            operation_id = await caller.submit()
            await asyncio.sleep(0.3)
            upstream.listen(port=int(endpoint.rpartition(":")[2]))
            assert response_of(await caller.ended(operation_id)).image == PICTURE
        assert len(upstream.executions) == 1

    async def test_what_is_never_done_is_given_up(self, serve: Serve) -> None:
        """In words that name the order, and the backend that serves the live model."""
        upstream = serve(generate=[alone], reads=itertools.repeat(alone))
        async with cloud(upstream.listen(), upstream_timeout=0.5) as caller:
            code, words = error_of(await caller.made())
        assert code is StatusCode.DEADLINE_EXCEEDED
        assert "not done with it within 0.5 s; operation fbv00000000000000000 at the upstream may have been bought" in words
        assert "yandexart serve --backend images" in words

    async def test_what_cannot_be_read_is_not_said_to_be_never_done_alone(self, serve: Serve) -> None:
        """The last failure stands beside it."""
        upstream = serve(generate=[alone], reads=itertools.repeat(refused(StatusCode.INTERNAL, "the disk is gone")))
        async with cloud(upstream.listen(), upstream_timeout=1.0) as caller:
            code, words = error_of(await caller.made())
        assert code is StatusCode.DEADLINE_EXCEEDED
        assert "the disk is gone" in words

    @pytest.mark.parametrize(
        ("answer", "code", "said"),
        [
            (refused(StatusCode.UNAUTHENTICATED, "Token is invalid or has expired."), StatusCode.UNAUTHENTICATED, "Token is inv"),
            (pictured(PICTURE[:500]), StatusCode.DATA_LOSS, "truncated JPEG"),
        ],
    )
    async def test_an_order_that_cannot_be_read_is_named(self, serve: Serve, answer: Answer, code: StatusCode, said: str) -> None:
        """Because it may have been bought."""
        upstream = serve(generate=[alone], reads=[answer])
        async with cloud(upstream.listen()) as caller:
            got, words = error_of(await caller.made())
        assert got is code
        assert said in words
        assert "operation fbv00000000000000000 at the upstream may have been bought" in words


class TestRestart:
    """What was ordered is waited for again."""

    async def test_a_foreign_order_is_waited_for_again(self, serve: Serve, file: str) -> None:
        """It is bought once, in the name of the caller, and read without one: the upstream wants none."""
        held = Held()
        upstream = serve(generate=[alone], reads=[held])
        endpoint = upstream.listen()
        async with cloud(endpoint, store=file) as caller:
            operation_id = await caller.submit()
            await until(held.asked.is_set)
        held.release.set()
        async with cloud(endpoint, store=file) as caller:
            assert response_of(await caller.ended(operation_id)).image == PICTURE
        assert len(upstream.executions) == 1
        assert [order.metadata.get("authorization") for order in upstream.reads] == [AUTHORIZATION, None]

    async def test_an_order_at_a_server_of_ours_is_waited_for_again(self, file: str, tmp_path: Path) -> None:
        """One operation here, one there."""
        theirs = tmp_path / "theirs.db"
        with embedded(duration="fixed:1", store=f"sqlite:///{theirs}") as upstream, closing(sqlite3.connect(theirs)) as reader:

            def orders() -> list[Any]:
                return reader.execute("SELECT id FROM operations").fetchall()

            async with cloud(upstream.endpoint, store=file) as caller:
                operation_id = await caller.submit()
                await until(orders)
                await asyncio.sleep(0.2)
            async with cloud(upstream.endpoint, store=file) as caller:
                assert response_of(await caller.ended(operation_id)).model_version == "demo"
            assert len(orders()) == 1

    @pytest.mark.parametrize("known", [True, False])
    async def test_without_its_caller_an_order_ends_where_one_is_wanted(self, serve: Serve, file: str, known: bool) -> None:
        """At Yandex it is not even tried; any other server says so itself. The order is named: it may have been bought."""
        held = Held()
        wanted = refused(StatusCode.UNAUTHENTICATED, "Unknown api key")
        upstream = serve(generate=[alone], reads=[held, wanted])
        endpoint = upstream.listen()
        async with cloud(endpoint, store=file) as caller:
            operation_id = await caller.submit()
            await until(held.asked.is_set)
        held.release.set()
        async with cloud(endpoint if known else None, store=file) as caller:
            code, words = error_of(await caller.ended(operation_id))
        assert code is StatusCode.UNAUTHENTICATED
        assert "operation fbv00000000000000000 at the upstream may have been bought" in words
        assert len(upstream.reads) == 1 + known

    async def test_a_killed_server_waits_again(self, serve: Serve, file: str) -> None:
        """SIGKILL in the middle of the wait: the next process on the store hands out the picture, which was bought once."""
        held = Held()
        upstream = serve(generate=[alone], reads=[held])
        endpoint = upstream.listen()
        async with process(endpoint, file) as (caller, server):
            operation_id = await caller.submit()
            await until(held.asked.is_set)
            server.process.kill()
        held.release.set()
        async with process(endpoint, file) as (caller, _):
            assert response_of(await caller.ended(operation_id)).image == PICTURE
        assert len(upstream.executions) == 1


class TestReads:
    """How often the upstream is asked, by its own ledger."""

    @pytest.mark.parametrize("servers", [1, 3])
    async def test_all_servers_together_ask_no_more_than_the_quota(
        self, serve: Serve, servers: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In any second, wherever it begins; each order is asked about, and what is left is told."""
        store = str(request.getfixturevalue("file") if servers == 1 else request.getfixturevalue("postgres").database())
        upstream = serve(generate=itertools.repeat(alone))
        monkeypatch.setenv("YC_API_KEY", "AQVN-server")
        options = ["--backend", "cloud", "--upstream", upstream.listen(), "--upstream-credentials", "server", "--store", store]
        async with AsyncExitStack() as life:
            callers = []
            for _ in range(servers):
                started = life.enter_context(program(*options, "--quota", "reads=2"))
                callers.append(await life.enter_async_context(Caller(started.endpoint)))
            ended = await asyncio.gather(*(callers[number % servers].made(ask(f"cat {number}")) for number in range(6)))
            told = CliRunner().invoke(yandexart, ["quota", "--store", store])
        assert [response_of(operation).image for operation in ended] == [PICTURE] * 6
        assert len(upstream.reads) == 6
        assert most_in(1.0, [read.at for read in upstream.reads]) <= 2
        assert re.search(r"^folder: any number at once, .+ UTC, 2 reads a second, the next in \d\.\d\d s$", told.stdout)

    async def test_a_store_that_fails_for_a_moment_ends_no_operation(
        self, serve: Serve, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is read upstream when the store is back."""
        monkeypatch.setenv("YC_API_KEY", "AQVN-server")
        upstream, store = serve(generate=[alone], reads=[alone]), postgres.database()
        async with cloud(upstream.listen(), store=store, upstream_credentials="server", quota="reads=50") as caller:
            operation_id = await caller.submit()
            await until(lambda: upstream.reads)
            postgres.do("ALTER TABLE reads RENAME TO away", store)
            ended = asyncio.create_task(caller.ended(operation_id))
            await until(lambda: "the quota of folder folder is not known" in caplog.text)
            assert len(upstream.reads) == 1
            postgres.do("ALTER TABLE away RENAME TO reads", store)
            assert response_of(await ended).image == PICTURE

    async def test_without_a_quota_of_reads_the_store_is_not_asked(self, serve: Serve, file: str) -> None:
        """However many there are."""
        upstream = serve(generate=itertools.repeat(alone))
        async with cloud(upstream.listen(), store=file, quota="minute=500,day=5000") as caller:
            for _ in range(3):
                await caller.made()
        with closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as reader:
            assert reader.execute("SELECT count(*) FROM reads").fetchall() == [(0,)]


class TestCredentials:
    """In whose name pictures are ordered."""

    async def test_callers_are_never_mixed(self, serve: Serve) -> None:
        """Every call about an order carries the authorization of the one who placed it, and no other."""
        upstream = serve(generate=itertools.repeat(alone), image=lambda request: jpeg(seed=len(request.messages[0].text)))
        prompts = {prompt: f"Bearer t1.{prompt}" for prompt in ("x" * length for length in range(1, 9))}
        async with cloud(upstream.listen()) as caller:
            operations = await asyncio.gather(*(caller.made(ask(prompt), authorization=prompts[prompt]) for prompt in prompts))
        assert [response_of(operation).image for operation in operations] == [jpeg(seed=len(prompt)) for prompt in prompts]
        owners = {}
        for number, order in enumerate(upstream.executions):
            owners[f"fbv{number:017}"] = order.metadata["authorization"]
            assert order.metadata["authorization"] == prompts[order.request.messages[0].text]
        for read in upstream.reads:
            assert read.metadata["authorization"] == owners[read.request.operation_id]

    async def test_more_callers_than_are_remembered_are_all_served(self, serve: Serve) -> None:
        """The connection of whoever came longest ago is closed, and never one that somebody waits on."""
        peers: dict[str, list[str]] = {}

        def answer(operation: Any, context: grpc.ServicerContext) -> None:
            caller = str(dict(context.invocation_metadata())["authorization"])
            peers.setdefault(caller, []).append(context.peer())
            pictured(PICTURE)(operation, context)

        held = Held()
        upstream = serve(generate=itertools.chain([alone], itertools.repeat(answer)), reads=[held])
        names = [f"Api-Key {number}" for number in range(CLIENTS + 3)]
        async with cloud(upstream.listen()) as caller:
            waiting = await caller.submit(authorization="Api-Key waiting")
            await until(held.asked.is_set)
            for name in [*names, names[-1], names[0]]:
                assert response_of(await caller.made(authorization=name)).image == PICTURE
            held.release.set()
            assert response_of(await caller.ended(waiting)).image == PICTURE
        assert len(set(peers[names[-1]])) == 1
        assert len(set(peers[names[0]])) == 2

    async def test_a_caller_without_one_is_not_given_that_of_the_server(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is sent on in his name."""
        monkeypatch.setenv("YC_API_KEY", "AQVN-server")
        upstream = serve()
        async with cloud(upstream.listen()) as caller:
            await caller.made(authorization=None)
        assert "authorization" not in upstream.submits[0].metadata

    async def test_yandex_is_not_asked_without_one(self) -> None:
        """It would refuse, and nothing was ordered."""
        async with cloud(None) as caller:
            code, words = error_of(await caller.made(authorization=None))
        assert code is StatusCode.UNAUTHENTICATED
        assert words.startswith("authorization: ")
        assert words.endswith("nothing was ordered")

    async def test_the_server_may_pay(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then nobody's own authorization leaves it."""
        monkeypatch.setenv("YC_API_KEY", "AQVN-server")
        upstream = serve()
        async with cloud(upstream.listen(), upstream_credentials="server") as caller:
            await caller.made()
        assert upstream.submits[0].metadata["authorization"] == "Api-Key AQVN-server"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"upstream": "nowhere"}, "upstream: 'nowhere' is none of"),
        ({"upstream": "demo://"}, "upstream: 'demo://' is a server inside a process"),
        ({"upstream_credentials": "both"}, "upstream_credentials: 'both' is neither 'caller' nor 'server'"),
        ({"upstream_credentials": "server"}, "upstream_credentials: 'server' needs one of YC_API_KEY"),
        ({"upstream_timeout": 0}, "upstream_timeout: 0 is not a positive number of seconds"),
    ],
)
async def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    """What is wrong is named before anything is served."""
    with pytest.raises(ConfigurationError, match=words):
        async with serving(ServerSettings(**({"listen": "127.0.0.1:0", "backend": "cloud"} | settings))):
            pytest.fail("it was served")
