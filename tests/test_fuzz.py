"""The gRPC door under what no client sends: it answers or hangs up, says nothing in its log, forgets, and goes on serving."""

import asyncio
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yandexart_grpc import YandexArt, stubs
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import Embedded, embedded

REQUESTS: tuple[Any, ...] = (
    stubs.ImageGenerationRequest(
        model_uri="art://folder/model",
        messages=[stubs.Message(text="a cat", weight=1)],
        generation_options=stubs.ImageGenerationOptions(seed=1, aspect_ratio=stubs.AspectRatio(width_ratio=1, height_ratio=1)),
    ),
    stubs.GetOperationRequest(operation_id="fbv00000000000000000"),
    stubs.CreateIamTokenRequest(jwt="a.b.c"),
    stubs.GetApiEndpointRequest(api_endpoint_id="iam"),
    health_pb2.HealthCheckRequest(service="x"),
    reflection_pb2.ServerReflectionRequest(file_containing_symbol="yandex.cloud.operation.Operation"),
)
"""A request of each service, from which wrong ones are made."""


class Method(NamedTuple):
    """A method, and whether it takes and gives streams."""

    path: str
    takes_many: bool
    gives_many: bool


def methods_of(request: Any) -> Iterator[Method]:
    """The methods of the service to which a request belongs."""
    for service in request.DESCRIPTOR.file.services_by_name.values():
        for method in service.methods:
            yield Method(f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming)


METHODS = [method for request in REQUESTS for method in methods_of(request)]
EXPECTED = {
    *(StatusCode.OK, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED),
    *(StatusCode.ALREADY_EXISTS, StatusCode.RESOURCE_EXHAUSTED, StatusCode.DEADLINE_EXCEEDED),
}
"""What a wrong request may come to; a stream that goes on is left at its deadline."""
Call = tuple[Method, bytes, list[tuple[str, str | bytes]]]


def mutants(of: Any) -> st.SearchStrategy[bytes]:
    """A right request in which some bytes are others, are missing or are twice there."""

    def mutate(changes: list[tuple[int, int, bytes, bool]]) -> bytes:
        data = bytearray(of.SerializeToString())
        for place, length, other, again in changes:
            place %= len(data) + 1
            data[place : place + length] = other + data[place : place + 1] * again
        return bytes(data)

    change = st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3), st.booleans())
    return st.lists(change, max_size=3).map(mutate)


def calls() -> st.SearchStrategy[Call]:
    """Any bytes to any method, with metadata that nobody asked for."""
    ascii_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
    names = st.sampled_from(["authorization", "prefer", "idempotency-key", "grpc-accept-encoding", "x-client-request-id", "x"])
    texts = st.tuples(
        names, st.one_of(ascii_text, st.sampled_from(["wait=1", "wait=-1", "wait=" + "9" * 99, "Api-Key ", "Bearer"]))
    )
    binaries = st.tuples(st.sampled_from(["x-bin", "grpc-status-details-bin"]), st.binary(max_size=300))
    metadata = st.lists(st.one_of(texts, binaries), max_size=6)
    anything = st.tuples(st.sampled_from(METHODS), st.binary(max_size=200), metadata)
    aimed = [st.tuples(st.just(method), mutants(request), metadata) for request in REQUESTS for method in methods_of(request)]
    return st.one_of(anything, *aimed)


class Instant:
    """A backend that has its pictures ready."""

    charges = resumable = False

    async def generate(self, request: ImageRequest, upstream: object) -> stubs.ImageGenerationResponse:
        return stubs.ImageGenerationResponse(image=b"\xff\xd8\xff")

    async def close(self) -> None:
        """Nothing is held open."""


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    with embedded(Instant()) as running:
        yield running


def address_of(endpoint: str) -> str:
    return endpoint.removeprefix("http://")


async def send(channel: grpc.aio.Channel, call: Call) -> StatusCode:
    """What became of a call."""
    (path, takes_many, gives_many), data, metadata = call
    kind = f"{'stream' if takes_many else 'unary'}_{'stream' if gives_many else 'unary'}"
    method: Any = getattr(channel, kind)(path)
    sent = method(iter([data]) if takes_many else data, timeout=0.5 if gives_many else 10, metadata=metadata)
    with suppress(grpc.RpcError):
        if gives_many:
            async for _ in sent:
                if not takes_many:
                    sent.cancel()  # health is watched without end
                    return StatusCode.OK
        else:
            await sent
    code: StatusCode = await sent.code()
    return code


