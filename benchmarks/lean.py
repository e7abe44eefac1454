"""A lean server for benchmarks: the contract's answers, serialized once, and a ledger of what was asked and when.

It is not the product's server: it stores nothing and draws nothing, so that what is measured is the client. All its times are
`time.monotonic()`, on Linux one clock for all processes of a machine: a client's "I have it" minus the ledger's `ready` is lag.

    python -m benchmarks.lean --bytes 10000 --duration lognormal:3,0.35

prints its port and serves until its standard input ends.

`/benchmark.Ledger/Report`  everything since the last reset, as JSON: see `Ledger.report`
`/benchmark.Ledger/Reset`   empties the ledger and draws durations from the start again: the n-th order always takes as long;
                            a JSON object in the request changes `duration`, `hold` or `seed` from now on
`/benchmark.Ledger/Floor`   answers at the instant that the request names (a decimal number) as if an operation ended then: no
                            held read can be sooner
"""

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any

import grpc
import PIL.Image

from yandexart_grpc import stubs

SERVICES = ("ai-foundation-models", "operation", "endpoint", "iam")
"""Under which names the official clients look for what is served here."""
LARGEST_SEGMENT = 65_535
HELD = (("preference-applied", "wait"),)
ID = "bench{:015d}"


@dataclass(slots=True)
class Entry:
    """One operation; times are of `time.monotonic()`."""

    id: str
    born: float
    """When `Generate` arrived."""
    ready: float
    """When it is done."""
    reads: int = 0
    """How often it was asked about."""
    answers: list[float] = field(default_factory=list)
    """When an answer that said "done" was handed out."""


class Ledger:
    """What was asked, and when."""

    def __init__(self, duration: str, seed: int) -> None:
        self.duration, self.seed = duration, seed
        self.clear()

    def clear(self) -> None:
        """Forget everything, and draw durations from the start again."""
        self.entries: dict[str, Entry] = {}
        self.draw = durations(self.duration, self.seed)
        self.first_call: float | None = None
        self.reads: list[float] = []

    def arrived(self) -> float:
        """Note a call, and return the time."""
        now = time.monotonic()
        if self.first_call is None:
            self.first_call = now
        return now

    def accept(self) -> Entry:
        """A new operation."""
        now = self.arrived()
        entry = Entry(ID.format(len(self.entries)), now, now + self.draw())
        self.entries[entry.id] = entry
        return entry

    def report(self) -> dict[str, Any]:
        """When the first call of any kind came, when each read came, and all operations."""
        operations = [asdict(entry) for entry in self.entries.values()]
        return {"first_call": self.first_call, "reads": self.reads, "operations": operations}


class Door:
    """The methods that are served. Requests and answers are bytes: nothing is parsed that need not be."""

    def __init__(self, ledger: Ledger, size: int, *, hold: bool) -> None:
        self.ledger, self.hold, self.address = ledger, hold, ""
        response = stubs.ImageGenerationResponse(image=jpeg(size), model_version="benchmark")
        finished = stubs.Operation(done=True)
        finished.response.Pack(response)
        # Messages that are concatenated are merged: an id put before this makes a finished operation.
        self.finished = finished.SerializeToString()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a gRPC server is given."""
        methods: dict[str, dict[str, Callable[..., Any]]] = {
            "yandex.cloud.ai.foundation_models.v1.image_generation.ImageGenerationAsyncService": {"Generate": self.generate},
            "yandex.cloud.operation.OperationService": {"Get": self.get},
            "yandex.cloud.endpoint.ApiEndpointService": {"List": self.endpoints},
            "benchmark.Ledger": {"Report": self.report, "Reset": self.reset, "Floor": self.floor},
        }
        return [
            grpc.method_handlers_generic_handler(
                service, {name: grpc.unary_unary_rpc_method_handler(method) for name, method in served.items()}
            )
            for service, served in methods.items()
        ]

    async def generate(self, request: bytes, context: Any) -> bytes:
        """Accept; the answer has an id alone, as the service's has."""
        if self.hold:
            await context.send_initial_metadata(HELD)
        return _named(self.ledger.accept().id)

    async def get(self, request: bytes, context: Any) -> bytes:
        """Not yet, or the image. Where reads are held and the caller prefers to wait, as late as that."""
        try:
            entry = self.ledger.entries[request[2:].decode()]  # a tag, a length below 128, the id
        except KeyError:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such operation")
            raise
        entry.reads += 1
        self.ledger.reads.append(self.ledger.arrived())
        if self.hold and (span := _preferred_wait(context)):
            await context.send_initial_metadata(HELD)
            await _until(min(entry.ready, time.monotonic() + span))
        if time.monotonic() < entry.ready:
            return _named(entry.id)
        entry.answers.append(time.monotonic())
        return _named(entry.id) + self.finished

    async def endpoints(self, request: bytes, context: Any) -> bytes:
        """Where everything is: here."""
        self.ledger.arrived()
        known = [stubs.ApiEndpoint(id=service, address=self.address) for service in SERVICES]
        return stubs.ListApiEndpointsResponse(endpoints=known).SerializeToString()

    async def report(self, request: bytes, context: Any) -> bytes:
        """The ledger, as JSON."""
        return json.dumps(self.ledger.report()).encode()

    async def reset(self, request: bytes, context: Any) -> bytes:
        """Empty the ledger."""
        changes = json.loads(request or b"{}")
        self.hold = changes.get("hold", self.hold)
        self.ledger.duration = changes.get("duration", self.ledger.duration)
        self.ledger.seed = changes.get("seed", self.ledger.seed)
        self.ledger.clear()
        return b"{}"

    async def floor(self, request: bytes, context: Any) -> bytes:
        """Answer with a finished operation at that time."""
        await _until(float(request))
        return _named(ID.format(0)) + self.finished


