"""The images backend, over gRPC and in one process: what it orders, what it makes of failures, and what it keeps to itself.

The upstream is `images_upstream`: a server behind a real socket, which answers what the documents say or what the test says.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from click.testing import CliRunner
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import Face
from tests.doors import error_of
from tests.foreign import jpeg
from tests.images_upstream import (
    KEY,
    MODEL,
    REFUSAL,
    Fault,
    ImagesUpstream,
    answer,
    dribbles,
    floods,
    jpeg_of,
    makes,
    reset,
    says,
    slow,
)
from tests.processes import program
from yandexart_grpc import (
    AsyncYandexArt,
    ConfigurationError,
    ContentRefused,
    OperationFailed,
    OutcomeUnknown,
    YandexArt,
    YandexArtError,
    stubs,
)
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.server import Embedded, ServerSettings, embedded
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.backends.images import LARGEST_ANSWER, ImagesBackend, Patience

Connect = Callable[..., Face]
Start = Callable[..., Embedded]

QUICK = Patience(connect=1, answer=0.3, repeat=1, pause=0.02, longest_pause=0.1, attempts=3)
PROMPT = "a very secret cat"
ANSWERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "b64_json", "error", "message", "code", "grpcCode"]), inner)
    ),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())
"""Answers that look as if they meant something."""
LATER = "Я не могу сгенерировать это изображение. Давайте попробуем другую тему."
OPENAI = {"error": {"message": "Something broke", "type": "server_error"}}
FLAT = {"error": "Something broke", "code": 13, "message": "Something broke", "details": []}
NESTED = {"error": {"grpcCode": 13, "httpCode": 500, "message": "Something broke", "httpStatus": "Internal", "details": []}}


@pytest.fixture
def upstream() -> Iterator[ImagesUpstream]:
    """An Images API without faults."""
    with ImagesUpstream() as running:
        yield running


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that order at an upstream, with little patience where nothing else is said."""
    with ExitStack() as life:

        def make(address: str, **options: Any) -> Embedded:
            backend = ImagesBackend(f"http://{address}", **{"patience": QUICK} | options)
            return life.enter_context(embedded(backend))

        yield make


def ended(server: Embedded, *messages: tuple[str, float], seed: int = 0, key: str = f"Api-Key {KEY}") -> stubs.Operation:
    """A finished operation, as a caller sees it who has nothing but the stubs."""
    request = stubs.ImageGenerationRequest(
        model_uri="art://b1g/yandex-art/latest",
        messages=[stubs.Message(text=text, weight=weight) for text, weight in messages or [(PROMPT, 1)]],
        generation_options=stubs.ImageGenerationOptions(seed=seed),
    )
    metadata = (("authorization", key),) if key else ()
    with grpc.insecure_channel(server.endpoint.removeprefix("http://")) as channel:
        operation = stubs.ImageGenerationAsyncServiceStub(channel).Generate(request, metadata=metadata, timeout=10)
        reads = stubs.OperationServiceStub(channel)
        operation = reads.Get(stubs.GetOperationRequest(operation_id=operation.id), metadata=(("prefer", "wait=10"),), timeout=20)
    assert operation.done
    return operation


def warnings_of(operation: stubs.Operation) -> list[str]:
    """What is told of parts that were dropped."""
    told = Struct()
    operation.metadata.Unpack(told)
    return [value.string_value for value in told.fields["warnings"].list_value.values]


