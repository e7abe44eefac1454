"""Who may call the server, what is his, and how much of it he may have; over our clients, plain stubs and bare sockets."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import httpx2
import pytest
import trustme
from grpc import StatusCode

from tests.doors import soon
from tests.test_durability import Scripted, entry, refusal
from yandexart_grpc import AsyncYandexArt, ConfigurationError, QuotaExceeded, Unauthenticated, YandexArt, stubs
from yandexart_grpc.failures import retry_after
from yandexart_grpc.request import ImageRequest, Message
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.callers import Caller, Callers
from yandexart_grpc.server.doors import grpc as door
from yandexart_grpc.server.store import open_store

ALICE, BOB, CAROL = "AQVNalice0", "AQVNbob00", "AQVNcarol"
KEYS = f"""\
# who may order
alice  {ALICE}
bob\t{BOB}    # by the day

carol {CAROL} b1gcarol
"""
CONTRACT = {
    f"/{service.full_name}/{method.name}": method
    for request in (stubs.ImageGenerationRequest, stubs.GetOperationRequest, stubs.CreateIamTokenRequest)
    for service in request.DESCRIPTOR.file.services_by_name.values()
    for method in service.methods
}
"""Every method behind which there is something of a caller, or to be had."""
GENERATE, GET, CANCEL = (
    next(path for path in CONTRACT if path.endswith(end)) for end in ("Service/Generate", "Service/Get", "Service/Cancel")
)


def ask(text: str = "a cat", folder: str = "folder") -> stubs.ImageGenerationRequest:
    return stubs.ImageGenerationRequest(model_uri=f"art://{folder}/model", messages=[stubs.Message(text=text, weight=1)])


class Voice:
    """A channel and a credential, with nothing but bytes in between."""

    def __init__(self, channel: grpc.aio.Channel, authorization: str | None) -> None:
        self._channel = channel
        self._metadata = () if authorization is None else (("authorization", authorization),)

    def call(self, path: str, request: Any, *metadata: tuple[str, str]) -> Any:
        """A call under way."""
        method = self._channel.unary_unary(path, type(request).SerializeToString, stubs.Operation.FromString)
        return method(request, timeout=20, metadata=(*self._metadata, *metadata))

    def order(self, text: str = "a cat", *, folder: str = "folder", key: str | None = None) -> Any:
        """A submit under way."""
        return self.call(GENERATE, ask(text, folder), *(() if key is None else (("idempotency-key", key),)))

    async def submit(self, **given: Any) -> str:
        """The id of a new operation."""
        return str((await self.order(**given)).id)

    def get(self, operation_id: str, hold: int | None = None) -> Any:
        """A read under way."""
        metadata = () if hold is None else (("prefer", f"wait={hold}"),)
        return self.call(GET, stubs.GetOperationRequest(operation_id=operation_id), *metadata)

    def held(self, operation_id: str) -> Any:
        """A read under way whose initial metadata are here before its answer: gRPC gives a unary call all at once."""
        method: Any = self._channel.unary_stream(GET, None, stubs.Operation.FromString)
        request = stubs.GetOperationRequest(operation_id=operation_id).SerializeToString()
        return method(request, timeout=20, metadata=(*self._metadata, ("prefer", "wait=20")))

    def cancel(self, operation_id: str) -> Any:
        """An attempt to cancel."""
        return self.call(CANCEL, stubs.CancelOperationRequest(operation_id=operation_id))


class Served:
    """A server, and whoever calls it."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint, self.channel = endpoint, channel

    def by(self, key: str) -> Voice:
        """A caller with that key."""
        return Voice(self.channel, f"Api-Key {key}")


