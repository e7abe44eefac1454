"""What an operation in flight costs when there are 1, 100, 1,000 or 10,000 of them in one process, planned and held.

Each case is a fresh process, with a server of its own, that makes images of 10 kB with one `map`, blocking or in asyncio, all of
them in flight together, and lets go of each image as soon as it has it. Images take 5 to 9 s, evenly spread. Orders are limited
to 2,000 a second and reads to 3,000, instead of 8 and 45, so that the largest case takes twenty seconds and not twenty minutes;
patience is 0.2 s, what it would be by default with so many. The largest cases run alone, the others in two groups.

* CPU is that of the client's process, for one operation; starting up is not counted, ordering and receiving are.
* Memory is how much the process grows, at the most, over what it had before the first order, for one operation.
* `over` is by how many reads the budget was exceeded, at the worst: the server's ledger of arrivals against rate x time + burst.
  Reads that were sent in time may arrive in a bunch, so what the machine takes 50 ms for is not counted.
* `blocked` is by how much, at the most, a tick of 5 ms in the same event loop came late.
* `collector` is the longest run of Python's garbage collector, which stops everything.

The rows `raw stubs` are the floor of what is held: so many calls of gRPC that wait for their answer, and nothing else.
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

import grpc

from benchmarks.measure import Contestant, Cost, Measured, Report, obey, serving

SIZES = (1, 100, 1_000, 10_000)
SMALL, LARGE = 100, 10_000
ORDERS, READS, BURST, BUNCH = 2_000, 3_000, 5, 0.05
FLAT, SLIM, SMOOTH = 1.5, 12_000, 0.05
"""The targets: cost of the large case over the small one, bytes for an operation, seconds for which a loop may be blocked."""
TICK = 0.005
KINDS = ("sync", "aio")
GROUPS = (
    [("sync", 1), ("sync", 100), ("aio", 1), ("aio", 100)],
    [("sync", 1_000), ("aio", 1_000)],
    [("sync", LARGE)],
    [("aio", LARGE)],
)
"""What runs side by side."""


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Watch:
    """How large this process becomes: looked at by a thread, from time to time."""

    def __enter__(self) -> "Watch":
        self.before = self.peak = resident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, resident())


class Collector:
    """The longest run of the garbage collector in a `with` block, in seconds."""

    def __enter__(self) -> "Collector":
        self.longest = 0.0
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.monotonic()
        else:
            self.longest = max(self.longest, time.monotonic() - self._began)


def settings(target: str) -> dict[str, Any]:
    """What both clients are told."""
    limits = {"patience": 0.2, "reads_per_second": READS, "submits_per_minute": ORDERS * 60}
    return {"endpoint": f"http://{target}", "folder_id": "b1gfolder", "credentials": "AQVNkey", **limits}


def make_sync(target: str) -> Callable[[int], float]:
    """`YandexArt.map`; there is no loop to block."""
    from yandexart_grpc import YandexArt

    art = YandexArt(**settings(target))
    art.warm_up()

    def make(number: int) -> float:
        for _ in art.map(["a red cat"] * number, in_flight=number):
            pass
        return 0.0

    return make


def make_aio(target: str) -> Callable[[int], float]:
    """`AsyncYandexArt.map`, beside a task that ticks."""
    from yandexart_grpc import AsyncYandexArt

    runner = asyncio.Runner()
    art = AsyncYandexArt(**settings(target))
    runner.run(art.warm_up())

    async def images(number: int) -> None:
        async for _ in art.map(["a red cat"] * number, in_flight=number):
            pass

    async def make(number: int) -> float:
        work, worst = asyncio.create_task(images(number)), 0.0
        while not work.done():
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            worst = max(worst, time.monotonic() - due)
        await work
        return worst

    return lambda number: runner.run(make(number))


def make_raw(target: str) -> Callable[[int], float]:
    """One call that waits, for each operation."""
    from yandexart_grpc import stubs

    channel = grpc.insecure_channel(target)
    generation, operations = stubs.ImageGenerationAsyncServiceStub(channel), stubs.OperationServiceStub(channel)
    done = threading.Semaphore(0)

    def make(number: int) -> float:
        for _ in range(number):
            known = generation.Generate(stubs.ImageGenerationRequest())
            question = stubs.GetOperationRequest(operation_id=known.id)
            operations.Get.future(question, metadata=(("prefer", "wait=30"),)).add_done_callback(lambda _: done.release())
        for _ in range(number):
            done.acquire()
        return 0.0

    return make


def contestant(kind: str, target: str) -> None:
    """Connect, then make so many at once."""
    make = {"sync": make_sync, "aio": make_aio, "raw stubs": make_raw}[kind](target)

    def work(order: Measured) -> Measured:
        number = order["number"]
        with Watch() as watch, Collector() as collector, Cost() as cost:
            blocked = make(number)
        grown = (watch.peak - watch.before) / number
        return {"cpu": cost.cpu / number, "memory": grown, "blocked": blocked, "collector": collector.longest}

    obey(work)


def excess(times: list[float]) -> float:
    """By how many calls the budget was exceeded in the worst stretch of time."""
    worst, lowest = 0.0, inf
    for number, moment in enumerate(sorted(times)):
        level = number - READS * moment
        lowest = min(lowest, level)
        worst = max(worst, level - lowest + 1 - BURST - READS * BUNCH)
    return worst


def measured(mode: str, kind: str, number: int) -> Measured:
    """One case."""
    hold = ["--hold"] if mode == "held" else []
    with (
        serving("--bytes", "10000", "--duration", "uniform:5,9", *hold) as server,
        Contestant("benchmarks.scale", kind, server.target) as made,
    ):
        sample = made.run(number=number)
        reads = server.report()["reads"]
    return sample | {"reads": len(reads) / number, "over": 0.0 if hold else excess(reads)}


def tell(report: Report, mode: str, kind: str, number: int, sample: Measured, small: Measured | None) -> None:
    """One row; `small` is the case that it is judged by, if it is."""
    values = {
        "CPU, µs": sample["cpu"] * 1e6,
        "kB": sample["memory"] / 1e3,
        "reads": sample["reads"],
        "over": sample["over"],
        "blocked, ms": sample["blocked"] * 1e3,
        "collector, ms": sample["collector"] * 1e3,
    }
    target, met, ratio = "", None, None
    if small is not None:
        target, ratio = (
            f"CPU, kB ≤ {FLAT} x {SMALL}; {SLIM / 1e3:g} kB; over 0; {SMOOTH * 1e3:g} ms",
            sample["cpu"] / small["cpu"],
        )
        met = ratio <= FLAT and sample["memory"] <= min(SLIM, FLAT * small["memory"])
        met = met and not sample["over"] and sample["blocked"] <= SMOOTH
    report.row(f"{mode}, {number:,}", kind, values, ratio=ratio, target=target, met=met)


def main() -> None:
    """Run it all."""
    with Report("scale", "scale: what an operation in flight costs") as report, ThreadPoolExecutor() as pool:
        for mode in ("planned", "held"):
            samples: dict[tuple[str, int], Measured] = {}
            for group in GROUPS:
                jobs = {case: pool.submit(measured, mode, *case) for case in group}
                samples |= {case: job.result() for case, job in jobs.items()}
            for kind in KINDS:
                for number in SIZES:
                    small = samples[kind, SMALL] if number > SMALL else None
                    tell(report, mode, kind, number, samples[kind, number], small)
        for number in SIZES:
            tell(report, mode, "raw stubs", number, measured(mode, "raw stubs", number), None)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
