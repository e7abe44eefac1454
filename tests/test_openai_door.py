"""The OpenAI door, spoken to by the real `openai` package: pictures, streams, and its own exception classes for our errors."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import openai
import PIL.Image
import PIL.ImageChops
import PIL.ImageStat
import pytest
from grpc import StatusCode
from openai import AsyncOpenAI, OpenAI

from tests.doors import PICTURE, SKETCHES, Scripted, opened
from yandexart_grpc import (
    ContentRefused,
    OperationFailed,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    YandexArt,
    YandexArtError,
)
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import embedded
from yandexart_grpc.server.doors import openai as door

URI = "art://b1gfolder/yandex-art/latest"
NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
LOOK = {"background": "opaque", "output_format": "jpeg", "quality": "high", "size": "64x48"}
KEYED = {"Idempotency-Key": "order-7"}


class Face:
    """A client of either kind, whose `generate` is awaited; the blocking one runs in a thread."""

    def __init__(self, client: OpenAI | AsyncOpenAI, stop: Callable[[], Awaitable[None]] | None = None) -> None:
        self.client = client
        self.stop = stop

    async def generate(self, prompt: str = "a cat", *, model: str | None = URI, raw: bool = False, **options: Any) -> Any:
        images: Any = self.client.images.with_raw_response if raw else self.client.images
        return await self.call(images.generate, prompt=prompt, model=model, **options)

    async def stream(self, **options: Any) -> list[Any]:
        """Every event of a stream."""
        events = await self.generate(stream=True, **options)
        if isinstance(self.client, OpenAI):
            return await asyncio.to_thread(list, events)
        return [event async for event in events]

    async def call(self, method: Callable[..., Any], **options: Any) -> Any:
        if isinstance(self.client, OpenAI):
            return await asyncio.to_thread(method, **options)
        return await method(**options)


@pytest.fixture(params=[OpenAI, AsyncOpenAI], ids=["sync", "aio"])
def face(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Opens a server with a backend, and gives a client of one kind that is told its address."""

    @asynccontextmanager
    async def connected(backend: Scripted, *, project: str | None = None, **settings: Any) -> AsyncIterator[Face]:
        async with AsyncExitStack() as life:
            server = await life.enter_async_context(AsyncExitStack())
            running = await server.enter_async_context(opened(backend, **settings))
            client = request.param(base_url=f"{running.http}/v1", api_key="AQVNsecret", project=project)
            life.push_async_callback(Face(client).call, client.close)
            yield Face(client, server.aclose)

    return connected


def picture(image: Any) -> bytes:
    """The bytes of an image as the package hands it out."""
    return base64.b64decode(image.b64_json)