def check_serving(endpoint: str) -> None:
    """A right request is still answered by a picture's operation."""
    with grpc.insecure_channel(address_of(endpoint), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        assert stubs.ImageGenerationAsyncServiceStub(channel).Generate(REQUESTS[0], timeout=20).id


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server found worth saying."""
    return [record.getMessage() for record in caplog.records if record.name != "asyncio" or record.levelname == "ERROR"]


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(calls(), min_size=20, max_size=20))
def test_whatever_is_sent_is_answered(server: Embedded, caplog: pytest.LogCaptureFixture, batch: list[Call]) -> None:
    """By a status that says what is wrong; nothing is UNKNOWN or INTERNAL, and nothing in the log."""

    async def all_of_it() -> list[StatusCode]:
        async with grpc.aio.insecure_channel(address_of(server.endpoint)) as channel:
            return await asyncio.gather(*(send(channel, call) for call in batch))

    wrong = [(call, code) for call, code in zip(batch, asyncio.run(all_of_it()), strict=True) if code not in EXPECTED]
    assert wrong == []
    assert errors_of(caplog) == []


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "x" * 7000)],
        [("authorization", "x" * 100_000)],
        [(f"x-{number}", "y") for number in range(2000)],
        [("idempotency-key", str(number)) for number in range(100)],
        [("x-bin", os.urandom(4000))],
        [("prefer", "wait=" + "9" * 5000)],
        [("grpc-timeout", "1n"), ("te", "x"), ("content-type", "text/html")],
    ],
    ids=lambda metadata: f"{len(metadata)} of {metadata[0][0]}",
)
async def test_hostile_metadata(
    server: Embedded, caplog: pytest.LogCaptureFixture, metadata: list[tuple[str, str | bytes]]
) -> None:
    """Long, many and binary: the call is answered or refused, and the next one is served."""
    async with grpc.aio.insecure_channel(address_of(server.endpoint)) as channel:
        for method in METHODS[:3]:
            try:
                await send(channel, (method, REQUESTS[0].SerializeToString(), metadata))
            except (ValueError, TypeError):
                continue  # this client does not even send it
    await asyncio.to_thread(check_serving, server.endpoint)
    assert errors_of(caplog) == []


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def garbage(chance: random.Random) -> Iterator[bytes]:
    """What may come over a bare socket: noise, other protocols, and frames of HTTP/2 that make no sense."""
    yield chance.randbytes(chance.randrange(1, 5000))
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00" + chance.randbytes(500)
    frames = b"".join(frame(chance) for _ in range(20))
    yield PREFACE + frames
    for _ in range(5):
        yield PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + frame(chance)


def frame(chance: random.Random) -> bytes:
    """A frame whose length, kind, flags and stream are drawn."""
    payload = chance.randbytes(chance.randrange(100))
    length = len(payload) if chance.random() < 0.9 else chance.randrange(2**24)
    return b"".join(
        [length.to_bytes(3, "big"), bytes([chance.randrange(12), chance.randrange(256)]), chance.randbytes(4), payload]
    )


def shout(endpoint: str, said: bytes) -> None:
    """Say that, listen for a moment, and hang up."""
    host, port = address_of(endpoint).split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection, suppress(OSError):
        connection.sendall(said)
        connection.settimeout(0.01)
        while connection.recv(4096):
            pass


def test_garbage_on_the_socket(server: Embedded, caplog: pytest.LogCaptureFixture) -> None:
    """Costs whoever sends it the connection, and nobody else anything."""
    chance = random.Random(1)
    for _ in range(10):
        for said in garbage(chance):
            shout(server.endpoint, said)
    check_serving(server.endpoint)
    with YandexArt(endpoint=server.endpoint, folder_id="f") as art:
        assert art.submit("a cat").id
    assert errors_of(caplog) == []
