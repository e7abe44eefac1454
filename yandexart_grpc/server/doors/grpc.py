"""The gRPC door: the services of the contract, health and reflection. It translates; `operations` decides."""

import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from yandexart_grpc import stubs
from yandexart_grpc.errors import InvalidRequest, NotFound, YandexArtError
from yandexart_grpc.server.answers import to_status
from yandexart_grpc.server.callers import Callers
from yandexart_grpc.server.doors.promises import HOLDS, preferred_wait, scope_of
from yandexart_grpc.server.operations import Operations

OPTIONS = (
    # A second server on the same port is an error; by default the kernel would share the callers out between both.
    ("grpc.so_reuseport", 0),
    # Callers keep a quiet connection alive by pings; by default three in five minutes would end it.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A burst of callers waits for its turn; by default what exceeds a thousand is cancelled, with nothing said.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    # A caller who is gone without a word is noticed, although nothing is sent to him: he does not answer a ping.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A connection over which nothing is asked is closed politely; a client opens another when it needs one.
    ("grpc.max_connection_idle_ms", 3_600_000),
)
HANDSHAKE = 10.0
"""Seconds that a new connection has for its handshake, of TLS and of HTTP/2; by default it would be two minutes."""
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

LONGEST_WORDS = 500
"""Characters of a status. It travels as metadata, of which 8 KB are sure to arrive."""
_BROKEN = object()
"""A request that is no message of its method."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Generation(stubs.ImageGenerationAsyncServiceServicer):
    """Takes requests."""

    def __init__(self, operations: Operations, callers: Callers) -> None:
        self._operations, self._callers = operations, callers
        self._announced = (HOLDS, scope_of(operations))

    async def Generate(self, request: stubs.ImageGenerationRequest, context: Context) -> stubs.Operation:
        await context.send_initial_metadata(self._announced)
        return await _answered(context, self._generate(request, _sent(context)))

    async def _generate(self, request: stubs.ImageGenerationRequest, sent: dict[str, str]) -> stubs.Operation:
        authorization = sent.get("authorization", "")
        caller = self._callers.known(authorization)
        return await self._operations.accept(request, key=sent.get("idempotency-key"), caller=caller, authorization=authorization)


class OperationReads(stubs.OperationServiceServicer):
    """Tells what became of a request."""

    def __init__(self, operations: Operations, callers: Callers) -> None:
        self._operations, self._callers = operations, callers

    async def Get(self, request: stubs.GetOperationRequest, context: Context) -> stubs.Operation:
        return await _answered(context, self._get(request.operation_id, context))

    async def Cancel(self, request: stubs.CancelOperationRequest, context: Context) -> stubs.Operation:
        return await _answered(context, self._cancel(request.operation_id, context))

    async def _get(self, operation_id: str, context: Context) -> stubs.Operation:
        caller = self._callers.known(_sent(context).get("authorization", ""))
        hold = preferred_wait(_preferences(context)) if self._operations.may_hold(caller) else 0.0
        if hold:
            await context.send_initial_metadata((HOLDS,))
        return await self._operations.look(operation_id, hold, caller=caller)

    async def _cancel(self, operation_id: str, context: Context) -> stubs.Operation:
        caller = self._callers.known(_sent(context).get("authorization", ""))
        return await self._operations.cancel(operation_id, caller=caller)


class Tokens(stubs.IamTokenServiceServicer):
    """Gives an IAM token to whoever asks in the right form, where the server does not ask who its callers are; else to nobody."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def Create(self, request: stubs.CreateIamTokenRequest, context: Context) -> stubs.CreateIamTokenResponse:
        if self._callers.are_named:
            words = "this server gives no tokens; send an API key of its own, as 'Api-Key <key>' or as 'Bearer <key>'"
            return await context.abort(grpc.StatusCode.UNIMPLEMENTED, words)
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
        self._announced = (scope_of(operations),)

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        await context.send_initial_metadata(self._announced)
        return await super().Check(request, context)


class Decoding(grpc.aio.ServerInterceptor):
    """Says of a request that cannot be decoded that it is wrong. gRPC would say UNKNOWN, and write an error into the log."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        name = handler_call_details.method
        if name not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None  # and nothing is remembered of methods that others make up
            self._handlers[name] = _decoding(handler)
        return self._handlers[name]


def _decoding(handler: Any) -> Any:
    """The handler, which aborts where a request is no message."""
    decode, kind = handler.request_deserializer, "stream_stream" if handler.request_streaming else "unary_unary"
    if handler.response_streaming and not handler.request_streaming:
        kind = "unary_stream"
    behave = getattr(handler, kind)

    def decoded(data: bytes) -> object:
        try:
            return decode(data)
        except DecodeError:
            return _BROKEN

    async def whole(request: object, context: Context) -> object:
        if request is _BROKEN:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of this method")
        return request

    async def once(request: object, context: Context) -> object:
        return await behave(await whole(request, context), context)

    async def each(requests: AsyncIterator[object], context: Context) -> AsyncIterator[object]:
        async for answer in behave((await whole(request, context) async for request in requests), context):
            yield answer

    return handler._replace(request_deserializer=decoded, **{kind: each if handler.request_streaming else once})


def make_server(max_request_bytes: int, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> grpc.aio.Server:
    """A server without a door, which takes messages of so many bytes and lets go of connections that nobody uses.

    Each call that can be decoded goes through the interceptors.
    """
    limits = (("grpc.max_receive_message_length", max_request_bytes), ("grpc.server_handshake_timeout_ms", int(HANDSHAKE * 1000)))
    return grpc.aio.server(options=(*OPTIONS, *limits), interceptors=(Decoding(), *interceptors))


def open_door(server: grpc.aio.Server, operations: Operations, callers: Callers, address: str) -> Doctor:
    """Add every service to a server that others reach at `address`, and return the one that tells its health."""
    stubs.add_ImageGenerationAsyncServiceServicer_to_server(Generation(operations, callers), server)
    stubs.add_OperationServiceServicer_to_server(OperationReads(operations, callers), server)
    stubs.add_IamTokenServiceServicer_to_server(Tokens(callers), server)
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


def _sent(context: Context) -> dict[str, str]:
    """The metadata of a request."""
    return {name: str(value) for name, value in context.invocation_metadata() or ()}


def _preferences(context: Context) -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == "prefer"]


async def _answered(context: Context, answer: Awaitable[Answer]) -> Answer:
    """The answer, or the status that says its error."""
    try:
        return await answer
    except YandexArtError as error:
        status = to_status(error)
        details = (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()
        await context.abort(_CODES[status.code], _short(status.message), details)


def _short(words: str) -> str:
    return words if len(words) <= LONGEST_WORDS else f"{words[: LONGEST_WORDS - 1]}…"
