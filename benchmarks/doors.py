"""What a door costs: CPU of our server for one picture of 1.6 MB through gRPC, REST and OpenAI, all over the same operations.

A picture is an order and a held read through gRPC and REST, and one request through OpenAI. HTTP has to say it in Base64:
what that costs by itself is a row of its own.
"""

import asyncio
import base64
import http.client
import json
import sys
import time
from collections.abc import Callable

import grpc

from benchmarks.lean import jpeg
from benchmarks.measure import Contestant, Measured, Report, median, obey, ratio, take_turns
from yandexart_grpc import stubs
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving

GRPC, REST, OPENAI, BASE64 = "gRPC", "REST", "OpenAI", "Base64 alone"
ROUNDS, IMAGES, BYTES = 7, 60, 1_600_000
MOST = 1.3
"""How many times the gRPC door the others may cost, beside Base64."""
URI, HOLD = "art://folder/model", "wait=30"
REQUEST = stubs.ImageGenerationRequest(model_uri=URI, messages=[stubs.Message(text="a red cat", weight=1)])
REST_REQUEST = json.dumps({"modelUri": URI, "messages": [{"text": "a red cat", "weight": 1}]})
OPENAI_REQUEST = json.dumps({"model": URI, "prompt": "a red cat"})


class Instant:
    """A backend that has its picture at once."""

    charges = resumable = False

    def __init__(self) -> None:
        self._answer = stubs.ImageGenerationResponse(image=jpeg(BYTES))

    async def generate(self, request: ImageRequest, upstream: object) -> stubs.ImageGenerationResponse:
        """The same picture for all."""
        return self._answer

    async def close(self) -> None:
        """Nothing is held open."""


async def serve() -> None:
    """Serve until there are no more orders; each is told where, and what was spent so far."""
    async with serving(ServerSettings(listen="127.0.0.1:0", http="127.0.0.1:0", backend=Instant())) as server:
        where = {GRPC: server.endpoint.removeprefix("http://"), "http": str(server.http).removeprefix("http://")}
        await asyncio.to_thread(obey, lambda order: where | {"cpu": time.process_time()})


def through_grpc(target: str) -> Callable[[], int]:
    """Orders a picture and reads it, with the stubs."""
    channel = grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1)])
    generation, operations = stubs.ImageGenerationAsyncServiceStub(channel), stubs.OperationServiceStub(channel)

    def picture() -> int:
        request = stubs.GetOperationRequest(operation_id=generation.Generate(REQUEST, timeout=30).id)
        return len(operations.Get(request, metadata=(("prefer", HOLD),), timeout=30).response.value)

    return picture


def over_http(target: str, path: str, body: str, *, read: bool) -> Callable[[], int]:
    """Orders a picture on one connection, and reads it where that is another request."""
    connection = http.client.HTTPConnection(target)

    def picture() -> int:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse().read()
        if read:
            connection.request("GET", f"/operations/{json.loads(answer)['id']}", headers={"prefer": HOLD})
            answer = connection.getresponse().read()
        return len(answer)

    return picture


def encoding() -> Measured:
    """Say a picture in Base64."""
    data, start = jpeg(BYTES), time.process_time()
    for _ in range(IMAGES):
        base64.b64encode(data)
    return {"cpu": (time.process_time() - start) / IMAGES}


def contestant(door: str) -> None:
    """Serve, or get pictures through a door of such a server."""
    if door == "server":
        asyncio.run(serve())
        return
    if door == BASE64:
        obey(lambda order: encoding())
        return
    with Contestant("benchmarks.doors", "server") as server:
        where = server.run()
        picture = {
            GRPC: lambda: through_grpc(where[GRPC]),
            REST: lambda: over_http(where["http"], "/foundationModels/v1/imageGenerationAsync", REST_REQUEST, read=True),
            OPENAI: lambda: over_http(where["http"], "/v1/images/generations", OPENAI_REQUEST, read=False),
        }[door]()

        def batch(order: Measured) -> Measured:
            before = server.run()["cpu"]
            assert all(picture() >= BYTES for _ in range(IMAGES))
            return {"cpu": (server.run()["cpu"] - before) / IMAGES}

        obey(batch)


def main() -> None:
    """Run it, and write the table."""
    with Report("doors", "CPU of the server for one picture of 1.6 MB") as report:
        samples = take_turns({name: Contestant("benchmarks.doors", name) for name in (GRPC, REST, OPENAI, BASE64)}, ROUNDS)
        most = MOST * median(samples[GRPC], "cpu") + median(samples[BASE64], "cpu")
        for name, mine in samples.items():
            over_http = name in (REST, OPENAI)
            report.row(
                "one picture",
                name,
                {"ms": median(mine, "cpu") * 1e3},
                ratio=ratio(mine, samples[GRPC], "cpu"),
                target=f"≤ {MOST} × gRPC + Base64: {most * 1e3:.1f} ms" if over_http else "",
                met=median(mine, "cpu") <= most if over_http else None,
            )


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
