"""Channels: their options, their security, and the wait until one is ready.

A channel that is not ready has sent nothing. That is the only moment at which "not sent" is certain, so a submit waits for
it (faults.md, "gRPC in Python: what bites").
"""

import asyncio
import queue
import time
from contextlib import ExitStack
from dataclasses import replace

import grpc
from grpc import ChannelConnectivity

from yandexart_grpc._version import __version__
from yandexart_grpc.errors import ConfigurationError, Unavailable, failure
from yandexart_grpc.settings import Endpoint, Settings

_FAILED = (ChannelConnectivity.TRANSIENT_FAILURE, ChannelConnectivity.SHUTDOWN)
_PROBE, _PROBE_TIMEOUT = "/grpc.health.v1.Health/Check", 1.0


def open_channel(endpoint: Endpoint, settings: Settings) -> grpc.Channel:
    """A channel for blocking calls. It connects at its first use."""
    if endpoint.plaintext:
        return grpc.insecure_channel(endpoint.target, _options(settings))
    return grpc.secure_channel(endpoint.target, grpc.ssl_channel_credentials(settings.root_certificates), _options(settings))


def open_aio_channel(endpoint: Endpoint, settings: Settings) -> grpc.aio.Channel:
    """A channel for the running event loop. It connects at its first use."""
    if endpoint.plaintext:
        return grpc.aio.insecure_channel(endpoint.target, _options(settings))
    return grpc.aio.secure_channel(endpoint.target, grpc.ssl_channel_credentials(settings.root_certificates), _options(settings))


def start_embedded(settings: Settings, life: ExitStack) -> Settings:
    """The settings with each `demo://` replaced by the address of a server in this process that ends with `life`.

    Raises `ConfigurationError` where the server's packages are not installed.
    """
    backend = settings.endpoint.embedded or settings.operation_endpoint.embedded
    if backend is None:
        return settings
    try:
        from yandexart_grpc.server import embedded  # a room, entered only when it is asked for
    except ImportError as error:
        raise ConfigurationError(f"{backend}:// needs the server: pip install 'yandexart-grpc[server]' ({error})") from error
    here = Endpoint.parse(life.enter_context(embedded(backend=backend)).endpoint)
    return replace(
        settings,
        endpoint=here if settings.endpoint.embedded else settings.endpoint,
        operation_endpoint=here if settings.operation_endpoint.embedded else settings.operation_endpoint,
    )


def connect(channel: grpc.Channel, target: str, timeout: float) -> float:
    """Wait until the channel is ready, and return how many of the `timeout` seconds are left.

    Raises `Unavailable` at the first attempt that fails, or when the time is up; nothing was sent then.
    """
    deadline = time.monotonic() + timeout
    states: queue.SimpleQueue[ChannelConnectivity] = queue.SimpleQueue()
    notice = states.put
    channel.subscribe(notice, try_to_connect=True)
    try:
        while (state := states.get(timeout=max(0.0, deadline - time.monotonic()))) is not ChannelConnectivity.READY:
            if state in _FAILED:
                channel.unary_unary(_PROBE, bytes)(b"", timeout=_PROBE_TIMEOUT)
    except grpc.RpcError as error:
        _judge_probe(error, target)
    except queue.Empty:
        raise _unreachable(target, f"no connection within {timeout:g} s") from None
    finally:
        channel.unsubscribe(notice)
    return max(0.0, deadline - time.monotonic())


async def aconnect(channel: grpc.aio.Channel, target: str, timeout: float) -> float:
    """What `connect` does, awaited."""
    deadline = time.monotonic() + timeout
    try:
        async with asyncio.timeout(timeout):
            while (state := channel.get_state(try_to_connect=True)) is not ChannelConnectivity.READY:
                if state in _FAILED:
                    await channel.unary_unary(_PROBE, bytes)(b"", timeout=_PROBE_TIMEOUT)
                await channel.wait_for_state_change(state)
    except grpc.RpcError as error:
        _judge_probe(error, target)
    except TimeoutError:
        raise _unreachable(target, f"no connection within {timeout:g} s") from None
    return max(0.0, deadline - time.monotonic())


def _judge_probe(error: grpc.RpcError, target: str) -> None:
    """A connection that failed tells why only to a call, so a harmless one is made: it is never sent, and brings the reason.

    Any other answer than UNAVAILABLE came over a connection that has been made after all.
    """
    status = failure(error)
    if status.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise _unreachable(target, status.details() or "no reason given") from error


def _unreachable(target: str, why: str) -> Unavailable:
    return Unavailable(f"{target} cannot be reached, and nothing was sent: {why}", code=grpc.StatusCode.UNAVAILABLE, details=why)


def _options(settings: Settings) -> list[tuple[str, str | int]]:
    return [
        ("grpc.primary_user_agent", f"yandexart-grpc/{__version__}"),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # Without this one, a peer that stalls with its connection alive is noticed after a minute.
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