@asynccontextmanager
async def server(backend: Scripted | None = None, *, listen: str = "127.0.0.1:0", **settings: Any) -> AsyncIterator[Served]:
    """A server with that backend, or one that is done at once."""
    if backend is None:
        backend = Scripted()
        backend.let.set()
    given = ServerSettings(listen=listen, backend=backend, grace=0.0, **settings)
    async with (
        serving(given) as running,
        grpc.aio.insecure_channel(running.endpoint.removeprefix("http://"), [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        yield Served(running.endpoint, channel)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A file with keys."""
    (tmp_path / "keys").write_text(KEYS)
    return str(tmp_path / "keys")


class TestKeys:
    """The file of keys."""

    def test_a_key_tells_whose_it_is(self, keys: str) -> None:
        """In either spelling of the header, and with the folder that belongs to it."""
        callers = Callers(keys)
        for spelling in (f"Api-Key {ALICE}", f"Bearer {ALICE}", f"  api-key   {ALICE}\n"):
            assert callers.known(spelling) == Caller("alice")
        assert callers.known(f"Bearer {CAROL}") == Caller("carol", "b1gcarol")

    @pytest.mark.parametrize(
        ("shown", "words"),
        [
            ("", "authorization: neither 'Api-Key <key>' nor 'Bearer <key>' was sent"),
            (ALICE, "authorization: neither"),
            (f"Basic {ALICE}", "authorization: neither"),
            (f"Api-Key {ALICE} {BOB}", "authorization: neither"),
            ("Api-Key ", "authorization: neither"),
            (f"Api-Key {ALICE}x", "Unknown api key"),
            (f"Api-Key {ALICE[:-1]}", "Unknown api key"),
            (f"Api-Key {ALICE.lower()}", "Unknown api key"),
            ("Api-Key ключ", "Unknown api key"),
            ("Bearer t1.token", "Token is invalid or has expired."),
        ],
    )
    def test_nobody_else_is_known(self, keys: str, shown: str, words: str) -> None:
        """In the words of the service, which do not repeat what was shown."""
        with pytest.raises(Unauthenticated) as caught:
            Callers(keys).known(shown)
        assert str(caught.value).startswith(words)
        assert not any(part in str(caught.value) for part in shown.split() if part not in ("Api-Key", "Bearer"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "there is no key in it"),
            ("# alice AQVNcanary", "there is no key in it"),
            ("a AQVNcanary\nb", "line 2: not a name"),
            ("a AQVNcanary folder more", "line 1: not a name"),
            ("a AQVNcanary b1g/x", "line 1: not a name"),
            ("a! AQVNcanary", "line 1: not a name"),
            ("\n\na AQVNcanaryключ", "line 3: not a name"),
            ("a AQVNcanary\na AQVNcanary2", "line 2: the name 'a' was given before"),
            ("a AQVNcanary\n\nb AQVNcanary folder", "line 3: 'b' has the key of 'a'"),
            ("a AQVNcanary\udcff", "not UTF-8"),
        ],
    )
    def test_a_wrong_file_is_refused(self, tmp_path: Path, text: str, words: str) -> None:
        """With the number of the line, and never with a key."""
        (tmp_path / "keys").write_text(text, errors="surrogateescape")
        with pytest.raises(ConfigurationError, match=words) as caught:
            Callers(str(tmp_path / "keys"))
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        """With the reason."""
        with pytest.raises(ConfigurationError, match=r"key_file: '.*/none': No such file or directory"):
            Callers(str(tmp_path / "none"))

    def test_the_file_is_read_again(self, keys: str, caplog: pytest.LogCaptureFixture) -> None:
        """What is gone is unknown; a wrong file changes nothing, and the log says so without a key."""
        callers = Callers(keys)
        Path(keys).write_text("alice AQVNnew")
        callers.reread()
        assert callers.known("Api-Key AQVNnew") == Caller("alice")
        with pytest.raises(Unauthenticated):
            callers.known(f"Api-Key {BOB}")
        Path(keys).write_text("alice AQVNnewer\nalice AQVNcanary")
        callers.reread()
        assert callers.known("Api-Key AQVNnew") == Caller("alice")
        assert [(record.levelname, record.message[-70:]) for record in caplog.records] == [
            ("ERROR", "line 2: the name 'alice' was given before; the keys of before stay in force"[-70:])
        ]

    def test_only_the_digest_is_kept(self, keys: str) -> None:
        """No key is in what the server remembers."""
        assert ALICE not in str(vars(Callers(keys)))
        assert "alice" in str(vars(Callers(keys)))

    def test_so_many_requests_a_second(self, keys: str) -> None:
        """For each caller: a second of rest is worth a second of haste, and who is turned away is told when to come back."""
        now = 0.0
        callers = Callers(keys, requests_per_second=4, now=lambda: now)

        def burst(key: str) -> int:
            waits = [wait for _ in range(9) if (wait := self._wait(callers, key))]
            assert all(wait == pytest.approx(0.25) for wait in waits)
            return 9 - len(waits)

        assert [burst(ALICE), burst(ALICE), burst(BOB)] == [4, 0, 4]
        now = 0.5
        assert burst(ALICE) == 2
        now = 1000.0
        assert burst(ALICE) == 4

    def _wait(self, callers: Callers, key: str) -> float | None:
        """The seconds that a caller is told to wait, if he is."""
        try:
            callers.known(f"Api-Key {key}")
        except QuotaExceeded as error:
            return error.retry_after
        return None

    def test_less_than_one_request_a_second(self) -> None:
        """Is one in so many seconds."""
        now = 0.0
        callers = Callers(requests_per_second=0.1, now=lambda: now)
        callers.known("")
        with pytest.raises(QuotaExceeded) as caught:
            callers.known("")
        assert caught.value.retry_after == pytest.approx(10)
        now = 10.0
        callers.known("")


class TestDoor:
    """The gRPC door of a server with keys."""

    @pytest.mark.parametrize("authorization", [None, "Api-Key AQVNnobody", "Bearer t1.nobody", "nonsense"])
    async def test_without_a_key_nothing_is_to_be_had(self, keys: str, authorization: str | None) -> None:
        """Of every method of the contract; and no token is given, which would go round the keys."""
        backend = Scripted()
        async with server(backend, key_file=keys) as served:
            stranger = Voice(served.channel, authorization)
            operation_id = await served.by(ALICE).submit()
            await backend.begun.wait()
            requests = {GENERATE: ask(), GET: stubs.GetOperationRequest(operation_id=operation_id)}
            requests[CANCEL] = stubs.CancelOperationRequest(operation_id=operation_id)
            for path in CONTRACT:
                code, words = await refusal(stranger.call(path, requests.get(path, stubs.CreateIamTokenRequest(jwt="a.b.c"))))
                assert code is (StatusCode.UNAUTHENTICATED if path in requests else StatusCode.UNIMPLEMENTED), path
                assert "nobody" not in words
            assert backend.asked == ["a cat"]
            assert not (await served.by(ALICE).get(operation_id)).done

    async def test_health_and_discovery_are_open(self, keys: str) -> None:
        """Whoever looks for the server may find it."""
        async with server(key_file=keys) as served:
            health: Any = served.channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await health(b"", timeout=5) == b"\x08\x01"
            directory: Any = stubs.ApiEndpointServiceStub(served.channel)
            assert (await directory.List(stubs.ListApiEndpointsRequest(), timeout=5)).endpoints

    async def test_our_clients_get_a_picture_with_a_key(self, keys: str) -> None:
        """Either of them; and without one, an error that says what is missing."""
        async with server(key_file=keys) as served:
            async with AsyncYandexArt(endpoint=served.endpoint, folder_id="f", credentials=ALICE) as art:
                assert await art.generate("a cat")

            def blocking() -> None:
                with YandexArt(endpoint=served.endpoint, folder_id="f", credentials=BOB) as art:
                    assert art.generate("a cat")
                refused = pytest.raises(Unauthenticated, match="'Api-Key <key>'")
                with YandexArt(endpoint=served.endpoint, folder_id="f") as art, refused:
                    art.generate("a cat")

            await asyncio.to_thread(blocking)

    async def test_what_is_anothers_is_as_if_it_were_not(self, keys: str) -> None:
        """Every method that takes an id answers another caller as it answers everybody to an id that nobody gave out."""
        backend = Scripted()
        async with server(backend, key_file=keys) as served:
            alice, bob = served.by(ALICE), served.by(BOB)
            operation_id = await alice.submit()
            unknown = "fbv" + "0" * 17
            for done in (False, True):
                ways: tuple[Callable[[str], Any], ...] = (bob.get, lambda name: bob.get(name, hold=5), bob.cancel)
                for way in ways:
                    code, words = await refusal(way(operation_id))
                    assert (code, words.replace(operation_id, unknown)) == await refusal(way(unknown))
                    assert code is StatusCode.NOT_FOUND
                assert (await alice.get(operation_id)).done is done
                backend.let.set()
                await alice.get(operation_id, hold=5)
            assert (await alice.get(operation_id)).WhichOneof("result") == "response"

    async def test_the_same_key_of_idempotency_is_anothers_own(self, keys: str) -> None:
        """It is neither told of, nor refused, nor answered with what is not his."""
        async with server(key_file=keys) as served:
            first = await served.by(ALICE).submit(key="k")
            assert await served.by(BOB).submit(text="a dog", key="k") != first
            assert await served.by(ALICE).submit(key="k") == first

    async def test_operations_outlive_the_key_by_the_name(self, keys: str, tmp_path: Path) -> None:
        """A new key for a name is the same caller, also after a restart."""
        store = f"sqlite:///{tmp_path}/store.db"
        async with server(key_file=keys, store=store) as served:
            operation_id = await served.by(ALICE).submit()
            await served.by(ALICE).get(operation_id, hold=5)
        keys = str(tmp_path / "new")
        (tmp_path / "new").write_text(f"alice AQVNnew\ncarol {ALICE}")
        async with server(key_file=keys, store=store) as served:
            assert (await served.by("AQVNnew").get(operation_id)).done
            assert (await refusal(served.by(ALICE).get(operation_id)))[0] is StatusCode.NOT_FOUND

    async def test_a_key_of_a_folder_orders_there_alone(self, keys: str) -> None:
        """Another folder is refused in the words of the service."""
        async with server(key_file=keys) as served:
            carol = served.by(CAROL)
            assert await carol.submit(folder="b1gcarol")
            assert await refusal(carol.order(folder="b1gbob")) == (
                StatusCode.INVALID_ARGUMENT,
                "Specified folder ID 'b1gbob' does not match with service account folder ID 'b1gcarol'",
            )

    async def test_a_key_of_this_server_goes_no_further(self, keys: str) -> None:
        """The backend is told what a caller sent only where it was not meant for this server."""

        class Curious(Scripted):
            async def generate(self, request: ImageRequest, upstream: Any) -> stubs.ImageGenerationResponse:
                self.asked.append(upstream.authorization)
                return stubs.ImageGenerationResponse(image=b"x")

        backend = Curious()
        for key_file in (keys, None):
            async with server(backend, key_file=key_file) as served:
                await served.by(ALICE).get(await served.by(ALICE).submit(), hold=5)
        assert backend.asked == ["", f"Api-Key {ALICE}"]

    async def test_what_is_no_message_is_said_to_be_none(self, keys: str, caplog: pytest.LogCaptureFixture) -> None:
        """By every method, and the log stays empty."""
        async with server(key_file=keys) as served:
            for path in (*CONTRACT, "/grpc.health.v1.Health/Check"):
                raw: Any = served.channel.unary_unary(path)
                assert (await refusal(raw(b"\xff\xff", timeout=5)))[0] is StatusCode.INVALID_ARGUMENT
            for path, kind in (
                ("health.v1.Health/Watch", "unary_stream"),
                ("reflection.v1alpha.ServerReflection", "stream_stream"),
            ):
                method: Any = getattr(served.channel, kind)(f"/grpc.{path}" + "/ServerReflectionInfo" * (kind == "stream_stream"))
                call = method(b"\xff\xff" if kind == "unary_stream" else iter([b"\xff\xff"]), timeout=5)
                assert (await refusal(call.read()))[0] is StatusCode.INVALID_ARGUMENT
        assert caplog.records == []

    async def test_the_words_of_a_refusal_fit_into_a_header(self) -> None:
        """However long what was wrong is."""
        async with server() as served:
            code, words = await refusal(Voice(served.channel, None).get("🐱" * 100_000))
        assert code is StatusCode.NOT_FOUND
        assert len(words) == 500


class TestLimits:
    """What one caller may have of the server."""

    async def test_so_many_operations_in_flight(self, keys: str, tmp_path: Path) -> None:
        """More are refused with the time to come back; what is known by its key is not, and nobody else is."""
        backend = Scripted()
        settings: dict[str, Any] = {"key_file": keys, "in_flight_per_caller": 2, "store": f"sqlite:///{tmp_path}/db"}
        async with server(backend, **settings) as served:
            alice, bob = served.by(ALICE), served.by(BOB)
            known = [await alice.submit(key=name) for name in "ab"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await alice.order()
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert "2 operations of this caller" in (caught.value.details() or "")
            assert retry_after(caught.value) == 1.0
            assert [await alice.submit(key=name) for name in "ab"] == known
            assert await bob.submit()
        async with server(backend, **settings) as served:  # they are still in flight after a restart
            alice = served.by(ALICE)
            assert (await refusal(alice.order()))[0] is StatusCode.RESOURCE_EXHAUSTED
            assert (await alice.cancel(known[0])).done
            assert await alice.submit()
            assert (await refusal(alice.order()))[0] is StatusCode.RESOURCE_EXHAUSTED
            backend.let.set()
            await alice.get(known[1], hold=5)
            assert await alice.submit()

    async def test_a_burst_is_counted_too(self, keys: str) -> None:
        """Orders that arrive together are not more than those that come one by one."""
        async with server(Scripted(), key_file=keys, in_flight_per_caller=3) as served:
            orders = [served.by(ALICE).order() for _ in range(10)]
            codes = [await order.code() for order in orders]
        assert (codes.count(StatusCode.OK), codes.count(StatusCode.RESOURCE_EXHAUSTED)) == (3, 7)

    async def test_so_many_requests_a_second(self, keys: str) -> None:
        """Of whatever kind, for each caller alone."""
        async with server(key_file=keys, requests_per_second=0.05) as served:
            alice = served.by(ALICE)
            operation_id = await alice.submit()
            calls: tuple[Callable[[], Awaitable[Any]], ...] = (
                alice.order,
                lambda: alice.get(operation_id),
                lambda: alice.cancel(operation_id),
            )
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call()
                assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
                assert 0 < (retry_after(caught.value) or 0) <= 20
            assert await served.by(BOB).submit()

    async def test_our_client_comes_back_when_it_is_told(self, keys: str) -> None:
        """An order that came too soon is sent again, and gets its picture."""
        async with (
            server(key_file=keys, requests_per_second=5) as served,
            AsyncYandexArt(endpoint=served.endpoint, folder_id="f", credentials=ALICE) as art,
        ):
            images = [image async for image in art.map(["a cat"] * 8, in_flight=8, timeout=30)]
        assert len(images) == 8

    @pytest.mark.parametrize("limit", [{"held_reads": 2}, {"held_reads_per_caller": 2}])
    async def test_so_many_reads_are_held(self, keys: str, limit: dict[str, Any]) -> None:
        """Any more are answered at once, and it is not announced that they would be held; places are given back."""
        backend = Scripted()
        async with server(backend, key_file=keys, **limit) as served:
            alice, bob = served.by(ALICE), served.by(BOB)
            mine, bobs = await alice.submit(), await bob.submit()
            held = [alice.held(mine) for _ in range(2)]
            for call in held:
                assert dict(await call.initial_metadata())["preference-applied"] == "wait"
            await alice.get(mine)
            third = alice.get(mine, hold=20)
            assert not (await asyncio.wait_for(third, 5)).done
            assert "preference-applied" not in dict(await third.initial_metadata())
            another = bob.held(bobs)
            assert ("preference-applied" in dict(await another.initial_metadata())) is ("held_reads_per_caller" in limit)
            for call in held:
                call.cancel()
            another.cancel()
            await asyncio.sleep(0.05)
            again = alice.held(mine)
            assert dict(await again.initial_metadata())["preference-applied"] == "wait"
            backend.let.set()
            assert (await again.read()).done

    async def test_our_client_waits_without_being_held(self, keys: str) -> None:
        """It asks by the plan where there is no place."""
        backend = Scripted()
        async with (
            server(backend, key_file=keys, held_reads=1) as served,
            AsyncYandexArt(endpoint=served.endpoint, folder_id="f", credentials=ALICE) as art,
        ):
            operations = [await art.submit("a cat") for _ in range(5)]
            waits = [asyncio.create_task(operation.result(timeout=20)) for operation in operations]
            await asyncio.sleep(0.05)
            backend.let.set()
            assert len(await asyncio.gather(*waits)) == 5

    async def test_a_request_that_is_too_large(self) -> None:
        """gRPC itself refuses it, packed or not, as RESOURCE_EXHAUSTED; our client says that the request is too large."""
        large = stubs.ImageGenerationRequest(model_uri="art://f/m", messages=[stubs.Message(text="x" * 5000, weight=-1)])
        async with server(max_request_bytes=4096) as served:
            code, words = await refusal(Voice(served.channel, None).call(GENERATE, large))
            assert code is StatusCode.RESOURCE_EXHAUSTED
            assert words.startswith("SERVER: Received message larger than max")
            bomb = stubs.ImageGenerationRequest(model_uri="art://f/m", messages=[stubs.Message(text="x" * 10**6, weight=-1)])
            method: Any = served.channel.unary_unary(GENERATE)
            packed = method(bomb.SerializeToString(), timeout=20, compression=grpc.Compression.Gzip)
            assert await refusal(packed) == (StatusCode.RESOURCE_EXHAUSTED, "Decompressed message larger than max")
            async with AsyncYandexArt(endpoint=served.endpoint, folder_id="f") as art:
                with pytest.raises(ValueError, match="larger than max") as caught:
                    await art.generate(["a cat", ("x" * 5000, -1.0)])
        assert type(caught.value).__name__ == "InvalidRequest"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "0.0.0.0:0"}, "'0.0.0.0' is not loopback, and whoever reaches it could order; give key_file or client_ca"),
        ({"listen": "0.0.0.0:0", "key_file": "KEYS"}, "keys would cross the network in plaintext; give tls_cert, or"),
        ({"key_file": "KEYS", "allow_anonymous": True}, "allow_anonymous: with key_file, everybody has to show a key"),
        ({"http": "0.0.0.0:0", "key_file": "KEYS"}, "http: '0.0.0.0' is not loopback, and keys would cross the network"),
        ({"client_ca": "ca.pem"}, "client_ca: without tls_cert there is no TLS"),
        ({"client_ca": ""}, "client_ca: without tls_cert"),
        ({"client_ca": "", "tls_cert": "CERT", "tls_key": "CERT"}, "client_ca '': "),
        ({"key_file": ""}, "key_file: "),
        ({"client_ca": "KEYS", "tls_cert": "CERT", "tls_key": "CERT"}, "client_ca '.*keys': "),
        ({"client_ca": "/nowhere/ca.pem", "tls_cert": "CERT", "tls_key": "CERT"}, "client_ca '/nowhere/ca.pem': .*No such file"),
        ({"requests_per_second": 0.0}, "requests_per_second: 0.0 is not a positive number"),
        ({"in_flight_per_caller": 0}, "in_flight_per_caller: 0 is not an integer from 1"),
        ({"held_reads": 0}, "held_reads: 0"),
        ({"held_reads_per_caller": -1}, "held_reads_per_caller: -1"),
        ({"max_request_bytes": 0}, "max_request_bytes: 0"),
    ],
)
async def test_a_wrong_setting_is_named(keys: str, authority: "Authority", settings: dict[str, Any], words: str) -> None:
    """And no server is left behind."""
    files = {"KEYS": keys, "CERT": str(authority.server)}
    with pytest.raises(ConfigurationError, match=words):
        async with server(**{name: files.get(value, value) for name, value in settings.items()}):
            pytest.fail("it served")


@pytest.mark.parametrize("backend", ["cloud", "images"])
async def test_a_caller_cannot_pay_elsewhere_with_a_key_of_this_server(keys: str, backend: str) -> None:
    """It would have to be told to somebody else, who does not know it."""
    settings = ServerSettings(backend=backend, key_file=keys)
    with pytest.raises(ConfigurationError, match="upstream_credentials: with key_file, callers send keys of this server"):
        async with serving(settings):
            pytest.fail("it served")


@pytest.mark.parametrize("settings", [{"key_file": "KEYS", "allow_plaintext": True}, {"key_file": "KEYS", "tls_cert": "CERT"}])
async def test_with_keys_any_address_may_be_bound(keys: str, authority: "Authority", settings: dict[str, Any]) -> None:
    """Over TLS, or where something in front speaks it."""
    given = settings | {"key_file": keys, "listen": "0.0.0.0:0"}
    if "tls_cert" in settings:
        given |= {"tls_cert": str(authority.server), "tls_key": str(authority.server)}
    async with serving(ServerSettings(**given)) as running:
        assert running.endpoint.startswith("https" if "tls_cert" in settings else "http:")


class Authority:
    """Somebody who vouches for a server and for a client: PEM files with key and certificate, and his own."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        self.ca, self.server, self.client = folder / "ca.pem", folder / "server.pem", folder / "client.pem"
        ca.cert_pem.write_to_path(self.ca)
        ca.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(self.server)
        ca.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(self.client)

    def credentials(self, of: Path | None = None) -> grpc.ChannelCredentials:
        """What somebody shows who trusts this authority, and who has that certificate or none."""
        pem = None if of is None else of.read_bytes()
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), private_key=pem, certificate_chain=pem)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody whom nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


async def test_clients_show_certificates(authority: Authority, stranger: Authority) -> None:
    """With `client_ca`, whoever has none from that authority is not even heard."""
    settings = ServerSettings(
        listen="127.0.0.1:0", tls_cert=str(authority.server), tls_key=str(authority.server), client_ca=str(authority.ca)
    )
    async with serving(settings) as running:
        for shown, is_heard in ((authority.client, True), (None, False), (stranger.client, False)):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.secure_channel(
                running.endpoint.removeprefix("https://"), authority.credentials(shown), options
            ) as channel:
                order = Voice(channel, None).order()
                if is_heard:
                    assert (await order).id
                else:
                    assert (await refusal(order))[0] is StatusCode.UNAVAILABLE


class TestHttp:
    """The doors over HTTP of a server with keys."""

    REST, OPENAI = "/foundationModels/v1/imageGenerationAsync", "/v1/images/generations"
    ORDER: ClassVar = {"modelUri": "art://folder/model", "messages": [{"text": "a cat", "weight": "1"}]}
    WISH: ClassVar = {"model": "yandex-art/latest", "prompt": "a cat"}

    @asynccontextmanager
    async def client(
        self, backend: Scripted, **settings: Any
    ) -> AsyncIterator[Callable[..., Coroutine[Any, Any, httpx2.Response]]]:
        """Sends a request to such a server, with a key or none."""
        given = ServerSettings(listen="127.0.0.1:0", http="127.0.0.1:0", backend=backend, grace=0.0, **settings)
        async with serving(given) as running, httpx2.AsyncClient(base_url=str(running.http), timeout=20) as http:

            async def send(method: str, path: str, key: str | None, **more: Any) -> httpx2.Response:
                headers = {"openai-project": "folder"} | ({} if key is None else {"authorization": f"Bearer {key}"})
                return await http.request(method, path, headers=headers | more.pop("headers", {}), **more)

            yield send

    @pytest.mark.parametrize("key", [None, "AQVNnobody"])
    async def test_without_a_key_nothing_is_to_be_had(self, keys: str, key: str | None) -> None:
        """By any method that has to do with operations; and nothing is ordered."""
        backend = Scripted()
        async with self.client(backend, key_file=keys) as send:
            operation_id = (await send("POST", self.REST, ALICE, json=self.ORDER)).json()["id"]
            await backend.begun.wait()
            calls = [
                ("POST", self.REST, self.ORDER),
                ("POST", self.OPENAI, self.WISH),
                ("POST", self.OPENAI, self.WISH | {"stream": True}),
            ]
            for method, path, body in [*calls, ("GET", f"/operations/{operation_id}", None)]:
                answered = await send(method, path, key, json=body)
                assert answered.status_code == 401, path
                assert "nobody" not in answered.text
            for method in ("GET", "POST"):
                assert (await send(method, f"/operations/{operation_id}:cancel", key)).status_code == 401
        assert backend.asked == ["a cat"]

    async def test_what_is_anothers_is_as_if_it_were_not(self, keys: str) -> None:
        """Also by the other door, and by the same idempotency key."""
        backend = Scripted()
        async with self.client(backend, key_file=keys, in_flight_per_caller=2) as send:
            named = {"headers": {"idempotency-key": "k"}}
            mine = (await send("POST", self.REST, ALICE, json=self.ORDER, **named)).json()["id"]
            bobs = (await send("POST", self.REST, BOB, json=self.ORDER, **named)).json()["id"]
            assert bobs != mine
            for method, path in (("GET", ""), ("GET", ":cancel"), ("POST", ":cancel")):
                unknown = await send(method, f"/operations/{'x' * 20}{path}", BOB)
                answered = await send(method, f"/operations/{mine}{path}", BOB, headers={"prefer": "wait=5"})
                assert (answered.status_code, answered.text.replace(mine, "x" * 20)) == (404, unknown.text)
            assert (await send("GET", f"/operations/{mine}", ALICE)).status_code == 200
            backend.let.set()
            assert (await send("POST", self.OPENAI, BOB, json=self.WISH)).status_code == 200

    async def test_limits_hold(self, keys: str) -> None:
        """With the time to come back, and no place to be held in is no error."""
        backend = Scripted()
        limits: dict[str, Any] = {"in_flight_per_caller": 2, "held_reads": 1}
        async with self.client(backend, key_file=keys, **limits) as send:
            mine = (await send("POST", self.REST, ALICE, json=self.ORDER)).json()["id"]
            held = {"headers": {"prefer": "wait=20"}}
            first = asyncio.create_task(send("GET", f"/operations/{mine}", ALICE, **held))
            second = asyncio.create_task(send("GET", f"/operations/{mine}", ALICE, **held))
            at_once = (await asyncio.wait([first, second], timeout=10, return_when=asyncio.FIRST_COMPLETED))[0]
            assert [task.result().json()["done"] for task in at_once] == [False]
            made = asyncio.create_task(send("POST", self.OPENAI, ALICE, json=self.WISH))
            await soon(lambda: len(backend.asked) == 2, seconds=10)
            refused = await send("POST", self.REST, ALICE, json=self.ORDER)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            backend.let.set()
            assert (await made).status_code == 200  # though it could not be held
            assert [task.result().json()["done"] for task in (await asyncio.wait([first, second]))[0] - at_once] == [True]

    async def test_a_key_of_a_folder_orders_there_alone(self, keys: str) -> None:
        """The folder of the OpenAI door stands in a header."""
        async with self.client(Scripted(), key_file=keys) as send:
            assert (await send("POST", self.REST, CAROL, json=self.ORDER)).status_code == 400
            assert (await send("POST", self.OPENAI, CAROL, json=self.WISH)).status_code == 400

    async def test_clients_show_certificates(self, authority: Authority) -> None:
        """Here too, whoever has none is not even heard."""
        given = ServerSettings(
            listen="127.0.0.1:0",
            http="127.0.0.1:0",
            tls_cert=str(authority.server),
            tls_key=str(authority.server),
            client_ca=str(authority.ca),
        )
        trust = ssl.create_default_context(cafile=authority.ca)
        async with serving(given) as running:
            async with httpx2.AsyncClient(base_url=str(running.http), verify=trust) as nobody:
                with pytest.raises(httpx2.TransportError):
                    await nobody.get("/v1/models")
            trust.load_cert_chain(authority.client)
            async with httpx2.AsyncClient(base_url=str(running.http), verify=trust) as somebody:
                assert (await somebody.get("/v1/models")).status_code == 200


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def seconds_until_closed(address: str, said: bytes) -> float:
    """How long a server keeps a connection over which that was said, and nothing more."""
    host, port = address.split("://")[1].rsplit(":", 1)
    start = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=20) as connection, contextlib.suppress(ConnectionResetError):
        connection.sendall(said)
        while connection.recv(4096):
            pass
    return time.monotonic() - start


