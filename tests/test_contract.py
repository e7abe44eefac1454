"""The compiled contract is the published one, lives in a pool of its own, and is reached through `stubs`."""

import doctest
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import assert_type

import grpc
import pytest
from google.protobuf import json_format, timestamp_pb2
from google.protobuf.message import Message

from yandexart_grpc import stubs

PROTO = Path(__file__).parent.parent / "proto"

# What yandexcloud 0.413.0 holds: the SHA-256 of each serialized file descriptor.
PUBLISHED = {
    "yandex/cloud/ai/foundation_models/v1/image_generation/image_generation.proto": (
        "846bac342c31cd20b62a6e0e3018174ff2d2332182ec4c00693729b40feba03a"
    ),
    "yandex/cloud/ai/foundation_models/v1/image_generation/image_generation_service.proto": (
        "9b834b2f86500ca5b72ca9d641a965f42acf3c3fb1167ac107b8ff3869d317ad"
    ),
    "yandex/cloud/api/operation.proto": "73e3931e16269a86631ec764439209ab46474faf39cae76da5f25d6e0ec2c6f7",
    "yandex/cloud/endpoint/api_endpoint.proto": "d14fff111b4c18f1c973f141363110bf18d08147083dacd63ea5b248b9d39d6e",
    "yandex/cloud/endpoint/api_endpoint_service.proto": "203c66ca63a58e5cb2a10793bd64e75bbbe3c92a00c1fc1a1bd84eb7ea0c1a75",
    "yandex/cloud/iam/v1/iam_token_service.proto": "c96a6769c5fde9cd3ed9026d6d1bd8fd7cff842781eee5e0a9ce5c55aa2d9d91",
    "yandex/cloud/operation/operation.proto": "3583bab87dde75d71d9539f218ac84bd1e92fe60335301b98f5b56929d88ff48",
    "yandex/cloud/operation/operation_service.proto": "bfa4392c4baa0ac47b97e24db2da2b87f894bf0623e688617105d73fdd66a7af",
    "yandex/cloud/validation.proto": "241a2045211c1ccac849b9a7374db2271c2b719c8002a332f8211114d988fc09",
}

FILES = {file: stubs.POOL.FindFileByName(file) for file in PUBLISHED}
PUBLIC = {name: getattr(stubs, name) for name in stubs.__all__}


@pytest.fixture
def operation() -> stubs.Operation:
    """Return an operation as the service finishes it."""
    operation = stubs.Operation(id="fbv0", done=True)
    operation.response.Pack(stubs.ImageGenerationResponse(image=b"\xff\xd8JPEG", model_version="1"))
    return operation


def test_the_compiled_files_are_the_published_ones_to_the_byte() -> None:
    """The compiled files are the published ones, to the byte."""
    assert {file: hashlib.sha256(descriptor.serialized_pb).hexdigest() for file, descriptor in FILES.items()} == PUBLISHED


def test_every_interface_file_is_compared() -> None:
    """No interface file is left out of the comparison."""
    assert {path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto")} == PUBLISHED.keys()


def test_every_message_has_a_public_name() -> None:
    """Every message of the contract has a public name, and so have the three messages of Google's that it holds."""
    declared = {message.full_name for file in FILES.values() for message in file.message_types_by_name.values()}
    public = {value.DESCRIPTOR.full_name for value in PUBLIC.values() if isinstance(value, type) and issubclass(value, Message)}
    assert public == declared | {"google.protobuf.Any", "google.protobuf.Timestamp", "google.rpc.Status"}


def test_every_service_has_public_names() -> None:
    """Every service has a stub, a stub for asyncio, a servicer and a way onto a server."""
    services = {name for file in FILES.values() for name in file.services_by_name}
    wanted = {name for s in services for name in (f"{s}Stub", f"{s}AsyncStub", f"{s}Servicer", f"add_{s}Servicer_to_server")}
    assert {name for name in PUBLIC if name.endswith(("Stub", "Servicer", "_to_server"))} == wanted


def test_the_public_names_are_sorted() -> None:
    """The public names are sorted: constants, classes, functions."""
    assert stubs.__all__ == sorted(stubs.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))


def test_fields_of_google_types_take_the_classes_from_stubs() -> None:
    """The messages of Google's that fields hold are those of `stubs`, and the ones of the default pool are refused."""
    operation = stubs.Operation()
    held = [type(operation.response), type(operation.error), type(operation.created_at)]
    assert held == [stubs.Any, stubs.Status, stubs.Timestamp]
    with pytest.raises(TypeError):
        operation.created_at.CopyFrom(timestamp_pb2.Timestamp())  # type: ignore[arg-type]


