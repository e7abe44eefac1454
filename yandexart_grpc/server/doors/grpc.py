"""The gRPC door: the services of the contract, health and reflection. It translates; `operations` decides."""

import re
import secrets
import time
from collections.abc import Awaitable
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from yandexart_grpc import stubs
from yandexart_grpc.errors import InvalidRequest, NotFound, YandexArtError
from yandexart_grpc.server.operations import Operations, to_status

OPTIONS = (
    # A second server on the same port is an error; by default the kernel would share the callers out between both.
    ("grpc.so_reuseport", 0),
    # Callers keep a quiet connection alive by pings; by default three in five minutes would end it.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A burst of callers waits for its turn; by default what exceeds a thousand is cancelled, with nothing said.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
)
HOLDS = (("preference-applied", "wait"),)
"""Announces that a read with `prefer: wait=<seconds>` is held until the operation is done (RFC 7240)."""
LONGEST_HOLD = 60.0
"""Seconds for which a read is held at the most, whatever is preferred."""
TOKEN_LIFE = 12 * 3600
"""How long an IAM token lives, in seconds (contract/service.md, "Who may call")."""

OAUTH_LIMIT, JWT_LIMIT = 4000, 8000
"""Characters that the two kinds of identity may have, as their fields declare."""
DISCOVERABLE = ("ai-foundation-models", "endpoint", "iam", "operation")
"""The names under which official clients look for the services of this door."""
SERVICES = tuple(
    service.full_name
    for request in (
        stubs.ImageGenerationRequest,
        stubs.GetOperationRequest,
        stubs.CreateIamTokenRequest,
        stubs.GetApiEndpointRequest,
    )
    for service in request.DESCRIPTOR.file.services_by_name.values()
)
"""Full names of the services of the contract."""

Context = grpc.aio.ServicerContext[object, object]
Answer = TypeVar("Answer")

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Generation(stubs.ImageGenerationAsyncServiceServicer):
    """Takes requests."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._announced = (*HOLDS, *scope_of(operations))

    async def Generate(self, request: stubs.ImageGenerationRequest, context: Context) -> stubs.Operation:
        await context.send_initial_metadata(self._announced)
        sent = {name: str(value) for name, value in context.invocation_metadata() or ()}
        accepted = self._operations.accept(request, key=sent.get("idempotency-key"), authorization=sent.get("authorization", ""))
        return await _answered(context, accepted)


class OperationReads(stubs.OperationServiceServicer):
    """Tells what became of a request."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def Get(self, request: stubs.GetOperationRequest, context: Context) -> stubs.Operation:
        hold = _preferred_wait(context)
        if hold:
            await context.send_initial_metadata(HOLDS)
        return await _answered(context, self._operations.look(request.operation_id, hold))

    async def Cancel(self, request: stubs.CancelOperationRequest, context: Context) -> stubs.Operation:
        return await _answered(context, self._operations.cancel(request.operation_id))


class Tokens(stubs.IamTokenServiceServicer):
    """Gives an IAM token to whoever asks in the right form: this server does not ask who its callers are."""

    async def Create(self, request: stubs.CreateIamTokenRequest, context: Context) -> stubs.CreateIamTokenResponse:
        return await _answered(context, self._create(request))

    async def CreateForServiceAccount(
        self, request: stubs.CreateIamTokenForServiceAccountRequest, context: Context
    ) -> stubs.CreateIamTokenResponse:
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server knows no service accounts; use Create")

    async def Revoke(self, request: stubs.RevokeIamTokenRequest, context: Context) -> stubs.RevokeIamTokenResponse:
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server keeps no tokens, so it can revoke none")

    async def _create(self, request: stubs.CreateIamTokenRequest) -> stubs.CreateIamTokenResponse:
        oauth, jwt = request.yandex_passport_oauth_token, request.jwt
        if len(oauth) > OAUTH_LIMIT or len(jwt) > JWT_LIMIT or not (oauth or re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", jwt)):
            raise InvalidRequest(
                f"identity: neither a yandex_passport_oauth_token of 1 to {OAUTH_LIMIT} characters"
                f" nor a jwt of three parts and at most {JWT_LIMIT} characters"
            )
        token = stubs.CreateIamTokenResponse(iam_token=f"t1.{secrets.token_urlsafe(48)}")
        token.expires_at.FromSeconds(int(time.time()) + TOKEN_LIFE)
        return token


class Endpoints(stubs.ApiEndpointServiceServicer):
    """Tells official clients that every service they look for is here."""

    def __init__(self, address: str) -> None:
        self._endpoints = {name: stubs.ApiEndpoint(id=name, address=address) for name in DISCOVERABLE}

    async def Get(self, request: stubs.GetApiEndpointRequest, context: Context) -> stubs.ApiEndpoint:
        return await _answered(context, self._get(request.api_endpoint_id))

    async def List(self, request: stubs.ListApiEndpointsRequest, context: Context) -> stubs.ListApiEndpointsResponse:
        return stubs.ListApiEndpointsResponse(endpoints=self._endpoints.values())

    async def _get(self, name: str) -> stubs.ApiEndpoint:
        if name not in self._endpoints:
            raise NotFound(f"Endpoint {name!r} not found")
        return self._endpoints[name]


class Doctor(health.aio.HealthServicer):
    """Tells whether services are serving, and to a client that connects what it may rely on."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self._announced = scope_of(operations)

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        await context.send_initial_metadata(self._announced)
        return await super().Check(request, context)


def scope_of(operations: Operations) -> tuple[tuple[str, str]]:
    """Announces that a request with the `idempotency-key` of an earlier one is answered with the same operation.

    That holds as long as the same store is behind this door, so its id is told: after a lost answer, a client compares.
    """
    return (("idempotency-scope", operations.scope),)


def open_door(server: grpc.aio.Server, operations: Operations, address: str) -> Doctor:
    """Add every service to a server that others reach at `address`, and return the one that tells its health."""
    stubs.add_ImageGenerationAsyncServiceServicer_to_server(Generation(operations), server)
    stubs.add_OperationServiceServicer_to_server(OperationReads(operations), server)
    stubs.add_IamTokenServiceServicer_to_server(Tokens(), server)
    stubs.add_ApiEndpointServiceServicer_to_server(Endpoints(address), server)
    doctor = open_clinic(server, operations)
    # Reflection looks everything up in one pool, and these two live in another.
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        stubs.POOL.AddSerializedFile(file.serialized_pb)
    reflection.enable_server_reflection([*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server, pool=stubs.POOL)
    return doctor


def open_clinic(server: grpc.aio.Server, operations: Operations) -> Doctor:
    """Add the service that tells the health of the others, and return it."""
    doctor = Doctor(operations)
    health_pb2_grpc.add_HealthServicer_to_server(doctor, server)
    return doctor


async def announce(doctor: Doctor) -> None:
    """Tell those who ask that every service is serving."""
    for name in SERVICES:
        await doctor.set(name, health_pb2.HealthCheckResponse.SERVING)


def _preferred_wait(context: Context) -> float:
    """The seconds for which the caller would like to be held; 0 where it does not say so."""
    for key, value in context.invocation_metadata() or ():
        if key == "prefer" and (found := re.search(r"\bwait=(\d{1,6})\b", str(value))):
            return min(float(found[1]), LONGEST_HOLD)
    return 0.0


async def _answered(context: Context, answer: Awaitable[Answer]) -> Answer:
    """The answer, or the status that says its error."""
    try:
        return await answer
    except YandexArtError as error:
        status = to_status(error)
        details = (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()
        await context.abort(_CODES[status.code], status.message, details)