class TestOrders:
    """What is ordered."""

    async def test_a_picture_is_one_call_of_the_documents(self, connect: Connect, start: Start, upstream: ImagesUpstream) -> None:
        """With the caller's credential and folder, the model that still draws, and the ratio as a size."""
        art = connect(endpoint=start(upstream.address).endpoint, folder_id="b1g", credentials=KEY)
        image = await art.generate(["a red cat", "on a window"], aspect_ratio="16:9")
        assert (image.width, image.height, image.model_version) == (1344, 768, "aliceai-image-art-3.0")
        prompt = "a red cat\non a window"
        assert upstream.executions == [{"prompt": prompt, "model": "art://b1g/aliceai-image-art-3.0", "size": "1344x768"}]
        (headers,) = upstream.asked
        assert headers["authorization"] == f"Api-Key {KEY}"
        assert headers["openai-project"] == "b1g"

    def test_without_a_ratio_it_is_square(self, start: Start, upstream: ImagesUpstream) -> None:
        """1024x1024."""
        ended(start(upstream.address))
        assert upstream.executions[0]["size"] == "1024x1024"

    def test_a_bearer_token_is_passed_on_as_it_is(self, start: Start, upstream: ImagesUpstream) -> None:
        """The documents take both forms."""
        assert ended(start(upstream.address), key=f"Bearer {KEY}").response.value
        assert upstream.asked[0]["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize(("pairs", "model"), [(["yandex-art*=new"], "new"), (["other=x", "yandex-art/l*t=a", "*=b"], "a")])
    def test_the_first_pair_that_fits_names_the_model(
        self, start: Start, upstream: ImagesUpstream, pairs: list[str], model: str
    ) -> None:
        """What is given goes before the pair that is there without it."""
        _, words = error_of(ended(start(upstream.address, model_map=pairs)))
        assert f"Access to model art://b1g/{model} denied" in words

    async def test_many_callers_order_side_by_side_and_share_nothing(self, start: Start) -> None:
        """Neither a connection nor a cookie of one goes with the order of another."""
        cookie = says(429, {"error": "wait"}, set_cookie="session=1", retry_after="0")
        with ImagesUpstream([cookie]) as upstream:
            server = start(upstream.address)
            ended(server)
            ended(server)
            assert len(upstream.executions) == 2
            assert not any("cookie" in {name.lower() for name in headers} for headers in upstream.asked)


class TestUnsupported:
    """What the Images API cannot do."""

    def test_the_upstream_of_the_tests_refuses_it(self, upstream: ImagesUpstream) -> None:
        """As the documents say, so that none of it is sent unseen."""
        order = {"prompt": "a cat", "model": f"art://b1g/{MODEL}"}
        headers = {"authorization": f"Bearer {KEY}", "openai-project": "b1g"}
        for name in ("n", "quality", "response_format", "stream", "user", "seed"):
            answered = httpx2.post(f"http://{upstream.address}/v1/images/generations", json=order | {name: 1}, headers=headers)
            assert (answered.status_code, name in answered.text) == (400, True)
        assert upstream.executions == []

    MESSAGES = (("a cat", 0.5), ("a dog", 1), ("rain", -1))

    def test_it_is_dropped_with_a_warning(self, start: Start, upstream: ImagesUpstream) -> None:
        """One line a field, in the metadata of the operation."""
        operation = ended(start(upstream.address), *self.MESSAGES, seed=7)
        assert [text.split(":")[0] for text in warnings_of(operation)] == ["messages", "weight", "seed"]
        assert upstream.executions[0]["prompt"] == "a cat\na dog"

    def test_what_is_supported_is_no_warning(self, start: Start, upstream: ImagesUpstream) -> None:
        """A plain prompt, without a seed."""
        assert warnings_of(ended(start(upstream.address))) == []

    @pytest.mark.parametrize(
        ("messages", "seed", "field"),
        [([("a cat", 1), ("rain", -1)], 0, "messages"), ([("a cat", 2)], 0, "weight"), ([("a cat", 1)], 7, "seed")],
    )
    def test_it_may_be_refused(
        self, start: Start, upstream: ImagesUpstream, messages: list[tuple[str, float]], seed: int, field: str
    ) -> None:
        """The error names the field, and nothing is ordered."""
        code, words = error_of(ended(start(upstream.address, refuse=True), *messages, seed=seed))
        assert code is StatusCode.INVALID_ARGUMENT
        assert words.startswith(f"{field}: ")
        assert upstream.asked == []


class TestCredentials:
    """Who pays."""

    def test_without_a_credential_nothing_is_ordered(self, start: Start, upstream: ImagesUpstream) -> None:
        """UNAUTHENTICATED, which says why."""
        code, words = error_of(ended(start(upstream.address), key=""))
        assert code is StatusCode.UNAUTHENTICATED
        assert "none was sent" in words
        assert upstream.asked == []

    async def test_a_restart_forgets_the_credential_and_says_so(self, tmp_path: Path, upstream: ImagesUpstream) -> None:
        """What had not begun cannot be ordered in the name of its caller any more: it is not ordered at all."""
        file = f"sqlite:///{tmp_path}/store.db"
        upstream.script = [slow(0.2)]
        settings: dict[str, Any] = {"listen": "127.0.0.1:0", "store": file, "backend": "images", "concurrency": 1, "grace": 1}
        settings["upstream"] = f"http://{upstream.address}"
        async with serving(ServerSettings(**settings)) as here, AsyncYandexArt(endpoint=here.endpoint, credentials=KEY) as art:
            running, waiting = [await art.submit("a cat", model="art://b1g/yandex-art/latest") for _ in range(2)]
            while not upstream.asked:
                await running.done()
        async with serving(ServerSettings(**settings)) as here, AsyncYandexArt(endpoint=here.endpoint, credentials=KEY) as art:
            assert (await art.operation(running.id).result()).width == 1024
            with pytest.raises(OperationFailed, match="started again") as caught:
                await art.operation(waiting.id).result()
        assert caught.value.code is StatusCode.UNAUTHENTICATED
        assert len(upstream.executions) == 1
        assert KEY.encode() not in (tmp_path / "store.db").read_bytes()

    async def test_the_server_may_pay_for_all(self, monkeypatch: pytest.MonkeyPatch, upstream: ImagesUpstream) -> None:
        """With the key of its environment, which its callers never see."""
        monkeypatch.setenv("YC_API_KEY", KEY)
        settings = ServerSettings(
            listen="127.0.0.1:0", backend="images", upstream=f"http://{upstream.address}", upstream_credentials="server"
        )
        async with serving(settings) as running:
            monkeypatch.delenv("YC_API_KEY")
            async with AsyncYandexArt(endpoint=running.endpoint, folder_id="b1g", credentials="of-the-caller") as art:
                assert (await art.generate("a cat")).width == 1024
        assert upstream.asked[0]["authorization"] == f"Api-Key {KEY}"

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"upstream_credentials": "server"}, "upstream_credentials: 'server' needs one of YC_API_KEY, YC_IAM_TOKEN"),
            ({"upstream_credentials": "nobody"}, "upstream_credentials: 'nobody' is neither 'caller' nor 'server'"),
            ({"on_unsupported": "hope"}, "on_unsupported: 'hope' is neither 'warn' nor 'refuse'"),
            ({"upstream": "ftp://host"}, "upstream: 'ftp://host' is neither https"),
            ({"upstream": "https://user:password@host"}, "upstream: "),
            ({"upstream": "http://art.example:80"}, "credentials would go to 'http://art.example:80' in plaintext"),
            ({"model_map": ("old",)}, "model_map: 'old' is not old=new"),
            ({"model_map": ("=new",)}, "model_map: '=new' is not old=new"),
            ({"backend": "nobody"}, "backend: 'nobody' is none of 'demo', 'images'"),
        ],
    )
    async def test_wrong_settings_are_named(self, settings: dict[str, Any], words: str) -> None:
        """Before the server can be reached."""
        with pytest.raises(ConfigurationError, match=words):
            async with serving(ServerSettings(**{"listen": "127.0.0.1:0", "backend": "images"} | settings)):
                pass