def test_json_round_trip(operation: stubs.Operation) -> None:
    """With POOL, json_format writes and reads an operation together with the image inside it."""
    text = json_format.MessageToJson(operation, descriptor_pool=stubs.POOL)
    assert "ImageGenerationResponse" in text
    assert json_format.Parse(text, stubs.Operation(), descriptor_pool=stubs.POOL) == operation


class Operations(stubs.OperationServiceServicer):
    """Every operation exists and is done; none can be cancelled."""

    def Get(self, request: stubs.GetOperationRequest, context: grpc.ServicerContext) -> stubs.Operation:
        return stubs.Operation(id=request.operation_id, done=True)

    def Cancel(self, request: stubs.CancelOperationRequest, context: grpc.ServicerContext) -> stubs.Operation:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is done")


@pytest.fixture
def target() -> Iterator[str]:
    """Serve Operations and return the address."""
    server = grpc.server(ThreadPoolExecutor())
    stubs.add_OperationServiceServicer_to_server(Operations(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_a_stub_over_a_blocking_channel(target: str) -> None:
    """Over a grpc.Channel a stub returns messages, and a type checker knows it."""
    with grpc.insecure_channel(target) as channel:
        stub = stubs.OperationServiceStub(channel)
        request = stubs.GetOperationRequest(operation_id="fbv0")
        operation = stub.Get(request, timeout=5, metadata=(("authorization", "Bearer t1.x"),))
        assert_type(operation, stubs.Operation)
        with_call, call = stub.Get.with_call(request, timeout=5)
        future = stub.Get.future(request, timeout=5)
        assert [operation.id, with_call.id, future.result().id] == ["fbv0"] * 3
        assert call.code() is grpc.StatusCode.OK


async def test_a_stub_over_a_channel_of_asyncio(target: str) -> None:
    """Over a grpc.aio.Channel the same stub returns calls to await, and a type checker knows it."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: stubs.OperationServiceAsyncStub = stubs.OperationServiceStub(channel)
        call = stub.Get(stubs.GetOperationRequest(operation_id="fbv0"), timeout=5)
        assert_type(call, grpc.aio.UnaryUnaryCall[stubs.GetOperationRequest, stubs.Operation])
        assert (await call).id == "fbv0"


def test_examples_of_the_docstring_run() -> None:
    """The examples in the docstring of `stubs` are true."""
    globs = {"grpc": grpc, "ThreadPoolExecutor": ThreadPoolExecutor}
    result = doctest.testmod(stubs, extraglobs=globs)
    assert result.attempted
    assert not result.failed


def python(code: str, **environment: str) -> None:
    """Run code in a process of its own, where warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_the_default_pool_stays_clean(implementation: str) -> None:
    """After the import, the default pool knows no file and no name of the contract: neither in C nor in pure Python."""
    code = f"""
import yandexart_grpc.stubs
from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation
assert api_implementation.Type() == {implementation!r}
default = descriptor_pool.Default()
lookups = [(default.FindFileByName, file) for file in {[*FILES]}]
lookups += [(default.FindMessageTypeByName, "yandex.cloud.operation.Operation")]
lookups += [(default.FindServiceByName, "yandex.cloud.operation.OperationService")]
lookups += [(default.FindExtensionByName, "yandex.cloud.required")]
for find, name in lookups:
    try:
        find(name)
    except KeyError:
        continue
    raise AssertionError(name)
"""
    python(code, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_stubs_and_yandexcloud_share_a_process_and_exchange_bytes(first: str) -> None:
    """Whichever is imported first, `stubs` and `yandexcloud` load without a warning and read what the other writes."""
    ours = "from yandexart_grpc import stubs"
    theirs = """
from yandex.cloud.ai.foundation_models.v1.image_generation import image_generation_service_pb2_grpc
from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2 import ImageGenerationResponse
from yandex.cloud.operation.operation_pb2 import Operation
"""
    exchange = """
sent = stubs.Operation(id="fbv0", done=True)
sent.response.Pack(stubs.ImageGenerationResponse(image=b"JPEG"))
received = Operation.FromString(sent.SerializeToString())
image = ImageGenerationResponse()
assert received.id == "fbv0" and received.response.Unpack(image) and image.image == b"JPEG"
assert stubs.Operation.FromString(received.SerializeToString()) == sent
"""
    python("\n".join([ours, theirs, exchange] if first == "ours" else [theirs, ours, exchange]))