class TestPictures:
    """What the package gets."""

    async def test_a_picture_with_every_documented_field(self, face: Callable[..., Any]) -> None:
        """And exactly these; the size is that of the picture, not the one that was asked for."""
        backend, before = Scripted(), int(time.time())
        async with face(backend) as client:
            answered = await client.generate(
                size="1792x1024", raw=True, response_format="b64_json", user="me", extra_body={"seed": 42}
            )
        found = answered.http_response.json()
        assert found.pop("created") >= before
        assert found == {"data": [{"b64_json": base64.b64encode(PICTURE).decode()}], **LOOK, "usage": NO_USAGE}
        assert answered.parse().data[0].b64_json == base64.b64encode(PICTURE).decode()
        assert answered.headers["x-request-id"].startswith("fbv")
        assert backend.asked == [ImageRequest.build("a cat", folder_id="b1gfolder", seed=42, aspect_ratio=(1792, 1024))]
        assert backend.authorizations == ["Bearer AQVNsecret"]

    async def test_a_bare_name_is_looked_for_in_the_project(self, face: Callable[..., Any]) -> None:
        """And so is the model that is meant where none is named."""
        backend = Scripted()
        async with face(backend, project="b1gfolder") as client:
            for model in ("aliceai-image-art-3.0", None):
                await client.generate(model=model)
        assert [one.model_uri for one in backend.asked] == ["art://b1gfolder/aliceai-image-art-3.0", URI]

    async def test_several_pictures_have_seeds_of_their_own(self, face: Callable[..., Any]) -> None:
        """That of the first, and those that follow it; without one, each is left to the backend."""
        backend = Scripted()
        async with face(backend) as client:
            assert len((await client.generate(n=3, extra_body={"seed": 7})).data) == 3
            assert len((await client.generate(n=2)).data) == 2
        assert sorted(one.seed for one in backend.asked) == [0, 0, 7, 8, 9]

    async def test_what_is_not_supported_may_be_left_at_its_default(self, face: Callable[..., Any]) -> None:
        """Or be null."""
        async with face(Scripted()) as client:
            for value in (
                {"quality": "auto", "style": "vivid", "background": "auto", "moderation": "auto", "size": "auto"},
                {"quality": None, "style": None, "size": None, "n": None, "output_format": None},
                {"output_compression": 100, "extra_body": {"stream": False, "partial_images": 0, "seed": 0}},
            ):
                assert picture((await client.generate(**value)).data[0]) == PICTURE

    async def test_the_models_are_listed(self, face: Callable[..., Any]) -> None:
        """By the names that `model` takes."""
        async with face(Scripted()) as client:
            listed = await client.call(client.client.models.list)
        assert [model.id for model in listed.data] == ["yandex-art/latest", "yandex-art-2.0", "aliceai-image-art-3.0"]

    async def test_a_caller_who_hung_up_comes_back_for_his_picture(self, face: Callable[..., Any]) -> None:
        """The operations go on, and the same request with the same key gets them: nothing is made twice."""
        backend = Scripted(charges=True)
        backend.let.clear()
        async with face(backend) as client:
            hurried = Face(client.client.with_options(max_retries=0, timeout=0.2))
            for ask in (hurried.generate, hurried.stream):
                with pytest.raises(openai.APITimeoutError):
                    await ask(extra_headers=KEYED)
            backend.let.set()
            assert picture((await client.generate(extra_headers=KEYED)).data[0]) == PICTURE
            assert picture((await client.stream(extra_headers=KEYED))[-1]) == PICTURE
        assert len(backend.asked) == 1

    async def test_each_of_several_pictures_has_a_key(self, face: Callable[..., Any]) -> None:
        """The same request with the same key is the same pictures."""
        backend = Scripted()
        async with face(backend) as client:
            answers = [await client.generate(n=2, extra_headers=KEYED, raw=True) for _ in range(2)]
        assert len({answered.headers["x-request-id"] for answered in answers}) == 1
        assert len(backend.asked) == 2


