"""The gRPC door of the embedded server, spoken to through plain stubs."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from yandexart_grpc import ConfigurationError, YandexArt, stubs
from yandexart_grpc.failures import from_operation
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import Embedded, embedded

URI = "art://folder/yandex-art/latest"


@pytest.fixture(scope="module")
def channel(server: Embedded) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.endpoint.removeprefix("http://")) as channel:
        yield channel


def status_of(call: Callable[..., Any], request: Any) -> tuple[StatusCode, str]:
    """How the server refuses a request."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=5)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), caught.value.details()


def ask(text: str = "a cat", *, uri: str = URI, weight: float = 0, **options: Any) -> stubs.ImageGenerationRequest:
    return stubs.ImageGenerationRequest(
        model_uri=uri,
        messages=[stubs.Message(text=text, weight=weight)],
        generation_options=stubs.ImageGenerationOptions(**options),
    )


def wait_for(channel: grpc.Channel, operation_id: str) -> stubs.Operation:
    """The operation once it is done."""
    reads, deadline = stubs.OperationServiceStub(channel), time.monotonic() + 10
    while not (operation := reads.Get(stubs.GetOperationRequest(operation_id=operation_id), timeout=5)).done:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return operation


def test_an_operation_goes_from_accepted_to_done(channel: grpc.Channel) -> None:
    """An id of 20 characters, not done; later done with a JPEG, and later than it was created."""
    accepted = stubs.ImageGenerationAsyncServiceStub(channel).Generate(ask(seed=1), timeout=5)
    assert (len(accepted.id), accepted.done, accepted.WhichOneof("result")) == (20, False, None)
    done = wait_for(channel, accepted.id)
    response = stubs.ImageGenerationResponse()
    assert done.response.Unpack(response)
    assert (response.image[:3], response.model_version) == (b"\xff\xd8\xff", "demo")
    assert done.modified_at.ToNanoseconds() > done.created_at.ToNanoseconds() == accepted.created_at.ToNanoseconds()


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (ask("x" * 702), StatusCode.INVALID_ARGUMENT, "Prompt positive size 702 exceeds limit (500)"),
        (ask(""), StatusCode.INVALID_ARGUMENT, "prompt: empty"),
        (ask(weight=-1), StatusCode.INVALID_ARGUMENT, "prompt: empty"),
        (ask(uri="art:///yandex-art/latest"), StatusCode.PERMISSION_DENIED, "Access to model art:///yandex-art/latest denied"),
        (ask(uri=""), StatusCode.PERMISSION_DENIED, "Access to model  denied"),
        (ask(seed=-1), StatusCode.INVALID_ARGUMENT, "seed: -1"),
        (ask(mime_type="image/png"), StatusCode.INVALID_ARGUMENT, "mime_type: 'image/png'"),
        (ask(aspect_ratio=stubs.AspectRatio(width_ratio=1)), StatusCode.INVALID_ARGUMENT, "aspect_ratio: (1, 0)"),
        (stubs.ImageGenerationRequest(model_uri=URI), StatusCode.INVALID_ARGUMENT, "prompt: empty"),
    ],
)
def test_requests_are_checked_as_the_service_does(
    channel: grpc.Channel, request_: stubs.ImageGenerationRequest, code: StatusCode, words: str
) -> None:
    """The same codes, and the same words where they are known."""
    got, details = status_of(stubs.ImageGenerationAsyncServiceStub(channel).Generate, request_)
    assert got is code
    assert details.startswith(words)


INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.builds(ask, st.text(max_size=600), uri=st.sampled_from([URI, "art://x"]), seed=INT64, mime_type=st.text(max_size=1)))
def test_the_server_refuses_what_the_rules_refuse(channel: grpc.Channel, request_: stubs.ImageGenerationRequest) -> None:
    """Whatever arrives is accepted or refused by the rules of requests, and never breaks the server."""
    generation = stubs.ImageGenerationAsyncServiceStub(channel)
    if list(ImageRequest.from_proto(request_).problems()):
        assert status_of(generation.Generate, request_)[0] in (StatusCode.INVALID_ARGUMENT, StatusCode.PERMISSION_DENIED)
    else:
        assert generation.Generate(request_, timeout=5).id


