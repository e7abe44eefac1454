"""Both clients at work for a long time, in a process that tells at the end what it held and what it left behind.

`python -m tests.faults.soak ENDPOINT SECONDS` prints one JSON object: how its work ended, its memory over time, and its threads,
file handles and tasks before and after.
"""

import asyncio
import gc
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from yandexart_grpc import AsyncYandexArt, YandexArt, YandexArtError

SETTLE = 10.0
"""Seconds within which what belonged to closed clients is gone."""
CANCELLED = 0.02
"""Which part of the awaited work is cancelled: gRPC loses about a kilobyte of memory each time (grpc/grpc#43360)."""


@dataclass
class Work:
    """What both clients share."""

    end: float
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    outcomes: Counter[str] = field(default_factory=Counter)

    def prompt(self) -> str:
        """A prompt that nobody had before."""
        return f"cat {next(self.numbers)}"

    def count(self, error: YandexArtError | None = None) -> None:
        """Note how a piece of work ended."""
        self.outcomes["done" if error is None else type(error).__name__] += 1


def settings(endpoint: str) -> dict[str, Any]:
    """A client that wastes no time on what was broken."""
    return {"endpoint": endpoint, "folder_id": "folder", "submits_per_minute": 1e6, "timeout": 20, "rpc_timeout": 2}


def work_blocking(art: YandexArt, work: Work, random: Random) -> None:
    """One piece after another, until it is time."""
    while time.monotonic() < work.end:
        try:
            match random.randrange(4):
                case 0:
                    art.generate(work.prompt())
                case 1:
                    art.submit(work.prompt()).result()
                case 2:
                    art.submit(work.prompt()).cancel()
                case 3:
                    for _ in art.map([work.prompt() for _ in range(4)], in_flight=2, return_exceptions=True):
                        continue
        except YandexArtError as error:
            work.count(error)
        else:
            work.count()


async def work_awaited(art: AsyncYandexArt, work: Work, random: Random) -> None:
    """The same, awaited; now and then a task is cancelled."""
    while time.monotonic() < work.end:
        try:
            match 4 if random.random() < CANCELLED else random.randrange(4):
                case 0:
                    await art.generate(work.prompt())
                case 1:
                    await (await art.submit(work.prompt()))
                case 2:
                    await (await art.submit(work.prompt())).cancel()
                case 3:
                    async for _ in art.map([work.prompt() for _ in range(4)], in_flight=2, return_exceptions=True):
                        continue
                case 4:
                    task = asyncio.create_task(art.generate(work.prompt()))
                    await asyncio.sleep(random.uniform(0, 0.02))
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
        except YandexArtError as error:
            work.count(error)
        else:
            work.count()


async def work_both(endpoint: str, work: Work) -> None:
    """Two threads and two tasks, a client for each kind."""
    async with AsyncYandexArt(**settings(endpoint)) as awaited:
        with YandexArt(**settings(endpoint)) as blocking:
            async with asyncio.TaskGroup() as group:
                for seed in (1, 2):
                    group.create_task(asyncio.to_thread(work_blocking, blocking, work, Random(seed)))
                    group.create_task(work_awaited(awaited, work, Random(seed)))


def held() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    return {
        "threads": threading.active_count(),
        "native": len([*Path("/proc/self/task").iterdir()]),
        "handles": len([*Path("/proc/self/fd").iterdir()]),
        "tasks": len(asyncio.all_tasks()),
    }


def memory() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def sample(samples: list[tuple[float, int]], work: Work) -> None:
    """Note the memory twice a second."""
    while time.monotonic() < work.end:
        samples.append((time.monotonic(), memory()))
        await asyncio.sleep(0.5)


async def main(endpoint: str, seconds: float) -> None:
    """Warm up, take stock, work, take stock again."""
    await work_both(endpoint, Work(time.monotonic() + 1))
    before, samples = held(), list[tuple[float, int]]()
    work = Work(time.monotonic() + seconds, itertools.count(1_000_000))
    await asyncio.gather(work_both(endpoint, work), sample(samples, work))
    patience = time.monotonic() + SETTLE
    while any(held()[name] > before[name] for name in before) and time.monotonic() < patience:  # noqa: ASYNC110  # no bell rings
        await asyncio.sleep(0.1)
    print(json.dumps({"outcomes": work.outcomes, "memory": samples, "before": before, "after": held()}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
