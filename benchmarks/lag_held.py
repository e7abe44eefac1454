"""How soon a held read brings an image, beside the floor: a call that is answered at the same instant with the same bytes.

The server is ours, engine, store and door, with a backend that has its image ready after the usual while (lognormal, median 3 s,
σ 0.35). Beside it, in the same process and event loop, stands the floor: a method that waits as long and answers with a finished
operation. Both write the instant into the image's `model_version`, so that whoever has the image knows how old it is.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import grpc

from benchmarks import crews
from benchmarks.lag_live import LAW, SIZE, in_turn, together
from benchmarks.lean import durations, jpeg
from benchmarks.measure import Contestant, Cost, Measured, Report, obey
from yandexart_grpc import stubs
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.doors import grpc as door

AIO, SYNC, FLOOR = "ours, aio", "ours, sync", "floor"
SINGLES = 32
WARM_UP = {"in_flight": 64, "images": 64}
CASES: dict[str, Measured] = {
    "1 in flight": {"in_flight": SINGLES, "images": SINGLES * 4, "alone": True},
    "100 in flight": {"in_flight": 100, "images": 200},
    "1,000 in flight": {"in_flight": 1000, "images": 1000},
}
MEDIAN, LATE = 0.003, 0.010
"""How many seconds later than the floor an image may be, in the median and in the 95th percentile."""


class Ready:
    """A backend that has its image ready after a while, and stamps it with the instant."""

    charges = resumable = False

    def __init__(self) -> None:
        self._duration = durations(LAW, 1)
        self._image = jpeg(SIZE)

    async def generate(self, request: ImageRequest, upstream: object) -> stubs.ImageGenerationResponse:
        """Wait."""
        await asyncio.sleep(self._duration())
        return stubs.ImageGenerationResponse(image=self._image, model_version=repr(time.monotonic()))

    async def close(self) -> None:
        """Nothing is held open."""


class Floor:
    """The floor, in both senses: the method that is served, and the caller."""

    METHOD = "/benchmark.Held/Floor"

    def __init__(self) -> None:
        self._duration = durations(LAW, 1)
        finished = stubs.Operation(id="floor", done=True)
        finished.response.Pack(stubs.ImageGenerationResponse(image=jpeg(SIZE)))
        self._known = finished.SerializeToString()

    async def answer(self, request: bytes, context: object) -> bytes:
        """Wait, and answer with what was made beforehand, and the instant."""
        await asyncio.sleep(self._duration())
        # Messages that are concatenated are merged.
        return self._known + stubs.Operation(description=repr(time.monotonic())).SerializeToString()

    @staticmethod
    async def opened(target: str) -> crews.Make:
        """Make the call, and take the image out."""
        channel = grpc.aio.insecure_channel(target, crews.OPTIONS)
        method: Any = channel.unary_unary(Floor.METHOD, response_deserializer=stubs.Operation.FromString)

        async def make() -> str:
            operation = await method(b"")
            response = stubs.ImageGenerationResponse()
            operation.response.Unpack(response)
            return operation.description if response.image else ""

        return make


class Counting(door.OperationReads):
    """Our door, which counts."""

    count = 0

    async def Get(self, request: stubs.GetOperationRequest, context: door.Context) -> stubs.Operation:
        Counting.count += 1
        return await super().Get(request, context)


async def serve() -> None:
    """Serve both, and tell where and how often ours was asked."""
    door.OperationReads = Counting  # type: ignore[misc]
    floor = grpc.aio.server(options=[("grpc.max_concurrent_streams", 100_000)])
    service, _, name = Floor.METHOD[1:].partition("/")
    method: Any = grpc.unary_unary_rpc_method_handler(Floor().answer)
    floor.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: method})])
    port = floor.add_insecure_port("127.0.0.1:0")
    await floor.start()
    async with serving(ServerSettings(listen="127.0.0.1:0", backend=Ready())) as server:
        known = {"target": server.endpoint.removeprefix("http://"), "floor": f"127.0.0.1:{port}"}
        await asyncio.to_thread(obey, lambda order: {**known, "reads": Counting.count})
    await floor.stop(None)


def contestant(kind: str, target: str = "") -> None:
    """Serve, or fulfil orders."""
    if kind == "server":
        asyncio.run(serve())
        return
    stamp = attrgetter("model_version")
    batches: dict[str, Callable[[], crews.Batch]] = {
        FLOOR: lambda: crews.tasks(Floor.opened, target),
        AIO: lambda: crews.ours_aio(target, key=stamp),
        SYNC: lambda: crews.ours_sync(target, key=stamp),
    }
    batch = batches[kind]()

    def work(order: Measured) -> Measured:
        with Cost() as cost:
            seen = batch(order)
        lags = sorted(had - float(instant) for instant, had in seen.items())
        middle, late = statistics.median(lags), lags[len(lags) * 95 // 100]
        return {"images": len(lags), "lag": middle, "late": late, "cpu": cost.cpu / order["images"], "peak": cost.peak}

    obey(work)


def main() -> None:
    """Run it, and write the table."""
    with (
        Report("lag-held", "Lag, held reads: our server, lognormal, median 3 s, σ 0.35, images of 1.6 MB") as report,
        Contestant("benchmarks.lag_held", "server") as server,
        ExitStack() as life,
    ):
        known = server.run()
        targets = {FLOOR: known["floor"], AIO: known["target"], SYNC: known["target"]}
        contestants = {
            name: life.enter_context(Contestant("benchmarks.lag_held", name, target)) for name, target in targets.items()
        }
        together(contestants, dict.fromkeys(contestants, WARM_UP))
        for case, order in CASES.items():
            before = server.run()["reads"]
            orders = dict.fromkeys(contestants, order)
            # So few images at a time do not get into each other's way.
            samples = together(contestants, orders) if order.get("alone") else in_turn(contestants, orders)
            held = sum(sample["images"] for name, sample in samples.items() if name != FLOOR)
            tell(report, case, samples, (server.run()["reads"] - before) / held)


def tell(report: Report, case: str, samples: dict[str, Measured], reads: float) -> None:
    """The rows of one case."""
    floor = samples[FLOOR]
    for name, sample in samples.items():
        values = {
            "images": sample["images"],
            "reads": 1 if sample is floor else reads,
            "median, ms": sample["lag"] * 1e3,
            "p95, ms": sample["late"] * 1e3,
            "CPU, ms": sample["cpu"] * 1e3,
            "peak, MB": sample["peak"] / 1e6,
        }
        if sample is floor:
            report.row(case, name, values)
        else:
            met = reads == 1 and sample["lag"] - floor["lag"] <= MEDIAN and sample["late"] - floor["late"] <= LATE
            report.row(case, name, values, target="1 read; floor + 3 ms, p95 + 10 ms", met=met)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
