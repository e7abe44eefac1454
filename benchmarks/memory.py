"""The most memory that a process ever has (its peak resident set) when it receives one image of 20 MB.

Every sample is a fresh process that makes one image. The SDK is not here: it has no setting for the size of an answer, and
gRPC's own limit of 4 MiB refuses this one.
"""

import asyncio
import sys

from benchmarks.measure import Contestant, Measured, Report, median, obey, peak_memory, ratio, serving, take_turns
from benchmarks.overhead import AIO, OURS, RAW, SYNC

SIZE = 20_000_000
TARGET = 1.1
ROUNDS = 7


def contestant(kind: str, name: str, target: str) -> None:
    """Receive an image, and tell the peak."""
    with asyncio.Runner() as runner:

        async def receive() -> int:
            return len(await (await AIO[name](target))())

        def work(order: Measured) -> Measured:
            before = peak_memory()
            size = len(SYNC[name](target)()) if kind == "sync" else runner.run(receive())
            assert size == SIZE
            return {"before": before, "peak": peak_memory()}

        obey(work)


def main() -> None:
    """Run it all."""
    with Report("memory", "memory: peak while receiving one image of 20 MB") as report, serving("--bytes", str(SIZE)) as server:
        for kind in ("sync", "aio"):
            samples: dict[str, list[Measured]] = {RAW: [], OURS: []}
            for _ in range(ROUNDS):
                fresh = {name: Contestant("benchmarks.memory", kind, name, server.target) for name in samples}
                for name, taken in take_turns(fresh, 1).items():
                    samples[name] += taken
            for name, taken in samples.items():
                values = {"peak, MB": median(taken, "peak") / 1e6, "before, MB": median(taken, "before") / 1e6}
                target = TARGET if name == OURS else ""
                report.row(kind, name, values, ratio=ratio(taken, samples[RAW], "peak"), target=target)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
