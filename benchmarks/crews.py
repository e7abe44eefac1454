"""Those who make images in the live benchmarks: each client as its users would write it, for one image or many at once."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from itertools import count
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import grpc

from benchmarks.measure import Measured

if TYPE_CHECKING:
    from yandexart_grpc import Image

# What a contestant does not use, its process does not load.
FOLDER, KEY, PROMPT = "b1gfolder", "AQVNkey", "a red cat"
OPTIONS = [("grpc.max_receive_message_length", 32 * 2**20)]

Seen = dict[str, float]
"""When each image was in the caller's hands, on the monotonic clock, by the id of its operation."""


def saw(seen: Seen, name: str) -> None:
    """Note that the image of that name is here now."""
    seen[name] = time.monotonic()


Make = Callable[[], Awaitable[str]]
"""Makes an image, lets go of it, and tells the id of its operation."""


async def raw(target: str) -> Make:
    """The stubs and a loop."""
    from yandexart_grpc import stubs

    channel = grpc.aio.insecure_channel(target, OPTIONS)
    generation: stubs.ImageGenerationAsyncServiceAsyncStub = stubs.ImageGenerationAsyncServiceStub(channel)
    operations: stubs.OperationServiceAsyncStub = stubs.OperationServiceStub(channel)

    async def make() -> str:
        message = stubs.Message(text=PROMPT, weight=1)
        request = stubs.ImageGenerationRequest(model_uri=f"art://{FOLDER}/yandex-art/latest", messages=[message])
        question = stubs.GetOperationRequest(operation_id=(await generation.Generate(request, timeout=30)).id)
        while not (operation := await operations.Get(question, timeout=30)).done:  # noqa: ASYNC110  # it is what is measured
            await asyncio.sleep(1)
        response = stubs.ImageGenerationResponse()
        operation.response.Unpack(response)
        return _had(operation.id, response.image)

    return make


async def studio(target: str) -> Make:
    """`AsyncAIStudio`, with its defaults."""
    from yandex_ai_studio_sdk import AsyncAIStudio

    model = AsyncAIStudio(folder_id=FOLDER, auth=KEY, endpoint=target, verify=False).models.image_generation("yandex-art")

    async def make() -> str:
        operation = await model.run_deferred(PROMPT)
        return _had(operation.id, (await operation.wait()).image_bytes)

    return make


def cloud(target: str) -> Callable[[], str]:
    """`yandexcloud.SDK`, with its defaults.

    Its waiter is used with the pause of a second that `wait_operation_and_get_result` makes. That one itself would also write the
    whole image into a line for its log, which costs 90 ms.
    """
    from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_pb2 import Message
    from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2 import (
        ImageGenerationRequest,
        ImageGenerationResponse,
    )
    from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2_grpc import (
        ImageGenerationAsyncServiceStub,
    )
    from yandexcloud import SDK  # type: ignore[attr-defined]  # it exports nothing by the letter

    class Plaintext(SDK):
        """Its waiter has no setting for a server without TLS."""

        def client(self, stub: Any, interceptor: Any = None, **_: Any) -> Any:  # type: ignore[override]
            return super().client(stub, interceptor, target, insecure=True)

    sdk = Plaintext(iam_token="t1.token")
    generation = sdk.client(ImageGenerationAsyncServiceStub)

    def make() -> str:
        message = Message(text=PROMPT, weight=1)
        request = ImageGenerationRequest(model_uri=f"art://{FOLDER}/yandex-art/latest", messages=[message])
        waiter = sdk.waiter(generation.Generate(request).id)
        for _ in waiter:
            time.sleep(1)
        assert waiter.operation is not None
        response = ImageGenerationResponse()
        waiter.operation.response.Unpack(response)
        return _had(waiter.operation.id, response.image)

    return make


def _had(operation_id: str, image: bytes) -> str:
    assert image
    return operation_id


Batch = Callable[[Measured], Seen]
"""Fulfils an order: `images`, so many `in_flight`. Ours heeds `patience`, and `alone`: a client for each that is in flight."""


def tasks(opened: Callable[[str], Awaitable[Make]], target: str) -> Batch:
    """Makes images in tasks of one event loop."""
    runner = asyncio.Runner()

    async def prepared() -> Make:
        return await opened(target)

    make = runner.run(prepared())

    async def batch(order: Measured) -> Seen:
        seen: Seen = {}
        left = iter(range(order["images"]))

        async def work() -> None:
            for _ in left:
                saw(seen, await make())

        await asyncio.gather(*(work() for _ in range(order["in_flight"])))
        return seen

    return lambda order: runner.run(batch(order))


def threads(opened: Callable[[str], Callable[[], str]], target: str) -> Batch:
    """Makes images in threads."""
    make = opened(target)

    def batch(order: Measured) -> Seen:
        seen: Seen = {}
        taken, lock = count(), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    if next(taken) >= order["images"]:
                        return
                saw(seen, make())

        with ThreadPoolExecutor(order["in_flight"]) as pool:
            for job in [pool.submit(work) for _ in range(order["in_flight"])]:
                job.result()
        return seen

    return batch


Key = Callable[["Image"], str]
"""Under what name an image of ours is noted."""


def ours_aio(target: str, history: str | None = None, key: Key = attrgetter("operation_id")) -> Batch:
    """`AsyncYandexArt.map`, or several clients that call `generate`."""
    from yandexart_grpc import AsyncYandexArt

    async def batch(order: Measured) -> Seen:
        seen: Seen = {}
        async with AsyncExitStack() as life:

            async def client() -> AsyncYandexArt:
                return await life.enter_async_context(AsyncYandexArt(**settings(target, history, order)))

            async def work() -> None:
                art = await client()
                for _ in range(order["images"] // order["in_flight"]):
                    saw(seen, key(await art.generate(PROMPT)))

            if order.get("alone"):
                await asyncio.gather(*(work() for _ in range(order["in_flight"])))
            else:
                async for image in (await client()).map([PROMPT] * order["images"], in_flight=order["in_flight"]):
                    saw(seen, key(image))
        return seen

    runner = asyncio.Runner()
    return lambda order: runner.run(batch(order))


def ours_sync(target: str, history: str | None = None, key: Key = attrgetter("operation_id")) -> Batch:
    """`YandexArt.map`, or several clients that call `generate`."""
    from yandexart_grpc import YandexArt

    def batch(order: Measured) -> Seen:
        seen: Seen = {}
        with ExitStack() as life:

            def client() -> YandexArt:
                return life.enter_context(YandexArt(**settings(target, history, order)))

            def work() -> None:
                art = client()
                for _ in range(order["images"] // order["in_flight"]):
                    saw(seen, key(art.generate(PROMPT)))

            if order.get("alone"):
                with ThreadPoolExecutor(order["in_flight"]) as pool:
                    for job in [pool.submit(work) for _ in range(order["in_flight"])]:
                        job.result()
            else:
                for image in client().map([PROMPT] * order["images"], in_flight=order["in_flight"]):
                    saw(seen, key(image))
        return seen

    return batch


def settings(target: str, history: str | None, order: Measured) -> dict[str, Any]:
    """What ours is told."""
    known = {"folder_id": FOLDER, "credentials": KEY, "endpoint": f"http://{target}", "history": history}
    return {**known, "patience": order.get("patience"), "reads_per_second": inf, "submits_per_minute": inf}
