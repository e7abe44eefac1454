"""The official clients, told nothing but the endpoint of `yandexart serve`, find everything they need there and get a picture."""

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from yandex.cloud.ai.foundation_models.v1.image_generation import image_generation_pb2
from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2 import (
    ImageGenerationRequest,
    ImageGenerationResponse,
)
from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2_grpc import (
    ImageGenerationAsyncServiceStub,
)
from yandex.cloud.operation.operation_pb2 import Operation
from yandex.cloud.operation.operation_service_pb2 import GetOperationRequest
from yandex.cloud.operation.operation_service_pb2_grpc import OperationServiceStub
from yandex_ai_studio_sdk import AIStudio, AsyncAIStudio
from yandex_ai_studio_sdk.auth import NoAuth, OAuthTokenAuth
from yandexcloud import SDK  # type: ignore[attr-defined]  # it exports nothing by the letter

pytestmark = [
    # yandexcloud dates its JWT with a function that Python 3.12 deprecates, and waits with a class that it has deprecated itself.
    pytest.mark.filterwarnings(r"ignore:datetime\.datetime\.utcfromtimestamp:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated class RetryInterceptor:DeprecationWarning"),
]

REQUEST = ImageGenerationRequest(
    model_uri="art://b1gfolder/yandex-art/latest",
    messages=[image_generation_pb2.Message(text="a red cat")],
    generation_options=image_generation_pb2.ImageGenerationOptions(
        seed=42, aspect_ratio=image_generation_pb2.AspectRatio(width_ratio=2, height_ratio=1)
    ),
)
RATIO = 2.0
KEY = "AQVNalice"
"""A key of our own server."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The PEM file of the authority that vouches for the server."""
    folder = tmp_path_factory.mktemp("authority")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "cert.pem", append=True)
    return folder / "ca.pem"


@pytest.fixture
def certificate(authority: Path) -> bytes:
    """The certificate of that authority."""
    return authority.read_bytes()


