"""CPU per image when every image is ready at once: what each client adds to its two calls, `Generate` and one `Get`.

The server has an image ready before anybody can ask for it, and answers `Generate` with an id alone, as the service does. So
every contestant makes the same two calls, one image after the other, and nobody needs to sleep: the raw loop and the SDK ask at
once of their own accord. Ours asks when an image is likely to be there; it learns during the warm-up that images take no time,
and is told `patience=1e-6` and no limits of its rates. What planning and learning cost is counted.

What counts is the CPU time of the contestant's whole process over a batch of images.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import grpc

from benchmarks.measure import Contestant, Cost, Measured, Report, median, obey, ratio, serving, take_turns

RAW, OURS, SDK = "raw stubs", "ours", "yandex-ai-studio-sdk"
TARGETS = {10_000: 1.15, 1_600_000: 1.05}
BATCHES = {10_000: 100, 1_600_000: 20}
"""How many images of each size make a batch."""
WARM_UP, ROUNDS = 70, 21
PROMPT, FOLDER, KEY = "a red cat", "b1gfolder", "AQVNkey"
METADATA = (("authorization", f"Api-Key {KEY}"),)
OPTIONS = [("grpc.max_receive_message_length", 32 * 2**20)]
UNLIMITED: dict[str, Any] = {"patience": 1e-6, "reads_per_second": inf, "submits_per_minute": inf}


def raw_sync(target: str) -> Callable[[], bytes]:
    """The stubs and a loop."""
    from yandexart_grpc import stubs

    channel = grpc.insecure_channel(target, OPTIONS)
    generation, operations = stubs.ImageGenerationAsyncServiceStub(channel), stubs.OperationServiceStub(channel)

    def make() -> bytes:
        message = stubs.Message(text=PROMPT, weight=1)
        request = stubs.ImageGenerationRequest(model_uri=f"art://{FOLDER}/yandex-art/latest", messages=[message])
        operation = generation.Generate(request, timeout=30, metadata=METADATA)
        while not operation.done:
            question = stubs.GetOperationRequest(operation_id=operation.id)
            operation = operations.Get(question, timeout=30, metadata=METADATA)
        response = stubs.ImageGenerationResponse()
        operation.response.Unpack(response)
        return response.image

    return make


async def raw_aio(target: str) -> Callable[[], Awaitable[bytes]]:
    """The same with `await`."""
    from yandexart_grpc import stubs

    channel = grpc.aio.insecure_channel(target, OPTIONS)
    generation: stubs.ImageGenerationAsyncServiceAsyncStub = stubs.ImageGenerationAsyncServiceStub(channel)
    operations: stubs.OperationServiceAsyncStub = stubs.OperationServiceStub(channel)

    async def make() -> bytes:
        message = stubs.Message(text=PROMPT, weight=1)
        request = stubs.ImageGenerationRequest(model_uri=f"art://{FOLDER}/yandex-art/latest", messages=[message])
        operation = await generation.Generate(request, timeout=30, metadata=METADATA)
        while not operation.done:
            question = stubs.GetOperationRequest(operation_id=operation.id)
            operation = await operations.Get(question, timeout=30, metadata=METADATA)
        response = stubs.ImageGenerationResponse()
        operation.response.Unpack(response)
        return response.image

    return make


def ours_sync(target: str) -> Callable[[], bytes]:
    """`YandexArt.generate`."""
    from yandexart_grpc import YandexArt

    art = YandexArt(folder_id=FOLDER, credentials=KEY, endpoint=f"http://{target}", **UNLIMITED)
    return lambda: art.generate(PROMPT).data


async def ours_aio(target: str) -> Callable[[], Awaitable[bytes]]:
    """`AsyncYandexArt.generate`."""
    from yandexart_grpc import AsyncYandexArt

    art = AsyncYandexArt(folder_id=FOLDER, credentials=KEY, endpoint=f"http://{target}", **UNLIMITED)

    async def make() -> bytes:
        return (await art.generate(PROMPT)).data

    return make


def sdk_sync(target: str) -> Callable[[], bytes]:
    """`AIStudio`, as its documentation shows."""
    from yandex_ai_studio_sdk import AIStudio

    studio = AIStudio(folder_id=FOLDER, auth=KEY, endpoint=target, verify=False)
    model = studio.models.image_generation("yandex-art")
    return lambda: model.run_deferred(PROMPT).wait(poll_interval=1e-6).image_bytes


async def sdk_aio(target: str) -> Callable[[], Awaitable[bytes]]:
    """`AsyncAIStudio`, as its documentation shows."""
    from yandex_ai_studio_sdk import AsyncAIStudio

    model = AsyncAIStudio(folder_id=FOLDER, auth=KEY, endpoint=target, verify=False).models.image_generation("yandex-art")

    async def make() -> bytes:
        operation = await model.run_deferred(PROMPT)
        return (await operation.wait(poll_interval=1e-6)).image_bytes

    return make


SYNC = {RAW: raw_sync, OURS: ours_sync, SDK: sdk_sync}
AIO = {RAW: raw_aio, OURS: ours_aio, SDK: sdk_aio}


def contestant(kind: str, name: str, target: str) -> None:
    """Warm up, then do batches."""
    with asyncio.Runner() as runner:
        if kind == "sync":
            make = SYNC[name](target)

            def batch(images: int) -> None:
                for _ in range(images):
                    make()
        else:
            amake = runner.run(AIO[name](target))

            async def abatch(images: int) -> None:
                for _ in range(images):
                    await amake()

            def batch(images: int) -> None:
                runner.run(abatch(images))

        def work(order: Measured) -> Measured:
            with Cost() as cost:
                batch(order["images"])
            return {"cpu": cost.cpu / order["images"], "wall": cost.wall / order["images"]}

        batch(WARM_UP)
        obey(work)


def main() -> None:
    """Run it all."""
    with Report("overhead", "overhead: CPU per image when every image is ready at once") as report:
        for size, images in BATCHES.items():
            with serving("--bytes", str(size)) as server:
                for kind in ("sync", "aio"):
                    contestants = {name: Contestant("benchmarks.overhead", kind, name, server.target) for name in SYNC}
                    samples = take_turns(contestants, ROUNDS, server.reset, images=images)
                    case = f"{kind}, {size / 1e6:g} MB" if size >= 1e6 else f"{kind}, {size / 1e3:g} kB"
                    for name, batches in samples.items():
                        values = {"CPU, µs": median(batches, "cpu") * 1e6, "wall, µs": median(batches, "wall") * 1e6}
                        times = ratio(batches, samples[RAW], "cpu")
                        if name != OURS:
                            report.row(case, name, values, ratio=times)
                            continue
                        met = times <= TARGETS[size] and ratio(batches, samples[SDK], "cpu") < 1
                        report.row(case, name, values, ratio=times, target=f"ratio ≤ {TARGETS[size]:g}, below the SDK", met=met)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