class TestRefusals:
    """What the other side refuses was not bought, and ends with its words."""

    @pytest.mark.parametrize(
        ("status", "said", "code", "words"),
        [
            (400, {"error": {"message": "size is wrong", "type": "x"}}, StatusCode.INVALID_ARGUMENT, "size is wrong"),
            (400, {"error": "e", "code": 9, "message": "m", "details": []}, StatusCode.FAILED_PRECONDITION, "m"),
            (400, {"error": {"grpcCode": 11, "httpCode": 400, "message": "m"}}, StatusCode.OUT_OF_RANGE, "m"),
            (400, {"error": "only this"}, StatusCode.INVALID_ARGUMENT, "only this"),
            (400, {"code": 99, "message": "m"}, StatusCode.INVALID_ARGUMENT, "m"),
            (401, {"error": {"message": "Unknown api key"}}, StatusCode.UNAUTHENTICATED, "Unknown api key"),
            (403, {"error": {"message": "Permission denied"}}, StatusCode.PERMISSION_DENIED, "Permission denied"),
            (404, {"message": "no such model"}, StatusCode.NOT_FOUND, "no such model"),
            (422, [], StatusCode.INVALID_ARGUMENT, "is `upstream` the right address"),
        ],
    )
    def test_each_shape_of_error_is_read(self, start: Start, status: int, said: object, code: StatusCode, words: str) -> None:
        """Flat, nested and OpenAI's: the code that is told, or else that of the HTTP status."""
        with ImagesUpstream([says(status, said)]) as upstream:
            got = error_of(ended(start(upstream.address)))
            assert (got[0], words in got[1], len(upstream.asked)) == (code, True, 1), got

    @pytest.mark.parametrize(
        ("said", "words"),
        [
            ({"error": {"message": REFUSAL, "type": "invalid_request_error"}}, REFUSAL),
            ({"error": LATER, "code": 3, "message": LATER, "details": []}, LATER),
            ({"error": {"message": "Your request was rejected", "code": "content_policy_violation"}}, REFUSAL),
        ],
    )
    async def test_a_refused_prompt_is_refused_as_by_the_real_service(
        self, connect: Connect, start: Start, said: object, words: str
    ) -> None:
        """`ContentRefused`, in its words."""
        with ImagesUpstream([says(400, said)]) as upstream:
            art = connect(endpoint=start(upstream.address).endpoint, credentials=KEY)
            with pytest.raises(ContentRefused) as caught:
                await art.generate(PROMPT)
            assert (caught.value.details, caught.value.code) == (words, StatusCode.INVALID_ARGUMENT)

    def test_a_redirect_is_not_followed(self, start: Start, upstream: ImagesUpstream) -> None:
        """No other address sees the credential or the order."""
        for status in (301, 302, 303, 307, 308):
            with ImagesUpstream([says(status, {}, location=f"http://{upstream.address}/v1/images/generations")]) as first:
                code, words = error_of(ended(start(first.address)))
                assert code is StatusCode.FAILED_PRECONDITION
                assert "redirect" in words
        assert upstream.asked == []

    def test_neither_credential_nor_prompt_is_repeated(self, start: Start, caplog: pytest.LogCaptureFixture) -> None:
        """Not even where the other side does; and what it says is cut off somewhere."""
        caplog.set_level(0)
        told = {"error": {"message": f"Api-Key {KEY} ({KEY}) may not draw {PROMPT} {'x' * 100_000}", "type": "x"}}
        for fault in (says(403, told), says(500, told), makes(200, json.dumps(told).encode()), reset(0)):
            with ImagesUpstream([fault]) as upstream:
                _, words = error_of(ended(start(upstream.address)))
            assert KEY not in words
            assert PROMPT not in words
            assert len(words) < 1000
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("yandexart")]
        assert not [line for line in ours if KEY in line or PROMPT in line]