class TestStreams:
    """What the package gets with `stream=True`."""

    @pytest.mark.parametrize("partial_images", [None, 0, 1, 2, 3])
    async def test_so_many_sketches_and_the_picture(self, face: Callable[..., Any], partial_images: int | None) -> None:
        """Each with exactly its documented fields."""
        backend = Scripted(sketches=SKETCHES)
        async with face(backend) as client:
            *sketches, done = [event.to_dict() for event in await client.stream(partial_images=partial_images)]
        assert isinstance(done.pop("created_at"), int)
        image = base64.b64encode(PICTURE).decode()
        assert done == {"type": "image_generation.completed", "b64_json": image, **LOOK, "usage": NO_USAGE}
        assert len(sketches) == (partial_images or 0)
        for index, (sketch, drawn) in enumerate(zip(sketches, SKETCHES, strict=False)):
            assert isinstance(sketch.pop("created_at"), int)
            told = {"type": "image_generation.partial_image", "b64_json": base64.b64encode(drawn).decode(), **LOOK}
            assert sketch == told | {"partial_image_index": index}

    async def test_an_error_in_a_stream(self, face: Callable[..., Any]) -> None:
        """The package raises it, with our words."""
        for partial_images in (0, 2):
            async with face(Scripted(ContentRefused("it may violate the terms of use"), sketches=SKETCHES[:1])) as client:
                with pytest.raises(openai.APIError, match="it may violate the terms of use") as caught:
                    await client.stream(partial_images=partial_images)
            assert caught.value.code == "content_policy_violation"

    async def test_a_silent_stream_has_a_heartbeat(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Comments, which every reader of event streams passes over."""
        monkeypatch.setattr(door, "HEARTBEAT", 0.02)
        backend = Scripted()
        backend.let.clear()
        async with opened(backend) as running, httpx2.AsyncClient(base_url=str(running.http)) as client:
            body = {"prompt": "a cat", "model": URI, "stream": True, "partial_images": 1}
            async with client.stream("POST", "/v1/images/generations", json=body) as answered:
                assert answered.headers["content-type"].startswith("text/event-stream")
                lines = answered.aiter_lines()
                assert [await anext(lines) for _ in range(4)] == [": it goes on", ""] * 2
                backend.let.set()
                told = [line async for line in lines if line and not line.startswith(":")]
        assert [line.partition(" ")[0] for line in told] == ["event:", "data:"]

    async def test_who_hangs_up_is_not_followed_any_more(self) -> None:
        """The server stops at once, although the operation goes on."""
        backend = Scripted()
        backend.let.clear()
        async with opened(backend, grace=0.0) as running, httpx2.AsyncClient(base_url=str(running.http)) as client:
            body = {"prompt": "a cat", "model": URI, "stream": True, "partial_images": 1}
            async with client.stream("POST", "/v1/images/generations", json=body):
                await backend.begun.wait()

    def test_the_demo_draws_coarse_to_fine(self) -> None:
        """Each sketch in the size of the picture, and closer to it than the one before."""
        with embedded(duration="fixed:0.3", http=True) as running, OpenAI(base_url=f"{running.http}/v1", api_key="k") as client:
            events = list(client.images.generate(prompt="a cat", model=URI, size="2x1", stream=True, partial_images=3))
        *sketches, done = [PIL.Image.open(io.BytesIO(picture(event))) for event in events]
        assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
        assert {sketch.size for sketch in sketches} == {done.size}
        distances = [distance(sketch, done) for sketch in sketches]
        assert distances == sorted(distances, reverse=True)


def distance(one: PIL.Image.Image, other: PIL.Image.Image) -> float:
    """How far two pictures of one size are from each other."""
    (difference,) = PIL.ImageStat.Stat(PIL.ImageChops.difference(one.convert("L"), other.convert("L"))).sum
    return difference


class TestErrors:
    """Our errors in the classes of the package."""

    @pytest.mark.parametrize(
        ("wrong", "param", "words"),
        [
            ({"prompt": ""}, "prompt", "empty"),
            ({"prompt": "x" * 702}, "prompt", r"Prompt positive size 702 exceeds limit \(500\)"),
            ({"prompt": 5}, "prompt", "5 is not a text"),
            ({"model": "yandex-art/latest"}, "model", "names no folder"),
            ({"model": None}, "model", "names no folder"),
            ({"model": "art:///x"}, "model", "art:///x"),
            ({"size": "big"}, "size", "'big' is neither"),
            ({"size": "0x5"}, "size", "two integers"),
            ({"n": 0}, "n", "0 is not an integer from 1 to 10"),
            ({"n": 11}, "n", "11 is not an integer from 1 to 10"),
            ({"n": 2, "stream": True}, "n", "one stream"),
            ({"extra_body": {"n": 1.0}}, "n", "1.0 is not"),
            ({"extra_body": {"seed": 1.5}}, "seed", "1.5 is not"),
            ({"extra_body": {"seed": -1}}, "seed", "-1 is not"),
            ({"extra_body": {"seed": 2**63 - 1}, "n": 2}, "seed", "9223372036854775808 is not"),
            ({"extra_body": {"seed": True}}, "seed", "True is not"),
            ({"quality": "hd"}, "quality", "'hd' is not supported"),
            ({"style": "natural"}, "style", "'natural' is not supported"),
            ({"background": "transparent"}, "background", "'transparent' is not supported"),
            ({"moderation": "low"}, "moderation", "'low' is not supported"),
            ({"output_format": "png"}, "output_format", "'png' is not supported"),
            ({"output_compression": 50}, "output_compression", "50 is not supported"),
            ({"response_format": "url"}, "response_format", "'url' is not supported"),
            ({"partial_images": 1}, "partial_images", "only a stream"),
            ({"partial_images": 4, "stream": True}, "partial_images", "4 is not an integer from 0 to 3"),
            ({"extra_body": {"stream": "yes"}}, "stream", "'yes' is neither"),
            ({"user": 5}, "user", "5 is not a text"),
            ({"extra_body": {"negative_prompt": "rain"}}, "negative_prompt", "no such parameter"),
        ],
    )
    async def test_a_wrong_parameter_is_named(
        self, face: Callable[..., Any], wrong: dict[str, Any], param: str, words: str
    ) -> None:
        """In `param`, and nothing is ordered."""
        backend = Scripted()
        async with face(backend) as client:
            with pytest.raises(openai.BadRequestError, match=words) as caught:
                await client.generate(**wrong)
        error = caught.value
        assert (error.param, error.type, error.code) == (param, "invalid_request_error", "invalid_argument")
        assert backend.asked == []

    @pytest.mark.parametrize(
        ("failure", "kind", "code"),
        [
            (ContentRefused("violate the terms of use"), openai.BadRequestError, "content_policy_violation"),
            (Unauthenticated("who?"), openai.AuthenticationError, "unauthenticated"),
            (PermissionDenied("no role"), openai.PermissionDeniedError, "permission_denied"),
            (OperationFailed("gone", code=StatusCode.NOT_FOUND), openai.NotFoundError, "not_found"),
            (OutcomeUnknown("perhaps bought"), openai.ConflictError, "aborted"),
            (QuotaExceeded("too many"), openai.RateLimitError, "resource_exhausted"),
            (Unavailable("down"), openai.InternalServerError, "unavailable"),
            (OperationFailed("broken"), openai.InternalServerError, "internal"),
        ],
    )
    async def test_a_failed_operation_is_not_ordered_again(
        self, face: Callable[..., Any], failure: YandexArtError, kind: type[openai.APIStatusError], code: str
    ) -> None:
        """Although the package by itself sends again what may pass: it is told not to."""
        backend = Scripted(failure, charges=True)
        async with face(backend) as client:
            with pytest.raises(kind) as caught:
                await client.generate()
        assert (caught.value.code, caught.value.param) == (code, None)
        assert str(caught.value.request_id).startswith("fbv")
        assert len(backend.asked) == 1

    async def test_what_is_no_picture(self, face: Callable[..., Any]) -> None:
        """A backend that has no JPEG for us is an error, not an image."""
        async with face(Scripted(b"<html>")) as client:
            with pytest.raises(openai.InternalServerError, match="holds no JPEG"):
                await client.generate()

    async def test_a_key_of_another_request(self, face: Callable[..., Any]) -> None:
        """Is a conflict."""
        async with face(Scripted()) as client:
            await client.generate(extra_headers=KEYED)
            with pytest.raises(openai.ConflictError, match="stands for another request"):
                await Face(client.client.with_options(max_retries=0)).generate("a dog", extra_headers=KEYED)

    async def test_what_takes_too_long(self, face: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """A time-out that names the operation; with the key, the picture is there later."""
        monkeypatch.setattr(door, "LONGEST_WAIT", 0.05)
        backend = Scripted(charges=True)
        backend.let.clear()
        async with face(backend) as client:
            hurried = Face(client.client.with_options(max_retries=0))
            with pytest.raises(
                openai.InternalServerError, match=r"operation fbv\w+ is not done after 0.05 s, and goes on"
            ) as caught:
                await hurried.generate(extra_headers=KEYED)
            assert caught.value.status_code == 504
            backend.let.set()
            assert picture((await client.generate(extra_headers=KEYED)).data[0]) == PICTURE
        assert len(backend.asked) == 1

    async def test_a_server_that_stops(self, face: Callable[..., Any]) -> None:
        """Says that the operation goes on when it is back; the picture of a request with a key is there then."""
        backend = Scripted(charges=True)
        backend.let.clear()
        async with AsyncExitStack() as life:
            client = await life.enter_async_context(face(backend))
            hurried = Face(client.client.with_options(max_retries=0))
            waiting = [asyncio.create_task(hurried.generate()), asyncio.create_task(hurried.stream(partial_images=1))]
            await backend.begun.wait()
            await asyncio.sleep(0.05)
            await client.stop()
            for answered in waiting:
                with pytest.raises(openai.APIError, match=r"the server stops; operation fbv\w+ is kept"):
                    await answered


@pytest.fixture(scope="module")
def everywhere() -> Any:
    """A server that draws, with all its doors open."""
    with embedded(duration="fixed:0", http=True) as running:
        yield running


def test_one_seed_is_the_same_picture_at_every_door(everywhere: Any) -> None:
    """Byte by byte."""
    with YandexArt(endpoint=everywhere.endpoint, folder_id="b1gfolder") as art:
        ours = art.generate("рыжий кот", aspect_ratio="16:9", seed=42).data
    with httpx2.Client(base_url=everywhere.http) as client:
        options = {"seed": "42", "aspectRatio": {"widthRatio": "16", "heightRatio": "9"}}
        body = {"modelUri": URI, "messages": [{"text": "рыжий кот"}], "generationOptions": options}
        operation_id = client.post("/foundationModels/v1/imageGenerationAsync", json=body).json()["id"]
        done = client.get(f"/operations/{operation_id}", headers={"prefer": "wait=10"}).json()
    with OpenAI(base_url=f"{everywhere.http}/v1", api_key="k") as package:
        data = package.images.generate(prompt="рыжий кот", model=URI, size="16x9", extra_body={"seed": 42}).data
    assert data
    assert base64.b64decode(done["response"]["image"]) == ours
    assert picture(data[0]) == ours