@contextmanager
def served(*options: str | Path) -> Iterator[str]:
    """Run `yandexart serve` in a process of its own, and give its `host:port`."""
    command = Path(sys.executable).with_name("yandexart")
    settings = ["serve", "--listen", "127.0.0.1:0", "--backend", "demo", "--demo-duration", "fixed:0.1", "--store", "sqlite://"]
    with subprocess.Popen([command, *settings, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said, _, endpoint = process.stdout.readline().strip().rpartition("://")
            assert said in ("serving on http", "serving on https")
            yield endpoint
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def secure(authority: Path) -> Iterator[str]:
    """A server that speaks TLS."""
    with served("--tls-cert", authority.with_name("cert.pem"), "--tls-key", authority.with_name("key.pem")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def plaintext() -> Iterator[str]:
    """A server that speaks plaintext."""
    with served() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def key() -> dict[str, str]:
    """The key of a service account, as Yandex gives it out in a file."""
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"id": "ajekey", "service_account_id": "ajeaccount", "private_key": pem.decode()}


@pytest.mark.parametrize("credential", ["service_account_key", "iam_token"])
def test_yandexcloud_gets_a_picture(secure: str, certificate: bytes, key: dict[str, str], credential: str) -> None:
    """`yandexcloud.SDK` discovers the services, exchanges its key for a token, submits, waits, and unpacks the picture."""
    credentials: dict[str, Any] = {credential: key if credential == "service_account_key" else "t1.token"}
    sdk = SDK(endpoint=secure, root_certificates=certificate, **credentials)
    submitted = sdk.client(ImageGenerationAsyncServiceStub).Generate(REQUEST, timeout=10)
    waiter = sdk.waiter(submitted.id, timeout=20)
    for _ in waiter:
        time.sleep(0.05)
    assert waiter.operation is not None
    check(unpacked(waiter.operation))


async def test_the_stubs_of_yandexcloud_get_a_picture_in_asyncio(secure: str, certificate: bytes) -> None:
    """The stubs of `yandexcloud` over a channel of `grpc.aio` submit, wait, and unpack the picture."""
    metadata = (("authorization", "Api-Key AQVNsecret"),)
    async with grpc.aio.secure_channel(secure, grpc.ssl_channel_credentials(certificate)) as channel:
        generation: Any = ImageGenerationAsyncServiceStub(channel)
        operations: Any = OperationServiceStub(channel)
        operation = await generation.Generate(REQUEST, timeout=10, metadata=metadata)
        while not operation.done:
            await asyncio.sleep(0.05)
            operation = await operations.Get(GetOperationRequest(operation_id=operation.id), timeout=10, metadata=metadata)
    check(unpacked(operation))


def test_the_studio_sdk_gets_a_picture(studio: Callable[..., Any]) -> None:
    """`AIStudio` discovers the services, submits, waits, and has the picture."""
    model = studio(AIStudio).models.image_generation("yandex-art").configure(seed=42, width_ratio=2, height_ratio=1)
    operation = model.run_deferred("a red cat", timeout=10)
    check(operation.wait(timeout=10, poll_timeout=20, poll_interval=0.05).image_bytes)


async def test_the_studio_sdk_gets_a_picture_in_asyncio(studio: Callable[..., Any]) -> None:
    """`AsyncAIStudio` discovers the services, submits, waits, and has the picture."""
    model = studio(AsyncAIStudio).models.image_generation("yandex-art").configure(seed=42, width_ratio=2, height_ratio=1)
    operation = await model.run_deferred("a red cat", timeout=10)
    check((await operation.wait(timeout=10, poll_timeout=20, poll_interval=0.05)).image_bytes)


@pytest.fixture(scope="module")
def keyed(authority: Path) -> Iterator[str]:
    """A server that speaks TLS and asks for keys."""
    authority.with_name("keys").write_text(f"alice {KEY} b1gfolder\n")
    pems = ("--tls-cert", authority.with_name("cert.pem"), "--tls-key", authority.with_name("key.pem"))
    with served(*pems, "--key-file", authority.with_name("keys")) as endpoint:
        yield endpoint


def test_yandexcloud_gets_a_picture_with_a_key_of_the_server(keyed: str, certificate: bytes) -> None:
    """`yandexcloud.SDK` is told the key as an IAM token: it knows no API keys, and sends this one as it is."""
    sdk = SDK(endpoint=keyed, root_certificates=certificate, iam_token=KEY)
    submitted = sdk.client(ImageGenerationAsyncServiceStub).Generate(REQUEST, timeout=10)
    waiter = sdk.waiter(submitted.id, timeout=20)
    for _ in waiter:
        time.sleep(0.05)
    assert waiter.operation is not None
    check(unpacked(waiter.operation))


async def test_the_studio_sdk_gets_a_picture_with_a_key_of_the_server(keyed: str, authority: Path) -> None:
    """`AsyncAIStudio` is told the key as any API key; another is refused."""

    def model(key: str) -> Any:
        studio = AsyncAIStudio(folder_id="b1gfolder", endpoint=keyed, auth=key, verify=authority)
        return studio.models.image_generation("yandex-art").configure(seed=42, width_ratio=2, height_ratio=1)

    operation = await model(KEY).run_deferred("a red cat", timeout=10)
    check((await operation.wait(timeout=10, poll_timeout=20, poll_interval=0.05)).image_bytes)
    with pytest.raises(grpc.RpcError, match="Unknown api key"):
        await model("AQVNanother").run_deferred("a red cat", timeout=10)


@pytest.fixture(params=["API key over TLS", "OAuth token over TLS", "nothing over plaintext"])
def studio(request: pytest.FixtureRequest, authority: Path) -> Callable[[Callable[..., Any]], Any]:
    """Makes a studio SDK of a kind, which is told the endpoint, and shows who it is in different ways."""
    endpoint = request.getfixturevalue("plaintext" if "plaintext" in request.param else "secure")
    verify: bool | Path = False if "plaintext" in request.param else authority

    def make(kind: Callable[..., Any]) -> Any:
        auth = {"API": lambda: "AQVNsecret", "OAuth": oauth, "nothing": NoAuth}[request.param.split()[0]]()
        return kind(folder_id="b1gfolder", endpoint=endpoint, auth=auth, verify=verify)

    return make


def oauth() -> OAuthTokenAuth:
    """A credential that the studio SDK exchanges for a token, and warns of."""
    with pytest.warns(UserWarning, match="OAuth token is not safe"):
        return OAuthTokenAuth("y0_secret")


def unpacked(operation: Operation) -> bytes:
    """The image in an operation, as every user of `yandexcloud` takes it out."""
    response = ImageGenerationResponse()
    assert operation.response.Unpack(response)
    return response.image


def check(data: bytes) -> None:
    """The bytes are a JPEG that decodes, in the ratio that was asked for, of about a megapixel."""
    with PIL.Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "JPEG"
        assert image.width / image.height == pytest.approx(RATIO, rel=0.1)
        assert image.width * image.height == pytest.approx(2**20, rel=0.2)