class TestCleanFailures:
    """What was surely not ordered is tried again, and ends with an error that says so."""

    def test_where_nobody_listens_nothing_is_ordered(self, start: Start) -> None:
        """UNAVAILABLE, after a few attempts."""
        code, words = error_of(ended(start("127.0.0.1:1")))
        assert code is StatusCode.UNAVAILABLE
        assert "nothing was ordered" in words

    async def test_both_clients_say_that_nothing_was_bought(self, connect: Connect, start: Start) -> None:
        """Of what could not be ordered and of what was refused."""
        with ImagesUpstream([says(403, OPENAI)]) as upstream:
            for address in ("127.0.0.1:1", upstream.address):
                art = connect(endpoint=start(address).endpoint, credentials=KEY)
                with pytest.raises(OperationFailed) as caught:
                    await art.generate(PROMPT)
                assert (caught.value.billed, caught.value.resend) == ("no", "safe")

    def test_without_its_certificate_nobody_is_told_anything(self, upstream: ImagesUpstream) -> None:
        """An upstream that cannot show who it is gets neither credential nor order."""
        with embedded(ImagesBackend(f"https://{upstream.address}", patience=QUICK)) as server:
            code, words = error_of(ended(server))
        assert code is StatusCode.UNAVAILABLE
        assert "nothing was ordered" in words
        assert upstream.asked == []

    def test_an_upstream_that_comes_back_is_asked_once(self, start: Start) -> None:
        """A refused connection is tried again, with time in between."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        server = start(f"127.0.0.1:{port}", patience=Patience(pause=0.1, attempts=4))
        back: list[ImagesUpstream] = []

        def come_back() -> None:
            time.sleep(0.15)
            back.append(ImagesUpstream(port=port).__enter__())

        thread = threading.Thread(target=come_back)
        thread.start()
        try:
            assert ended(server).response.value
            assert len(back[0].executions) == 1
        finally:
            thread.join()
            back[0].__exit__()

    @pytest.mark.parametrize(("headers", "least"), [({"retry_after": "0.1"}, (0.1, 0.1)), ({}, (0.02, 0.04))])
    def test_a_quota_is_waited_for(self, start: Start, headers: dict[str, str], least: tuple[float, float]) -> None:
        """As long as the other side says, or for a while that grows."""
        with ImagesUpstream([says(429, OPENAI, **headers)] * 2) as upstream:
            assert ended(start(upstream.address)).response.value
            first, second, third = upstream.times
            assert second - first >= least[0]
            assert third - second >= least[1]
            assert len(upstream.executions) == 1

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_a_quota_that_ends_too_late_is_told(self, start: Start, form: str) -> None:
        """RESOURCE_EXHAUSTED with the time to come back, at once."""
        then = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        with ImagesUpstream([says(429, OPENAI, retry_after="3600" if form == "seconds" else then)]) as upstream:
            operation = ended(start(upstream.address))
            assert error_of(operation)[0] is StatusCode.RESOURCE_EXHAUSTED
            hint = stubs.RetryInfo()
            operation.error.details[0].Unpack(hint)
            assert 3590 < hint.retry_delay.seconds <= 3600
            assert (len(upstream.asked), upstream.executions) == (1, [])

    def test_a_quota_that_never_ends_is_given_up(self, start: Start) -> None:
        """Where the other side says to come back at once, for as long as an order may be repeated."""
        with ImagesUpstream([says(429, OPENAI, retry_after="0")] * 1000) as upstream:
            code, _ = error_of(ended(start(upstream.address, patience=Patience(repeat=0.3, pause=0.02, longest_pause=0.05))))
            assert code is StatusCode.RESOURCE_EXHAUSTED
            assert 3 < len(upstream.asked) < 20


LOST = [
    pytest.param(reset(0), id="reset"),
    pytest.param(reset(0.1), id="reset-later"),
    pytest.param(makes(200, b'{"data"', content_length="1000"), id="truncated"),
    pytest.param(dribbles, id="dribble"),
    pytest.param(slow(0.6), id="slow"),
    pytest.param(floods, id="flood"),
    pytest.param(makes(500, json.dumps(OPENAI).encode()), id="500-openai"),
    pytest.param(makes(500, json.dumps(FLAT).encode()), id="500-flat"),
    pytest.param(makes(502, json.dumps(NESTED).encode()), id="502-nested"),
    pytest.param(makes(503, b"<html>busy</html>", "text/html"), id="503-html"),
    pytest.param(makes(200, b"<html>hello</html>", "text/html"), id="html"),
    pytest.param(makes(200, b""), id="empty"),
    pytest.param(makes(200, b"\xff\xfe\x00"), id="no-text"),
    pytest.param(makes(200, b"[" * 100_000), id="deep"),
    pytest.param(makes(200, b'{"created": ' + b"9" * 10_000 + b"}"), id="long-number"),
    pytest.param(makes(200, b'{"data": []}'), id="no-data"),
    pytest.param(makes(200, b'{"data": [{"url": "https://host/cat.jpeg"}]}'), id="url"),
    pytest.param(makes(200, b'{"data": [{"b64_json": "/9j/!!!!"}]}'), id="no-base64"),
    pytest.param(makes(200, b'{"data": [{"b64_json": "\\u0401"}]}'), id="no-ascii"),
    pytest.param(makes(200, b'{"data": [{"b64_json": "aGVsbG8="}]}'), id="no-jpeg"),
    pytest.param(makes(200, json.dumps(answer(jpeg()[:-100])).encode()), id="half-a-jpeg"),
    pytest.param(makes(200, b"x" * 100, content_encoding="gzip"), id="no-gzip"),
]


class TestLostAnswers:
    """What may have been bought is never ordered again, and says so."""

    @pytest.mark.parametrize("fault", LOST)
    def test_it_may_have_been_bought(self, start: Start, fault: Fault) -> None:
        """ABORTED, after one order, within the time that an answer may take."""
        with ImagesUpstream([fault]) as upstream:
            patience = Patience(answer=10.0 if fault is floods else 0.3)
            code, words = error_of(ended(start(upstream.address, patience=patience)))
            assert code is StatusCode.ABORTED
            assert "may have been bought" in words
            assert ("more than" in words) == (fault is floods)
            assert len(upstream.asked) == 1

    async def test_both_clients_say_what_became_of_the_money(self, connect: Connect, start: Start) -> None:
        """`OutcomeUnknown`, with the id under which support finds the call."""
        with ImagesUpstream([reset(0)]) as upstream:
            art = connect(endpoint=start(upstream.address).endpoint, credentials=KEY)
            with pytest.raises(OutcomeUnknown) as caught:
                await art.generate(PROMPT)
            assert (caught.value.billed, caught.value.resend) == ("unknown", "unsafe")
            assert upstream.asked[0]["x-client-request-id"] in str(caught.value)

    def test_a_large_picture_arrives_whole(self, start: Start) -> None:
        """20 MB."""
        image = jpeg(size=20_000_000)
        with ImagesUpstream([makes(200, json.dumps(answer(image)).encode())]) as upstream:
            server = start(upstream.address, patience=Patience())
            with YandexArt(endpoint=server.endpoint, folder_id="b1g", credentials=KEY) as art:
                assert art.generate(PROMPT).data == image
        assert 2 * len(image) < LARGEST_ANSWER

    def test_whatever_is_answered_ends_the_operation(self, start: Start, upstream: ImagesUpstream) -> None:
        """Of an answer that is no picture, the status alone says whether it may have been bought."""
        server = start(upstream.address)

        @settings(max_examples=40)
        @given(st.sampled_from([200, 400, 500]), st.binary(max_size=50) | ANSWERS)
        @example(400, b'{"message": "m", "code": true}')
        @example(400, b'{"error": {"message": "\\ud800", "grpcCode": 1e3}}')
        @example(500, b'{"error": "\\udfff"}')
        @example(200, b'{"data": [{"b64_json": "\\ud800"}]}')
        def check(status: int, body: bytes) -> None:
            upstream.script.append(makes(status, body))
            code, words = error_of(ended(server))
            assert words != "Internal error"
            assert (status == 400) == ("may have been bought" not in words)
            assert status == 400 or code is StatusCode.ABORTED

        check()


class TestOneProcess:
    """`images://`: a server inside the process of the client."""

    async def test_a_key_is_enough_for_a_live_picture(self, connect: Connect, upstream: ImagesUpstream) -> None:
        """With the credential of the client."""
        art = connect(endpoint=f"images+http://{upstream.address}", folder_id="b1g", credentials=KEY)
        assert (await art.generate("a cat", aspect_ratio=(2, 3))).height == 1280
        assert len(upstream.executions) == 1

    async def test_a_wrong_key_is_told(self, connect: Connect, upstream: ImagesUpstream) -> None:
        """In the words of the other side."""
        art = connect(endpoint=f"images+http://{upstream.address}", folder_id="b1g", credentials="AQVN-another")
        with pytest.raises(OperationFailed, match="UNAUTHENTICATED: The Images API answered 401: Unknown api key"):
            await art.generate("a cat")
        assert upstream.executions == []

    @pytest.mark.parametrize("kind", [YandexArt, AsyncYandexArt])
    def test_without_a_credential_nothing_is_started(self, kind: type[YandexArt | AsyncYandexArt]) -> None:
        """An error of the constructor, as for Yandex."""
        threads = threading.active_count()
        with pytest.raises(ConfigurationError, match="credentials: none given, and none found"):
            kind(endpoint="images://", folder_id="b1g")
        assert threading.active_count() == threads

    async def test_a_folder_is_needed(self, connect: Connect) -> None:
        """It has none of its own, as the demo has."""
        art = connect(endpoint="images://", folder_id=None, credentials=KEY)
        with pytest.raises(YandexArtError, match="give folder_id"):
            await art.generate("a cat")

    async def test_operations_outlive_the_client_in_a_store(
        self, connect: Connect, upstream: ImagesUpstream, tmp_path: Path
    ) -> None:
        """A client that is closed lets what it paid for be finished first, and the next one has it."""
        upstream.script = [slow(0.3)]
        settings = {"endpoint": f"images+http://{upstream.address}", "credentials": KEY, "store": f"sqlite:///{tmp_path}/x.db"}
        first = connect(**settings)
        operation = await first.submit("a cat")
        while not upstream.asked:
            await operation.done()
        await first.close()
        assert (await (await connect(**settings).operation(operation.id)).result()).width == 1024
        assert len(upstream.executions) == 1

    async def test_one_client_at_a_time_has_a_store(self, connect: Connect, tmp_path: Path) -> None:
        """Another one is refused, and told why."""
        settings: dict[str, Any] = {"endpoint": "images://", "credentials": KEY, "store": f"sqlite:///{tmp_path}/x.db"}
        with YandexArt(**settings), pytest.raises(ConfigurationError, match="in use by another server"):
            await connect(**settings).submit("a cat")

    def test_without_its_http_client(self) -> None:
        """One line names the extra, and the exit code is 2."""
        command = ["generate", "a cat", "--endpoint", "images://", "--folder-id", "b1g"]
        hide = f"import sys; sys.modules['httpx2'] = None; sys.argv[1:] = {command!r}"
        code = f"{hide}; from yandexart_grpc.cli import main; main()"
        environ = os.environ | {"YC_API_KEY": KEY}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert re.fullmatch(r"Error: .*pip install 'yandexart-grpc\[server\]'.*\n", done.stderr)

    def test_from_the_command_line(self, upstream: ImagesUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One command from a key to a file; with a store, another command finds the operation."""
        monkeypatch.setenv("YC_API_KEY", KEY)
        monkeypatch.setenv("YC_FOLDER_ID", "b1g")
        monkeypatch.setenv("YANDEXART_STORE", f"sqlite:///{tmp_path}/x.db")
        endpoint = ("--endpoint", f"images+http://{upstream.address}", "--json")
        made = CliRunner().invoke(yandexart, ["generate", "a cat", "-o", f"{tmp_path}/cat.jpeg", "--no-metadata", *endpoint])
        assert made.exit_code == 0, made.output
        assert (tmp_path / "cat.jpeg").read_bytes() == jpeg_of(1024, 1024)
        again = CliRunner().invoke(yandexart, ["operation", "get", json.loads(made.stdout)["operation_id"], *endpoint])
        assert json.loads(again.stdout)["image"]["model_version"] == "aliceai-image-art-3.0"
        assert len(upstream.executions) == 1

    def test_a_timeout_promises_what_is_true(
        self, upstream: ImagesUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a store the operation is gone, and may have been paid for; with one, a command is offered that finds it."""
        monkeypatch.setenv("YC_API_KEY", KEY)
        monkeypatch.chdir(tmp_path)
        upstream.script = [slow(0.4), slow(0.4)]
        command = [
            "generate",
            "a cat",
            "--folder-id",
            "b1g",
            "--timeout",
            "0.2",
            "--endpoint",
            f"images+http://{upstream.address}",
        ]
        lost = CliRunner().invoke(yandexart, command)
        assert lost.exit_code == 10
        assert "It cannot be picked up: the images server ended" in lost.stderr
        kept = CliRunner().invoke(yandexart, [*command, "--store", "sqlite:///x.db"])
        picked = kept.stderr.partition("Pick it up with: yandexart ")[2].split()
        assert CliRunner().invoke(yandexart, picked).exit_code == 0
        assert len(upstream.executions) == 2


def test_a_server_of_ones_own_orders_live_pictures(upstream: ImagesUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """`yandexart serve --backend images`, for callers of the contract in any language."""
    monkeypatch.setenv("YC_API_KEY", KEY)
    options = ["--backend", "images", "--upstream", f"http://{upstream.address}", "--upstream-credentials", "server"]
    with program(*options, "--model-map", "old=yandex-art") as server:
        assert ended(Embedded(server.endpoint), key="").response.value
        server.process.terminate()
        assert server.process.wait() == 0
    assert len(upstream.executions) == 1