class TestSilence:
    """Connections over which nothing comes."""

    @pytest.mark.parametrize("tls", [False, True])
    async def test_half_a_handshake_is_closed(self, monkeypatch: pytest.MonkeyPatch, authority: Authority, tls: bool) -> None:
        """After the time that a handshake may take: nothing at all, half of TLS, half of HTTP/2."""
        monkeypatch.setattr(door, "HANDSHAKE", 0.5)
        pems: dict[str, Any] = {"tls_cert": str(authority.server), "tls_key": str(authority.server)} if tls else {}
        async with serving(ServerSettings(listen="127.0.0.1:0", grace=0.0, **pems)) as running:
            said = [b"", CLIENT_HELLO] if tls else [b"", PREFACE[:10], PREFACE]
            for took in await asyncio.gather(*(asyncio.to_thread(seconds_until_closed, running.endpoint, one) for one in said)):
                assert took < 5

    async def test_a_peer_that_does_not_answer_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has shaken hands and is gone without a word: it does not answer the ping."""
        soon = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 300, "grpc.http2.ping_timeout_ms": 300}
        monkeypatch.setattr(door, "OPTIONS", tuple((name, soon.get(name, value)) for name, value in door.OPTIONS))
        async with serving(ServerSettings(listen="127.0.0.1:0", grace=0.0)) as running:
            assert await asyncio.to_thread(seconds_until_closed, running.endpoint, PREFACE + SETTINGS) < 10

    def test_these_are_set(self) -> None:
        """What would let the connections of the dead add up is bounded."""
        options = dict(door.OPTIONS)
        assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] <= 60_000
        assert options["grpc.max_connection_idle_ms"] <= 3_600_000
        assert door.HANDSHAKE <= 10


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`yandexart serve` in a process of its own, and its address."""
    command = [str(Path(sys.executable).with_name("yandexart")), "serve", "--listen", "127.0.0.1:0", "--demo-duration", "fixed:0"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            yield running, running.stdout.readline().split()[-1]
        finally:
            running.kill()


class TestProcess:
    """`yandexart serve` itself."""

    def test_sighup_reads_the_keys_again(self, keys: str) -> None:
        """A key that is added is known and one that is gone is not, without a restart; a wrong file is an error in the log."""

        def is_known(endpoint: str, key: str) -> bool:
            with YandexArt(endpoint=endpoint, folder_id="f", credentials=key) as art:
                try:
                    return bool(art.submit("a cat").id)
                except Unauthenticated:
                    return False

        def becomes(endpoint: str, key: str, known: bool) -> None:
            deadline = time.monotonic() + 10
            while is_known(endpoint, key) is not known:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        with process("--key-file", keys, "--store", "sqlite://") as (running, endpoint):
            assert is_known(endpoint, ALICE)
            Path(keys).write_text("dora AQVNdora")
            running.send_signal(signal.SIGHUP)
            becomes(endpoint, "AQVNdora", True)
            assert not is_known(endpoint, ALICE)
            Path(keys).write_text("dora AQVNcanary and more")
            running.send_signal(signal.SIGHUP)
            assert running.stderr
            line = running.stderr.readline()
            assert "ERROR yandexart_grpc.server: key_file: " in line
            assert "line 1: " in line
            assert "canary" not in line
            assert is_known(endpoint, "AQVNdora")
            running.terminate()
            assert running.stderr.read() == ""

    def test_no_log_shows_a_credential_or_a_prompt(self, tmp_path: Path) -> None:
        """Not with --verbose, through orders, refusals, unknown keys, broken key files and requests that are no messages."""
        (tmp_path / "keys").write_text("alice AQVNcanary1 b1g\n")
        options = ("--verbose", "--key-file", str(tmp_path / "keys"), "--store", f"sqlite:///{tmp_path}/db")
        with process(*options) as (running, endpoint), grpc.insecure_channel(endpoint.removeprefix("http://")) as channel:

            def call(path: str, data: bytes, key: str) -> None:
                metadata = (("authorization", f"Api-Key {key}"), ("idempotency-key", "canary5"), ("prefer", "wait=5"))
                method: Any = channel.unary_unary(path)
                with contextlib.suppress(grpc.RpcError):
                    method(data, timeout=5, metadata=metadata)

            for text, folder in (("canary2", "b1g"), ("canary3", "b1g"), ("canary2", "other"), ("canary4" * 100, "b1g")):
                call(GENERATE, ask(text, folder).SerializeToString(), "AQVNcanary1")
            call(GENERATE, ask("canary2").SerializeToString(), "AQVNcanary6")
            call(GENERATE, b"\xffcanary7", "AQVNcanary1")
            call(GET, stubs.GetOperationRequest(operation_id="canary8").SerializeToString(), "AQVNcanary1")
            with YandexArt(endpoint=endpoint, folder_id="b1g", credentials="AQVNcanary1") as art:
                assert art.generate("refuse this canary").width
            (tmp_path / "keys").write_text("alice AQVNcanary9 b1g more\n")
            running.send_signal(signal.SIGHUP)
            time.sleep(0.05)
            running.terminate()
            assert running.stderr
            log = running.stderr.read()
        assert "accepted" in log
        assert "the keys of before stay in force" in log
        assert "canary" not in log

    async def test_no_failure_of_the_store_shows_a_prompt(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nor at the level where everything is logged."""
        caplog.set_level(logging.DEBUG)
        async with open_store("sqlite://") as store:
            request = ImageRequest(messages=(Message("a canary"),), model_uri="art://f/m")
            with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is
                await store.accept(entry(1, request=request, upstream=object()))
        assert "failed" in caplog.text
        assert "canary" not in f"{caplog.text}{caught.value!r}"