def durations(law: str, seed: int) -> Callable[[], float]:
    """Draws from `fixed:S`, `uniform:LOW,HIGH` or `lognormal:MEDIAN,SIGMA`, in seconds."""
    name, _, parameters = law.partition(":")
    numbers, dice = [float(number) for number in parameters.split(",")], random.Random(seed)
    match name, numbers:
        case "fixed", [seconds]:
            return lambda: seconds
        case "uniform", [low, high]:
            return lambda: dice.uniform(low, high)
        case "lognormal", [median, sigma]:
            return lambda: dice.lognormvariate(math.log(median), sigma)
    raise ValueError(f"{law!r} is not fixed:S, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA")


def jpeg(size: int) -> bytes:
    """A JPEG of exactly so many bytes: noise, and comments where noise does not fill it."""
    probe = 64
    side = max(8, int(probe * math.sqrt(0.95 * size / len(_noise(probe)))))
    while len(noise := _noise(side)) > size - 4:
        side -= 8
        if side < 8:
            raise ValueError(f"{size} bytes are too few for a JPEG")
    return noise[:2] + _comments(size - len(noise)) + noise[2:]


def _noise(side: int) -> bytes:
    file = BytesIO()
    PIL.Image.effect_noise((side, side), 64).save(file, "JPEG", quality=95)
    return file.getvalue()


def _comments(size: int) -> bytes:
    """Segments that mean nothing, of so many bytes together (ITU-T T.81, B.2.4.5)."""
    segments = []
    while size:
        length = size - 2 if size - 2 <= LARGEST_SEGMENT else min(LARGEST_SEGMENT, size - 8)
        segments.append(b"\xff\xfe" + length.to_bytes(2, "big") + bytes(length - 2))
        size -= length + 2
    return b"".join(segments)


async def _until(instant: float) -> None:
    if (left := instant - time.monotonic()) > 0:
        await asyncio.sleep(left)
        await _until(instant)  # a sleep may end a clock tick early


def _named(operation_id: str) -> bytes:
    return b"\x0a" + len(operation_id).to_bytes(1, "big") + operation_id.encode()


def _preferred_wait(context: Any) -> float | None:
    for name, value in context.invocation_metadata():
        if name == "prefer" and value.startswith("wait="):
            return float(value.removeprefix("wait="))
    return None


async def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lean")
    parser.add_argument("--bytes", type=int, default=10_000, help="size of every image")
    parser.add_argument("--duration", default="fixed:0", help="fixed:S, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA (seconds)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hold", action="store_true", help="hold reads that carry `prefer: wait=<seconds>`")
    options = parser.parse_args()
    door = Door(Ledger(options.duration, options.seed), options.bytes, hold=options.hold)
    limits = ("max_concurrent_streams", "server.max_pending_requests", "server.max_pending_requests_hard_limit")
    many = [(f"grpc.{name}", 100_000) for name in limits]
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1), *many])
    server.add_generic_rpc_handlers(door.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    door.address = f"127.0.0.1:{port}"
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
