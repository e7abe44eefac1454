"""One generated set serves every protobuf that we allow, alone and in one process with any release of `yandexcloud`.

Each case is a virtual environment with the wheel of this project in it. Run by `make test-compat`: it downloads packages.
"""

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.environments import ROOT, environment, run

pytestmark = pytest.mark.slow

# Runs inside an environment: serves one operation, reads it with each stub there is, exchanges it as bytes.
PROBE = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor

version, *order = sys.argv[1:]
for side in order:
    if side == "ours":
        from yandexart_grpc import stubs
    else:
        from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2 import ImageGenerationResponse
        from yandex.cloud.operation import operation_pb2, operation_service_pb2, operation_service_pb2_grpc

import google.protobuf
import grpc

assert google.protobuf.__version__.startswith(version), google.protobuf.__version__


class Operations(stubs.OperationServiceServicer):
    def Get(self, request, context):
        operation = stubs.Operation(id=request.operation_id, done=True)
        operation.response.Pack(stubs.ImageGenerationResponse(image=b"JPEG"))
        return operation


def check(operation, response):
    assert operation.id == "fbv0" and operation.done
    assert operation.response.Unpack(response) and response.image == b"JPEG"


async def read(target):
    async with grpc.aio.insecure_channel(target) as channel:
        return await stubs.OperationServiceStub(channel).Get(request, timeout=10)


request = stubs.GetOperationRequest(operation_id="fbv0")
server = grpc.server(ThreadPoolExecutor())
stubs.add_OperationServiceServicer_to_server(Operations(), server)
target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
server.start()
with grpc.insecure_channel(target) as channel:
    operation = stubs.OperationServiceStub(channel).Get(request, timeout=10)
    check(operation, stubs.ImageGenerationResponse())
    check(asyncio.run(read(target)), stubs.ImageGenerationResponse())
    if "theirs" in order:
        stub = operation_service_pb2_grpc.OperationServiceStub(channel)
        theirs = stub.Get(operation_service_pb2.GetOperationRequest(operation_id="fbv0"), timeout=10)
        check(theirs, ImageGenerationResponse())
        check(stubs.Operation.FromString(theirs.SerializeToString()), stubs.ImageGenerationResponse())
        check(operation_pb2.Operation.FromString(operation.SerializeToString()), ImageGenerationResponse())
server.stop(None)
"""

Environment = Callable[..., Path]


@pytest.fixture(scope="session")
def make(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return a function that makes an environment with our wheel and these packages, once, and returns its Python."""

    @functools.cache
    def make(*packages: str, override: str = "") -> Path:
        return environment(tmp_path_factory.mktemp("environment"), wheel, *packages, override=override)

    return make


def probe(python: Path, version: str, *order: str, implementation: str = "upb") -> None:
    """Run the probe, where warnings are errors, on this version of protobuf."""
    run(python, "-W", "error", "-c", PROBE, version, *order, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize(
    ("protobuf", "yandexcloud", "forced"),
    [
        ("5.29", "yandexcloud==0.380.0", False),
        ("6.33", "yandexcloud==0.380.0", True),
        ("7.36", "yandexcloud==0.380.0", True),
        ("6.33", "yandexcloud==0.396.0", False),
        ("7.36", "yandexcloud==0.396.0", True),
        ("6.33", "yandexcloud", False),
        ("7.36", "yandexcloud", True),
    ],
)
def test_beside_yandexcloud(make: Environment, protobuf: str, yandexcloud: str, forced: bool, first: str) -> None:
    """Whichever is imported first, both load and exchange an operation, also on a protobuf that `yandexcloud` forbids.

    From 0.396 on its code refuses to load on protobuf 5, with or without us, so those pairs do not exist.
    """
    pin = f"protobuf=={protobuf}.*"
    python = make(yandexcloud, override=pin) if forced else make(yandexcloud, pin)
    probe(python, protobuf, first, "theirs" if first == "ours" else "ours")


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("protobuf", ["5.29", "6.31", "6.33", "7.36"])
def test_alone(make: Environment, protobuf: str, implementation: str) -> None:
    """Stubs and servicers work without `yandexcloud`, in C and in pure Python; 6.31 is one that warns of older code."""
    probe(make(f"protobuf=={protobuf}.*"), protobuf, "ours", implementation=implementation)


def test_on_the_oldest_packages_allowed(make: Environment) -> None:
    """The lower bounds of pyproject.toml are true."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = [dependency.split(",")[0].replace(">=", "==") for dependency in dependencies]
    probe(make(*oldest), "5.29", "ours")