def test_a_refused_prompt_is_an_error_of_the_operation(channel: grpc.Channel) -> None:
    """The content rules speak through `operation.error`, with the code and the words of the service."""
    accepted = stubs.ImageGenerationAsyncServiceStub(channel).Generate(ask("refuse this prompt"), timeout=5)
    error = wait_for(channel, accepted.id).error
    assert error.code == StatusCode.INVALID_ARGUMENT.value[0]
    assert error.message.startswith("it is not possible to generate an image")


def test_an_unknown_operation_is_not_found(channel: grpc.Channel) -> None:
    """Reading and cancelling an id that nobody gave out are NOT_FOUND."""
    reads = stubs.OperationServiceStub(channel)
    assert status_of(reads.Get, stubs.GetOperationRequest(operation_id="x")) == (StatusCode.NOT_FOUND, "Operation 'x' not found")
    assert status_of(reads.Cancel, stubs.CancelOperationRequest(operation_id="x"))[0] is StatusCode.NOT_FOUND


class Costly:
    """A backend whose pictures are paid for as soon as they are begun."""

    charges, resumable = True, False

    async def generate(self, request: ImageRequest, upstream: object) -> stubs.ImageGenerationResponse:
        if request.prompt == "break":
            raise RuntimeError("a secret of the backend")
        return stubs.ImageGenerationResponse(image=b"paid")

    async def close(self) -> None:
        """Nothing is held open."""


def test_a_paid_picture_is_delivered_though_it_was_cancelled() -> None:
    """Where the backend charges, cancelling comes too late, and the picture stays what was paid for."""
    with embedded(Costly()) as server, grpc.insecure_channel(server.endpoint.removeprefix("http://")) as channel:
        accepted = stubs.ImageGenerationAsyncServiceStub(channel).Generate(ask(), timeout=5)
        wait_for(channel, accepted.id)
        request = stubs.CancelOperationRequest(operation_id=accepted.id)
        cancelled = stubs.OperationServiceStub(channel).Cancel(request, timeout=5)
        assert cancelled.WhichOneof("result") == "response"


def test_a_backend_that_breaks_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    """What a backend says when it breaks goes to the log of the server, not to its callers."""
    with embedded(Costly()) as server, grpc.insecure_channel(server.endpoint.removeprefix("http://")) as channel:
        accepted = stubs.ImageGenerationAsyncServiceStub(channel).Generate(ask("break"), timeout=5)
        operation = wait_for(channel, accepted.id)
    assert (operation.error.code, operation.error.message) == (StatusCode.INTERNAL.value[0], "Internal error")
    assert from_operation(operation).billed == "unknown"
    assert "a secret of the backend" in caplog.text


def test_a_token_is_given_to_whoever_asks_in_the_right_form(channel: grpc.Channel) -> None:
    """A well-formed identity gets an IAM token that lives twelve hours; any other is refused."""
    tokens = stubs.IamTokenServiceStub(channel)
    for identity in ({"jwt": "aGVhZA.Ym9keQ.c2ln"}, {"yandex_passport_oauth_token": "y0_token"}):
        token = tokens.Create(stubs.CreateIamTokenRequest(**identity), timeout=5)
        assert token.iam_token.startswith("t1.")
        assert 11.9 * 3600 < token.expires_at.ToSeconds() - time.time() < 12.1 * 3600
    for identity in ({}, {"jwt": "no.jwt"}, {"jwt": "a.b." + "c" * 8000}, {"yandex_passport_oauth_token": "y" * 4001}):
        code, details = status_of(tokens.Create, stubs.CreateIamTokenRequest(**identity))
        assert (code, details[:9]) == (StatusCode.INVALID_ARGUMENT, "identity:")


def test_the_token_is_accepted(channel: grpc.Channel, server: Embedded) -> None:
    """The token that the server gave is a credential that it takes."""
    token = stubs.IamTokenServiceStub(channel).Create(stubs.CreateIamTokenRequest(jwt="a.b.c"), timeout=5).iam_token
    with YandexArt(endpoint=server.endpoint, folder_id="folder", credentials=token) as art:
        assert art.generate("a cat").width == 1024


