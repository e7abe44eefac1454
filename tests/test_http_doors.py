"""The doors over HTTP, spoken to as `curl` does: the JSON of the documents, and what becomes of everything else."""

import asyncio
import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import hypothesis
import pytest
import schemathesis
import trustme
from schemathesis.specs.openapi import checks

from tests.doors import PICTURE, Scripted, opened
from yandexart_grpc import ConfigurationError, ContentRefused, stubs
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import Embedded, embedded
from yandexart_grpc.server.doors import http, listener
from yandexart_grpc.server.doors.openapi import description

GENERATE, IMAGES = "/foundationModels/v1/imageGenerationAsync", "/v1/images/generations"
URI = "art://b1gfolder/yandex-art/latest"
BODY = {
    "modelUri": URI,
    "generationOptions": {"mimeType": "image/jpeg", "seed": "1863", "aspectRatio": {"widthRatio": "2", "heightRatio": "1"}},
    "messages": [{"weight": "1", "text": "узор из цветных суккулентов"}],
}
ASKED = ImageRequest.build("узор из цветных суккулентов", folder_id="b1gfolder", seed=1863, aspect_ratio="2:1")
RESPONSE = "type.googleapis.com/yandex.cloud.ai.foundation_models.v1.image_generation.ImageGenerationResponse"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@asynccontextmanager
async def caller(backend: Scripted, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A caller of a server with that backend; he hangs up last."""
    async with AsyncExitStack() as life:
        running = await life.enter_async_context(opened(backend, **settings))
        life.push_async_exit(client := httpx2.AsyncClient(base_url=str(running.http), timeout=30))
        yield client


async def order(client: httpx2.AsyncClient, **headers: str) -> str:
    """The id of a new operation."""
    answered = await client.post(GENERATE, json=BODY, headers=headers)
    assert answered.status_code == 200, answered.text
    return str(answered.json()["id"])


async def wait(client: httpx2.AsyncClient, operation_id: str) -> dict[str, Any]:
    """The operation once it is done."""
    answered = await client.get(f"/operations/{operation_id}", headers={"prefer": "wait=10"})
    found: dict[str, Any] = answered.json()
    assert found["done"]
    return found


def message_of(answered: httpx2.Response) -> str:
    """The words of an error, whose shape is that of its door."""
    found = answered.json()
    if answered.request.url.path.startswith("/v1/"):
        assert found["error"].keys() == {"message", "type", "param", "code"}
        return str(found["error"]["message"])
    assert found.keys() == {"error", "code", "message", "details"}
    assert found["error"] == found["message"]
    return str(found["message"])


class TestRest:
    """The JSON of the documents."""

    async def test_an_order_and_its_picture(self) -> None:
        """Exactly these fields: camelCase, RFC 3339, `@type`, Base64."""
        backend = Scripted()
        backend.let.clear()
        async with caller(backend) as client:
            ordered = (await client.post(GENERATE, json=BODY)).json()
            assert ordered.keys() == {"id", "description", "createdAt", "createdBy", "modifiedAt", "done"}
            assert (len(ordered["id"]), ordered["done"]) == (20, False)
            assert TIME.fullmatch(ordered["createdAt"])
            backend.let.set()
            done = await wait(client, ordered["id"])
        assert done.keys() == {*ordered, "response"}
        image = base64.b64encode(PICTURE).decode()
        assert done["response"] == {"@type": RESPONSE, "image": image, "modelVersion": "scripted"}
        assert backend.asked == [ASKED]

    @pytest.mark.parametrize(
        "body",
        [
            BODY
            | {"generationOptions": {"mimeType": "image/jpeg", "seed": 1863, "aspectRatio": {"widthRatio": 2, "heightRatio": 1}}},
            BODY | {"model_uri": URI, "modelUri": None, "unknown": [{"deep": {}}]},
            {**BODY, "messages": [{"weight": 1, "text": "узор из цветных суккулентов", "unknown": 1.5}]},
        ],
        ids=["numbers", "names of the contract", "unknown fields"],
    )
    async def test_what_protobuf_reads_as_the_same_is_the_same(self, body: dict[str, Any]) -> None:
        """Integers as numbers, names as in the contract, and names that nobody knows, which are ignored."""
        backend = Scripted()
        async with caller(backend) as client:
            assert (await client.post(GENERATE, json=body)).status_code == 200
            await backend.begun.wait()
        assert backend.asked == [ASKED]

    async def test_an_error_of_the_operation(self) -> None:
        """Code, message and details stand in `error`, and the read itself succeeds."""
        async with caller(Scripted(ContentRefused("refused", details="it is not possible"))) as client:
            done = await wait(client, await order(client))
        assert (done["error"]["code"], done["error"]["message"]) == (3, "it is not possible")
        assert [detail["reason"] for detail in done["error"]["details"]] == ["BILLED_NO"]
        assert "response" not in done

    async def test_what_the_backend_warned_of(self) -> None:
        """It stands in the metadata of the operation."""
        async with caller(Scripted(warning="no seed there")) as client:
            done = await wait(client, await order(client))
        assert done["metadata"] == {
            "@type": "type.googleapis.com/google.protobuf.Struct",
            "value": {"warnings": ["no seed there"]},
        }

    async def test_a_read_is_held_as_long_as_is_preferred(self) -> None:
        """Until the operation is done, and the answer says so; without a preference it is answered at once."""
        backend = Scripted()
        backend.let.clear()
        async with caller(backend) as client:
            operation_id = await order(client)
            at_once = await client.get(f"/operations/{operation_id}")
            assert (at_once.json()["done"], at_once.headers.get("preference-applied")) == (False, None)
            held = asyncio.create_task(client.get(f"/operations/{operation_id}", headers={"prefer": "respond-async, wait=10"}))
            await asyncio.sleep(0.05)
            assert not held.done()
            backend.let.set()
            assert ((await held).json()["done"], (await held).headers["preference-applied"]) == (True, "wait")

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_an_operation_is_cancelled_by_either_method(self, method: str) -> None:
        """The interface says GET, the guide says POST."""
        backend = Scripted()
        backend.let.clear()
        async with caller(backend) as client:
            cancelled = await client.request(method, f"/operations/{await order(client)}:cancel")
        assert (cancelled.status_code, cancelled.json()["done"], cancelled.json()["error"]["code"]) == (200, True, 1)

    async def test_one_key_is_one_operation_at_every_door(self) -> None:
        """Ordered over REST, over gRPC and over OpenAI with one key: one operation, one execution; the scope is told."""
        backend = Scripted()
        async with opened(backend) as running, httpx2.AsyncClient(base_url=str(running.http)) as client:
            first = await client.post(GENERATE, json=BODY, headers={"idempotency-key": "order-7"})
            operation_id = await order(client, **{"idempotency-key": "order-7"})
            async with grpc.aio.insecure_channel(running.endpoint.removeprefix("http://")) as channel:
                call = stubs.ImageGenerationAsyncServiceStub(channel).Generate(
                    ASKED.to_proto(), metadata=(("idempotency-key", "order-7"),), timeout=10
                )
                again: stubs.Operation = await call
                told = dict(await call.initial_metadata())
            body = {"prompt": ASKED.prompt, "model": URI, "seed": 1863, "size": "2x1"}
            image = await client.post(IMAGES, json=body, headers={"idempotency-key": "order-7"})
        assert [first.json()["id"], again.id, image.headers["x-request-id"]] == [operation_id] * 3
        assert first.headers["idempotency-scope"] == told["idempotency-scope"]
        assert len(backend.asked) == 1

    async def test_the_credential_of_the_caller_reaches_the_backend(self) -> None:
        """As it was sent."""
        backend = Scripted()
        async with caller(backend) as client:
            await wait(client, await order(client, authorization="Api-Key AQVNsecret"))
        assert backend.authorizations == ["Api-Key AQVNsecret"]


BAD_BODIES = {
    "empty": (b"", "body: not JSON"),
    "truncated": (b'{"prompt": "a c', "body: not JSON"),
    "no object": (b'["a cat"]', "body: not a JSON object"),
    "not UTF-8": (b'{"prompt": "\xff"}', "body: not JSON: 'utf-8'"),
    "half a character": (b'{"prompt": "\\ud800"}', "body: not JSON: 'utf-8'"),
    "a name twice": (b'{"prompt": "a", "prompt": "b"}', "body: not JSON: 'prompt' stands there twice"),
    "a name twice, deeper": (b'{"messages": [{"text": "a", "text": "b"}]}', "body: not JSON: 'text' stands there twice"),
    "NaN": (b'{"weight": NaN}', "body: not JSON: NaN is not a number"),
    "Infinity": (b'{"weight": -Infinity}', "body: not JSON: -Infinity is not a number"),
    "nested": (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "body: nested too deeply"),
    "nested arrays": (b"[" * 1_000_000, "body: nested too deeply"),
    "huge": (b'{"prompt": "' + b"x" * 2_000_000 + b'"}', "body: 2000014 bytes exceed the limit of 1048576"),
    "a huge number": (b'{"seed": ' + b"9" * 10_000 + b"}", "body: not JSON: "),
}


class TestBadInput:
    """Nothing is ordered, the error says why, and the next request is answered."""

    @pytest.mark.parametrize("path", [GENERATE, IMAGES])
    @pytest.mark.parametrize(("body", "words"), BAD_BODIES.values(), ids=BAD_BODIES)
    async def test_what_is_no_json(self, path: str, body: bytes, words: str) -> None:
        """Or can be read in two ways."""
        backend = Scripted()
        async with caller(backend) as client:
            refused = await client.post(path, content=body, headers={"content-type": "application/json; charset=utf-8"})
            assert (refused.status_code, message_of(refused)[: len(words)]) == (400, words)
            await wait(client, await order(client))
        assert len(backend.asked) == 1

    @pytest.mark.parametrize("path", [GENERATE, IMAGES])
    async def test_what_is_said_to_be_something_else(self, path: str) -> None:
        """Refused; what `curl --data` says when it is told nothing is taken, but not of a browser, which tells its origin."""
        taken = BODY if path == GENERATE else {"prompt": "a cat", "model": URI}
        form = {"content-type": "application/x-www-form-urlencoded"}
        async with caller(Scripted()) as client:
            for headers in ({"content-type": "text/plain"}, form | {"origin": "https://elsewhere.example"}):
                refused = await client.post(path, content=json.dumps(taken), headers=headers)
                assert (refused.status_code, message_of(refused)[:13]) == (400, "content-type:")
            for headers in (form, {}):
                assert (await client.post(path, content=json.dumps(taken).encode(), headers=headers)).status_code == 200

    @pytest.mark.parametrize(
        ("change", "status", "code", "words"),
        [
            ({"generationOptions": {"seed": 1.5}}, 400, 3, r"body: .*seed"),
            ({"generationOptions": {"seed": 9007199254740993.0}}, 400, 3, r"body: .*seed"),
            ({"generationOptions": {"seed": 2**64}}, 400, 3, r"body: .*seed"),
            ({"generationOptions": {"seed": -1}}, 400, 3, r"seed: -1 is not"),
            ({"generationOptions": {"seed": "many"}}, 400, 3, r"body: .*seed"),
            ({"generationOptions": {"mimeType": "image/png"}}, 400, 3, r"mime_type: 'image/png'"),
            ({"generationOptions": {"aspectRatio": {"widthRatio": 1}}}, 400, 3, r"aspect_ratio: \(1, 0\)"),
            ({"generationOptions": []}, 400, 3, r"generationOptions: \[\] is not an object"),
            ({"generationOptions": {"aspectRatio": "16:9"}}, 400, 3, r"aspectRatio: '16:9' is not an object"),
            ({"generation_options": {"aspect_ratio": "16:9"}, "generationOptions": None}, 400, 3, r"aspect_ratio: '16:9' is not"),
            ({"messages": "a cat"}, 400, 3, r"messages: 'a cat' is not an object"),
            ({"messages": ["a cat"]}, 400, 3, r"messages: 'a cat' is not an object"),
            ({"messages": [None]}, 400, 3, r"body: .*messages"),
            ({"messages": []}, 400, 3, r"prompt: empty"),
            ({"messages": [{"text": "x" * 702}]}, 400, 3, r"Prompt positive size 702 exceeds limit \(500\)"),
            ({"messages": [{"text": "x", "weight": "NaN"}]}, 400, 3, r"weight: nan"),
            ({"messages": [{"text": "x", "weight": 10**400}]}, 400, 3, r"body: "),
            ({"modelUri": "art:///yandex-art"}, 403, 7, r"Access to model art:///yandex-art denied"),
        ],
    )
    async def test_a_wrong_order(self, change: dict[str, Any], status: int, code: int, words: str) -> None:
        """The field is named, in the flat shape, with the status of the one table."""
        async with caller(Scripted()) as client:
            refused = await client.post(GENERATE, json=BODY | change)
        assert re.match(words, message_of(refused))
        assert (refused.status_code, refused.json()["code"]) == (status, code)

    async def test_what_is_not_there(self) -> None:
        """Paths, methods and operations that nobody knows, each in the shape of its door."""
        async with caller(Scripted()) as client:
            for method, path, status in [
                ("GET", "/operations/fbvnonesuch", 404),
                ("POST", "/operations/fbvnonesuch:cancel", 404),
                ("GET", "/nowhere", 404),
                ("GET", "/v1/nowhere", 404),
                ("DELETE", "/operations/fbvnonesuch", 405),
                ("GET", IMAGES, 405),
            ]:
                refused = await client.request(method, path)
                assert (refused.status_code, bool(message_of(refused))) == (status, True)
                assert ("allow" in refused.headers) is (status == 405)

    @pytest.mark.parametrize("key", ["", "two words", "x" * 256])
    async def test_a_key_that_is_none(self, key: str) -> None:
        """Refused before anything is ordered."""
        async with caller(Scripted()) as client:
            refused = await client.post(GENERATE, json=BODY, headers={"idempotency-key": key})
        assert (refused.status_code, message_of(refused)[:16]) == (400, "idempotency_key:")

    async def test_a_key_of_another_request(self) -> None:
        """409, as the one table says."""
        async with caller(Scripted()) as client:
            await order(client, **{"idempotency-key": "k"})
            changed = BODY | {"messages": [{"text": "a dog"}]}
            refused = await client.post(GENERATE, json=changed, headers={"idempotency-key": "k"})
        assert (refused.status_code, refused.json()["code"]) == (409, 6)

    async def test_too_many_orders_are_told_when_to_come_back(self) -> None:
        """429 with `Retry-After`, and the same in the details."""
        backend = Scripted()
        backend.let.clear()
        async with caller(backend, concurrency=1, queue=1) as client:
            await order(client)
            await backend.begun.wait()
            await order(client)
            refused = await client.post(GENERATE, json=BODY)
            assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, 8, "1")
            assert refused.json()["details"][0]["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
            refused = await client.post(IMAGES, json={"prompt": "a cat", "model": URI})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


class TestSlowSenders:
    """Who does not get a request across does not hold the server."""

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "ARRIVAL", 0.2)

    async def test_a_head_that_does_not_end(self) -> None:
        """The connection is closed, although a byte comes now and then."""
        async with opened(Scripted()) as running:
            reader, writer = await connect(running)
            async with asyncio.timeout(5):
                while not reader.at_eof():
                    writer.write(b"G")
                    await asyncio.sleep(0.02)
            writer.close()

    async def test_a_connection_without_a_request(self) -> None:
        """The same for who says nothing at all."""
        async with opened(Scripted()) as running:
            reader, writer = await connect(running)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    async def test_a_body_that_does_not_come(self) -> None:
        """It is told, and the connection is closed, since nobody knows where the next request would begin."""
        async with opened(Scripted()) as running:
            reader, writer = await connect(running)
            head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            writer.write(head.encode() + b'{"model')
            answered = await asyncio.wait_for(reader.read(), 5)
            writer.close()
        assert answered.startswith(b"HTTP/1.1 400 ")
        assert b"body: not here within 0.2 s" in answered

    async def test_a_held_read_is_not_slow(self) -> None:
        """Nobody hangs up on who has sent all of it."""
        backend = Scripted()
        backend.let.clear()
        async with caller(backend) as client:
            held = asyncio.create_task(wait(client, await order(client)))
            await asyncio.sleep(0.4)
            backend.let.set()
            assert (await held)["done"]


async def connect(running: Embedded) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the doors over HTTP."""
    host, _, port = str(running.http).removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


class TestLife:
    """When the doors open and close."""

    async def test_there_is_an_end_to_connections(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond it, the answer is 503; what is held is answered all the same."""
        monkeypatch.setattr(listener, "CONNECTIONS", 3)
        backend = Scripted()
        backend.let.clear()
        async with caller(backend) as client:
            held = [asyncio.create_task(wait(client, await order(client))) for _ in range(2)]
            await asyncio.sleep(0.05)
            assert (await client.get("/v1/models")).status_code == 503
            backend.let.set()
            assert all(done["done"] for done in await asyncio.gather(*held))

    async def test_who_is_held_is_answered_when_the_server_stops(self) -> None:
        """With the picture, if it is done within the grace."""
        backend = Scripted(charges=True)
        backend.let.clear()
        async with AsyncExitStack() as life:
            async with opened(backend, grace=10.0) as running:
                client = await life.enter_async_context(httpx2.AsyncClient(base_url=str(running.http)))
                held = asyncio.create_task(wait(client, await order(client)))
                await backend.begun.wait()
                asyncio.get_running_loop().call_later(0.1, backend.let.set)
                await asyncio.sleep(0.05)
            assert (await held)["response"]["modelVersion"] == "scripted"

    async def test_a_slow_sender_does_not_keep_the_server(self) -> None:
        """What is not here when the grace is over is cut off."""
        async with opened(Scripted()) as running:
            reader, writer = await connect(running)
            writer.write(f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode())
            await asyncio.sleep(0.05)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    def test_they_are_closed_where_nobody_asked_for_them(self) -> None:
        """And the server tells no address."""
        with embedded() as running:
            assert running.http is None

    @pytest.mark.parametrize(
        ("where", "words"),
        [
            ("nonsense", "http: 'nonsense' is not host:port"),
            ("0.0.0.0:0", "http: '0.0.0.0' is not loopback"),
        ],
    )
    def test_a_wrong_address_is_named(self, where: str, words: str) -> None:
        """By the rules of the gRPC door."""
        with pytest.raises(ConfigurationError, match=words), embedded(http=where):
            pass

    def test_a_port_in_use_is_said(self) -> None:
        """A second server does not share it."""
        with embedded(http=True) as running:
            address = str(running.http).removeprefix("http://")
            with pytest.raises(ConfigurationError, match=f"http: '{address}' cannot be bound"), embedded(http=address):
                pass

    def test_tls_is_that_of_the_server(self, tmp_path: Path) -> None:
        """The same certificate at every door."""
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        pems: dict[str, Any] = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
        with embedded(http="localhost:0", **pems) as running:
            assert str(running.http).startswith("https://localhost:")
            trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            assert httpx2.get(f"{running.http}/v1/models", verify=trusting).status_code == 200


@pytest.fixture(scope="module")
def drawing() -> Iterator[str]:
    """The URL of a server that draws as fast as it can."""
    with embedded(duration="fixed:0", http=True) as running:
        yield str(running.http)


def test_the_description_is_served(drawing: str) -> None:
    """As JSON, where those look who generate clients."""
    assert httpx2.get(f"{drawing}/openapi.json").json() == description()


@schemathesis.openapi.from_dict(description()).parametrize()
@hypothesis.settings(max_examples=15)
def test_the_doors_are_as_described(case: schemathesis.Case[Any], drawing: str) -> None:
    """Whatever is sent: no server error, and answers of the types, statuses and schemas that the description tells.

    Two things it cannot tell: protobuf takes more than it names, and the OpenAI door wants some parameters only in a stream.
    """
    inexact: list[Any] = [checks.negative_data_rejection, checks.positive_data_acceptance]
    case.call_and_validate(base_url=drawing, excluded_checks=inexact, timeout=60)
