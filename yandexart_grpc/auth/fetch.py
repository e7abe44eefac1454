"""Fetches a token from any source, blocking or awaited; when to do that, `_token` decides."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from grpc import RpcError

from yandexart_grpc.auth.iam import Exchanged
from yandexart_grpc.auth.search import Source
from yandexart_grpc.auth.token import Token
from yandexart_grpc.errors import ConfigurationError, Unavailable, YandexArtError

Exchange = Callable[..., Any]
"""The method `Create` of `IamTokenService`, that takes a `Proof` and brings a `Token`."""


def fetch(source: Source, exchange: Exchange, timeout: float) -> Token:
    """A new token. Raises `grpc.RpcError` where an exchange failed, and else only `YandexArtError`."""
    with _translated(source):
        return _known(exchange(source.proof(), timeout=timeout) if isinstance(source, Exchanged) else source.token())


async def afetch(source: Source, exchange: Exchange, timeout: float) -> Token:
    """The same, while the event loop goes on: what may block is done in a thread."""
    with _translated(source):
        if isinstance(source, Exchanged):
            return _known(await exchange(await asyncio.to_thread(source.proof), timeout=timeout))
        if is_async(source):
            return _known(await source.token())  # type: ignore[misc]  # `is_async` told that it can be awaited
        return _known(await asyncio.to_thread(source.token))


def is_async(source: Source | None) -> bool:
    """Whether only an event loop can fetch from it."""
    return inspect.iscoroutinefunction(getattr(source, "token", None))


def _known(token: object) -> Token:
    if not isinstance(token, Token):
        raise ConfigurationError(f"credentials: token() gave {type(token).__name__} instead of a Token")
    return token


@contextmanager
def _translated(source: Source) -> Iterator[None]:
    try:
        yield
    except (RpcError, YandexArtError):
        raise
    except Exception as error:
        raise Unavailable(f"{type(source).__name__} gave no token: {type(error).__name__}: {error}") from error