def test_other_ways_to_tokens_are_said_to_be_missing(channel: grpc.Channel) -> None:
    """What the contract declares and the server cannot do is UNIMPLEMENTED, with a reason."""
    tokens = stubs.IamTokenServiceStub(channel)
    request = stubs.CreateIamTokenForServiceAccountRequest(service_account_id="x")
    assert status_of(tokens.CreateForServiceAccount, request)[0] is StatusCode.UNIMPLEMENTED
    assert status_of(tokens.Revoke, stubs.RevokeIamTokenRequest(iam_token="x"))[0] is StatusCode.UNIMPLEMENTED


def test_discovery_points_here(channel: grpc.Channel, server: Embedded) -> None:
    """Every service that official clients look for is at the server's own address."""
    directory = stubs.ApiEndpointServiceStub(channel)
    address = server.endpoint.removeprefix("http://")
    listed = directory.List(stubs.ListApiEndpointsRequest(), timeout=5).endpoints
    assert {"ai-foundation-models", "operation", "iam"} <= {endpoint.id for endpoint in listed}
    assert {endpoint.address for endpoint in listed} == {address}
    got = directory.Get(stubs.GetApiEndpointRequest(api_endpoint_id="operation"), timeout=5)
    assert (got.id, got.address) == ("operation", address)
    assert status_of(directory.Get, stubs.GetApiEndpointRequest(api_endpoint_id="x"))[0] is StatusCode.NOT_FOUND


def test_health_and_reflection_answer(channel: grpc.Channel) -> None:
    """Health is SERVING for the whole and for each service, and reflection describes them all."""
    doctor: Any = health_pb2_grpc.HealthStub(channel)
    mirror: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [described] = mirror.ServerReflectionInfo(iter([request]), timeout=5)
    names = {service.name for service in described.list_services_response.service}
    assert "yandex.cloud.ai.foundation_models.v1.image_generation.ImageGenerationAsyncService" in names
    assert "yandex.cloud.operation.OperationService" in names
    for name in {"", *names} - {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}:
        assert doctor.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == 1
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    for answer in mirror.ServerReflectionInfo(iter(requests), timeout=5):
        assert answer.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "nonsense"}, "listen: 'nonsense' is not host:port"),
        ({"listen": "127.0.0.1:99999"}, "listen: '127.0.0.1:99999' is not host:port"),
        ({"listen": "0.0.0.0:0"}, "listen: '0.0.0.0' is not loopback"),
        ({"backend": "oil"}, "backend: 'oil'"),
        ({"duration": "soon"}, "duration 'soon' is not fixed:SECONDS"),
        ({"tls_cert": "cert.pem"}, "tls_key: none given"),
        (
            {"tls_key": "/nowhere/key.pem", "tls_cert": "/nowhere/cert.pem"},
            "tls_cert '/nowhere/cert.pem', tls_key '/nowhere/key.pem': .*No such file",
        ),
        ({"tls_key": __file__, "tls_cert": __file__}, "tls_cert '.*', tls_key '.*'"),
    ],
)
def test_a_wrong_setting_of_the_server_is_named(settings: dict[str, Any], words: str) -> None:
    """What is wrong is named, and no server is left behind."""
    with pytest.raises(ConfigurationError, match=words), embedded(**settings):
        pass


def test_a_port_in_use_is_said(server: Embedded) -> None:
    """A second server on the port of another one says so instead of sharing its callers."""
    address = server.endpoint.removeprefix("http://")
    with (
        pytest.raises(ConfigurationError, match=f"listen: '{address}' cannot be bound: Address already in use"),
        embedded(listen=address),
    ):
        pass


def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    """A client that trusts the server's own authority gets a picture over TLS."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    pems: dict[str, Any] = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    with embedded(listen="localhost:0", duration="fixed:0", **pems) as server:
        assert server.endpoint.startswith("https://localhost:")
        with YandexArt(endpoint=server.endpoint, folder_id="folder", root_certificates=tmp_path / "ca.pem") as art:
            assert art.generate("a cat").width == 1024


def test_a_burst_of_callers_waits_for_its_turn(channel: grpc.Channel) -> None:
    """Thousands of calls at the same moment are all answered; none is cancelled without a word."""
    get = stubs.OperationServiceStub(channel).Get
    calls = [get.future(stubs.GetOperationRequest(operation_id="x"), timeout=30) for _ in range(5000)]
    assert {call.code() for call in calls} == {StatusCode.NOT_FOUND}
