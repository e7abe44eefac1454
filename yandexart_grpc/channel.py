"""Channels: their options, their security, and the method that finds out whether one is connected."""

import json
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import grpc

from yandexart_grpc import auth
from yandexart_grpc._version import __version__
from yandexart_grpc.address import Endpoint, address_of_proxy
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.settings import Settings
from yandexart_grpc.stubs import (
    CancelOperationRequest,
    GetOperationRequest,
    ImageGenerationAsyncServiceStub,
    ImageGenerationRequest,
    Operation,
    OperationServiceStub,
)

log = logging.getLogger("yandexart_grpc")

# Reads may be repeated by gRPC itself; an order never: whether that is safe, `_submit` decides.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "yandex.cloud.operation.OperationService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
_SPREAD: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_CREATE_TOKEN = "/yandex.cloud.iam.v1.IamTokenService/Create"
KEPT_MEMORY = 8 * 2**20
"""Bytes; larger than an image."""
_PROBE = "/grpc.health.v1.Health/Check"
"""Any server answers this, if only that it does not know it."""


def open_channel(endpoint: Endpoint, settings: Settings) -> grpc.Channel:
    """A channel for blocking calls. It connects at its first use."""
    _keep_memory()
    options = _options(endpoint, settings)
    if endpoint.plaintext:
        return grpc.insecure_channel(endpoint.target, options)
    return grpc.secure_channel(endpoint.target, _identity(settings), options)


def open_aio_channel(endpoint: Endpoint, settings: Settings) -> grpc.aio.Channel:
    """A channel for the running event loop. It connects at its first use."""
    _keep_memory()
    options = _options(endpoint, settings)
    if endpoint.plaintext:
        return grpc.aio.insecure_channel(endpoint.target, options)
    return grpc.aio.secure_channel(endpoint.target, _identity(settings), options)


def start_embedded(settings: Settings, life: ExitStack) -> Settings:
    """The settings with each `demo://` and `images://` replaced by the address of a server in this process that ends with `life`.

    Raises `ConfigurationError` where the server's packages are not installed, or it cannot be started.
    """
    asked = settings.endpoint if settings.endpoint.embedded else settings.operation_endpoint
    if asked.embedded is None:
        return settings
    try:
        from yandexart_grpc.server import embedded  # a room, entered only when it is asked for
    except ImportError as error:
        raise ConfigurationError(
            f"{asked.embedded}:// needs the server: pip install 'yandexart-grpc[server]' ({error})"
        ) from error
    kept: dict[str, Any] = {"store": settings.store} if settings.store else {}
    server = embedded(backend=asked.embedded, upstream=asked.upstream, **kept)
    here = replace(Endpoint.parse(life.enter_context(server).endpoint), embedded=asked.embedded, upstream=asked.upstream)
    return replace(
        settings,
        endpoint=here if settings.endpoint.embedded else settings.endpoint,
        operation_endpoint=here if settings.operation_endpoint.embedded else settings.operation_endpoint,
    )


def probe(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """A method that is called as those of the stubs are, changes nothing, and brings an empty operation."""
    return channel.unary_unary(_PROBE, lambda _: b"", lambda _: Operation())


def methods(generation: grpc.Channel | grpc.aio.Channel, operations: grpc.Channel | grpc.aio.Channel) -> dict[type, Any]:
    """The methods that a client calls, by what they are sent."""
    generate, about = ImageGenerationAsyncServiceStub(generation), OperationServiceStub(operations)
    return {ImageGenerationRequest: generate.Generate, GetOperationRequest: about.Get, CancelOperationRequest: about.Cancel}


def exchange(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The method that takes a proof and brings a token. Neither is a message, because gRPC keeps those where tracebacks look."""
    return channel.unary_unary(_CREATE_TOKEN, auth.Proof.serialize, auth.received)


def _keep_memory() -> None:
    """Make the C library keep the memory of an image for the next one.

    glibc gives large blocks back to the kernel, and fetching them again page by page is half of the CPU that an image of 1.6 MB
    costs. It stops doing so up to the size of the largest block that it has seen freed (mallopt(3), M_MMAP_THRESHOLD).
    """
    bytes(KEPT_MEMORY)


def _identity(settings: Settings) -> grpc.ChannelCredentials:
    """Who is trusted, and who this client says it is."""
    return grpc.ssl_channel_credentials(settings.root_certificates, settings.client_key, settings.client_certificate)


def _options(endpoint: Endpoint, settings: Settings) -> list[tuple[str, str | int]]:
    proxied = settings.proxy and not endpoint.is_here  # in plaintext, a proxy would read what was to stay on this machine
    if proxied and (address := address_of_proxy(endpoint, os.environ)):
        _tell(address)
    return [
        ("grpc.primary_user_agent", f"yandexart-grpc/{__version__}"),
        ("grpc.enable_http_proxy", int(proxied)),
        ("grpc.max_receive_message_length", settings.limits.max_message_bytes),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # Without this one, a peer that stalls with its connection alive is noticed after a minute.
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Connections are shared between equal channels of a process, and one that came through a fork is broken.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG | (_SPREAD if endpoint.balanced else {}))),
    ]


@cache
def _tell(proxy: str) -> None:
    """Say it once in a process: gRPC itself says nothing."""
    log.info("connections go through the proxy %s, which the environment names; proxy=False uses none", proxy)
