"""What durability costs: how fast our server accepts with its operations in a file, beside the same server with them in memory.

Two callers who have nothing but the stubs: one orders one picture after the other, one always has 64 orders under way. Every
operation is also run and saved, with a picture of 10 kB, while others are accepted: three commits each.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from benchmarks.lean import jpeg
from benchmarks.measure import Contestant, Measured, Report, median, obey, ratio, take_turns
from yandexart_grpc import stubs
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving

MEMORY, FILE = "in memory", "SQLite"
ROUNDS, ALONE, TOGETHER, IN_FLIGHT = 5, 300, 2000, 64
SLOWEST, FEWEST = 0.003, 200
"""Seconds that accepting may take in the median, and operations that are to be accepted each second."""
REQUEST = stubs.ImageGenerationRequest(model_uri="art://folder/model", messages=[stubs.Message(text="a red cat", weight=1)])


class Instant:
    """A backend that has its picture at once."""

    charges = resumable = False

    def __init__(self) -> None:
        self._answer = stubs.ImageGenerationResponse(image=jpeg(10_000))

    async def generate(self, request: ImageRequest, upstream: object) -> stubs.ImageGenerationResponse:
        """The same picture for all."""
        return self._answer

    async def close(self) -> None:
        """Nothing is held open."""


async def alone(target: str) -> Measured:
    """Order one after the other."""
    took = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub = stubs.ImageGenerationAsyncServiceStub(channel)
        for _ in range(ALONE):
            start = time.perf_counter()
            await stub.Generate(REQUEST)
            took.append(time.perf_counter() - start)
    return {"median": statistics.median(took), "p95": sorted(took)[ALONE * 95 // 100]}


async def together(target: str) -> Measured:
    """Order with so many under way."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub, waiting = stubs.ImageGenerationAsyncServiceStub(channel), iter(range(TOGETHER))

        async def crew() -> None:
            for _ in waiting:
                await stub.Generate(REQUEST)

        start = time.perf_counter()
        await asyncio.gather(*(crew() for _ in range(IN_FLIGHT)))
        return {"rate": TOGETHER / (time.perf_counter() - start)}


@contextmanager
def file() -> Iterator[str]:
    """The URL of a new store, beside the results: where others are kept may be memory."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        yield f"sqlite:///{folder}/store.db"


async def serve(store: str) -> None:
    """Serve until there are no more orders; each is told where."""
    async with serving(ServerSettings(listen="127.0.0.1:0", backend=Instant(), store=store)) as server:
        await asyncio.to_thread(obey, lambda order: {"target": server.endpoint.removeprefix("http://")})


def contestant(kind: str, store: str = "sqlite://") -> None:
    """Serve with that store, or call such a server."""
    if kind == "server":
        asyncio.run(serve(store))
        return
    with file() as url, Contestant("benchmarks.server", "server", url if kind == FILE else "sqlite://") as server:
        target = server.run()["target"]
        obey(lambda order: asyncio.run(alone(target)) | asyncio.run(together(target)))


def main() -> None:
    """Run it, and write the table."""
    title = "Accepting with the store in a file, beside the same in memory; each operation is also run and saved"
    with Report("server", title) as report:
        samples = take_turns({name: Contestant("benchmarks.server", name) for name in (MEMORY, FILE)}, ROUNDS)
        for name, mine in samples.items():
            middle, rate = median(mine, "median"), median(mine, "rate")
            report.row(
                "accepting",
                name,
                {"median, ms": middle * 1e3, "p95, ms": median(mine, "p95") * 1e3, "accepted/s": rate},
                ratio=ratio(mine, samples[MEMORY], "median"),
                target="≤ 3 ms, ≥ 200/s" if name == FILE else "",
                met=middle <= SLOWEST and rate >= FEWEST if name == FILE else None,
            )


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
