"""What more servers on one PostgreSQL bring: orders and reads a second, and what a held read loses on another server.

Reads are held on the server that does the work and on one that does not, at the same time and for the same operation; the image
says when it was made, so that whoever has it knows how old it is. Then one caller with 64 calls under way orders, and reads what
is done, of one, two and three servers that leave the work to nobody. PostgreSQL, servers and caller share the machine, so
the table says how many of its cores were busy, and with what: where all are, they are the limit.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import grpc

from benchmarks.lean import jpeg
from benchmarks.measure import Contestant, Cost, Measured, Report, median, obey, ratio
from tests.postgres import Postgres, running
from yandexart_grpc import stubs
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving

SERVERS, ROUNDS, SECONDS, IN_FLIGHT = 3, 3, 3.0, 64
HELD, DURATION = 60, 0.1
"""How many operations of each size are waited for, and how long each takes."""
SIZES = {"10 kB": 10_000, "1.6 MB": 1_600_000}
NEAR = 0.010
"""How many seconds later an image may be on another server than on the one that made it, in the median."""
BUSY = 0.9
"""From which part of the cores on they are the limit."""
OPTIONS = [("grpc.max_receive_message_length", 32 * 2**20)]


class Stamping:
    """A backend that has an image of the size that the prompt says after a while, and stamps it with the instant."""

    charges = resumable = False

    async def generate(self, request: ImageRequest, upstream: object) -> stubs.ImageGenerationResponse:
        """Wait."""
        image = jpeg(int(request.prompt))
        await asyncio.sleep(DURATION)
        return stubs.ImageGenerationResponse(image=image, model_version=repr(time.monotonic()))

    async def close(self) -> None:
        """Nothing is held open."""


async def serve(store: str, role: Any) -> None:
    """Serve until there are no more orders; each is told where, and what was spent so far."""
    many: Any = dict.fromkeys(("queue", "in_flight_per_caller"), 10**7)
    async with serving(ServerSettings(listen="127.0.0.1:0", backend=Stamping(), store=store, role=role, **many)) as server:
        target = server.endpoint.removeprefix("http://")
        await asyncio.to_thread(obey, lambda order: {"target": target, "cpu": time.process_time()})


class Caller:
    """A caller of several servers, who has nothing but the stubs."""

    def __init__(self, targets: list[str]) -> None:
        self._channels = [grpc.aio.insecure_channel(target, OPTIONS) for target in targets]
        self._generations = [stubs.ImageGenerationAsyncServiceStub(channel) for channel in self._channels]
        self._operations = [stubs.OperationServiceStub(channel) for channel in self._channels]

    async def order(self, server: int, size: int) -> str:
        """Order an image."""
        message = stubs.Message(text=str(size), weight=1)
        request = stubs.ImageGenerationRequest(model_uri="art://folder/model", messages=[message])
        return str((await self._generations[server].Generate(request)).id)

    async def read(self, server: int, operation_id: str) -> stubs.Operation:
        """The operation; when it is done, unless it already is."""
        request = stubs.GetOperationRequest(operation_id=operation_id)
        operation: stubs.Operation = await self._operations[server].Get(request, metadata=(("prefer", "wait=30"),))
        return operation

    async def age(self, server: int, operation_id: str) -> float:
        """How old the image is when it is here, in seconds."""
        operation = await self.read(server, operation_id)
        had, response = time.monotonic(), stubs.ImageGenerationResponse()
        operation.response.Unpack(response)
        return had - float(response.model_version)

    async def close(self) -> None:
        """Hang up."""
        for channel in self._channels:
            await channel.close()


async def held(caller: Caller, size: int) -> Measured:
    """Wait for one operation after the other, ordered of the second server, on both."""
    ages, ids = list[tuple[float, float]](), list[str]()
    for number in range(HELD):
        ids.append(await caller.order(1, size))
        turn = (0, 1) if number % 2 else (1, 0)
        both = dict(zip(turn, await asyncio.gather(*(caller.age(server, ids[-1]) for server in turn)), strict=True))
        ages.append((both[0], both[1]))
    here, there = zip(*ages, strict=True)
    return {"here": statistics.median(here), "there": statistics.median(there), "ids": ids}


async def together(servers: int, call: Callable[[int], Awaitable[object]]) -> int:
    """How many calls were answered in a while, with so many under way, spread over the servers."""
    answered, end, turns = 0, time.monotonic() + SECONDS, cycle(range(servers))

    async def crew() -> None:
        nonlocal answered
        while time.monotonic() < end:
            await call(next(turns))
            answered += 1

    await asyncio.gather(*(crew() for _ in range(IN_FLIGHT)))
    return answered


async def work(order: Measured) -> Measured:
    """Fulfil an order."""
    caller = Caller(order["targets"])
    try:
        if order["case"] == "held":
            return await held(caller, order["size"])
        ids = cycle(order["ids"])
        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "order": lambda server: caller.order(server, SIZES["10 kB"]),
            "read": lambda server: caller.read(server, next(ids)),
        }
        with Cost() as cost:
            answered = await together(len(order["targets"]), calls[order["case"]])
        return {"rate": answered / cost.wall, "caller": cost.cpu / cost.wall}
    finally:
        await caller.close()


def contestant(kind: str, *arguments: str) -> None:
    """Serve, or fulfil orders."""
    if kind == "server":
        asyncio.run(serve(*arguments))
    else:
        obey(lambda order: asyncio.run(work(order)))


class Watch:
    """How many cores were busy in a `with` block: in all, with PostgreSQL, and with our servers."""

    def __init__(self, postmaster: int, servers: list[Contestant]) -> None:
        self._postmaster, self._servers = postmaster, servers

    def __enter__(self) -> Self:
        self._before = self._spent()
        return self

    def __exit__(self, *_: object) -> None:
        wall, *spent = (after - before for after, before in zip(self._spent(), self._before, strict=True))
        self.busy, self.postgres, self.servers = (cpu / wall for cpu in spent)

    def _spent(self) -> tuple[float, float, float, float]:
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:8])
        all_of_it = (user + nice + system + sum(interrupts)) / tick
        return time.monotonic(), all_of_it, ticks(self._postmaster) / tick, sum(server.run()["cpu"] for server in self._servers)


def ticks(postmaster: int) -> int:
    """What PostgreSQL has spent: its first process, those that this one has started, and those that have ended."""
    spent = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(path.parent.name) == postmaster:
            spent += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            spent += sum(map(int, fields[11:13]))
    return spent


def lag(report: Report, caller: Contestant, url: str) -> list[str]:
    """The rows about held reads. Returns operations of 10 kB that are done."""
    with server(url, "both") as here, server(url, "serve") as there:
        targets, ids = [here.run()["target"], there.run()["target"]], list[str]()
        for name, size in SIZES.items():
            found = caller.run(case="held", targets=targets, size=size)
            ids = ids or found["ids"]
            report.row(f"held read, {name}", "the server that works", {"median, ms": found["here"] * 1e3})
            met = found["there"] - found["here"] <= NEAR
            report.row("", "another server", {"median, ms": found["there"] * 1e3}, target="+ 10 ms", met=met)
    return ids


def throughput(report: Report, caller: Contestant, url: str, postmaster: int, ids: list[str]) -> None:
    """The rows about orders and reads."""
    with ExitStack() as life:
        servers = [life.enter_context(server(url, "serve")) for _ in range(SERVERS)]
        targets = [one.run()["target"] for one in servers]
        for case in ("order", "read"):
            samples: dict[int, list[Measured]] = {count + 1: [] for count in range(SERVERS)}
            for turn in range(ROUNDS):
                for count in sorted(samples, reverse=bool(turn % 2)):
                    with Watch(postmaster, servers) as watch:
                        found = caller.run(case=case, targets=targets[:count], ids=ids)
                    spent = {"busy": watch.busy, "PostgreSQL": watch.postgres, "servers": watch.servers}
                    samples[count].append({**found, **spent})
            for count, mine in samples.items():
                tell(report, case, count, mine, samples)


def tell(report: Report, case: str, count: int, mine: list[Measured], samples: dict[int, list[Measured]]) -> None:
    """The row of so many servers. It is as it should be where one more brought more, or no core was left for it."""
    cores = os.cpu_count() or 1
    full = median(mine, "busy") >= BUSY * cores
    grew = count == 1 or ratio(mine, samples[count - 1], "rate") > 1
    ours = {name: median(mine, name) for name in ("servers", "PostgreSQL", "caller")}
    values = {"a second": median(mine, "rate"), "CPU of one, ms": sum(ours.values()) / median(mine, "rate") * 1e3}
    values |= {f"cores: {name}": part for name, part in ours.items()}
    values["others"] = max(0.0, median(mine, "busy") - sum(ours.values()))
    limit = f"the {cores} cores" if full else "one core for each server" if count == 1 else "waiting"
    report.row(
        {"order": "orders", "read": "reads"}[case],
        f"{count} server{'s' * (count > 1)}",
        values,
        ratio=ratio(mine, samples[1], "rate"),
        target=f"grows; limit: {limit}",
        met=grew or full,
    )


def server(url: str, role: str) -> Contestant:
    """A server in a process of its own."""
    return Contestant("benchmarks.replicas", "server", url, role)


def postmaster_of(postgres: Postgres) -> int:
    """The first process of PostgreSQL, which has started that of each connection."""
    ((content,),) = postgres.do("SELECT pg_read_file('postmaster.pid')")
    return int(content.split()[0])


def main() -> None:
    """Run it, and write the table."""
    with (
        Report("replicas", "Servers on one PostgreSQL, which share the machine with it and with their caller") as report,
        running() as postgres,
        Contestant("benchmarks.replicas", "caller") as caller,
    ):
        url = postgres.database()
        ids = lag(report, caller, url)
        throughput(report, caller, url, postmaster_of(postgres), ids)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
