"""Clients of both kinds whose waits are in the time of a clock. All else about them is as it is in production."""

import asyncio
import threading
from functools import partial
from typing import TypeVar

from yandexart_grpc._step import Talk
from yandexart_grpc.aio import AsyncYandexArt
from yandexart_grpc.client import YandexArt
from yandexart_grpc.settings import Limits, Settings
from yandexart_grpc.testing.clock import Clock

Result = TypeVar("Result")


class ClockedYandexArt(YandexArt):
    """A blocking client on a clock."""

    _clock: Clock

    def _signed(self, steps: Talk[Result]) -> Talk[Result]:
        return self._clock.kept(super()._signed(steps), self._naps.end)


class AsyncClockedYandexArt(AsyncYandexArt):
    """An awaited client on a clock."""

    _clock: Clock

    def _signed(self, steps: Talk[Result]) -> Talk[Result]:
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, self._naps.end)
        return self._clock.kept(super()._signed(steps), wake)


def settings_for(endpoint: str, folder_id: str, credentials: str, timeout: float | None) -> Settings:
    """Settings of which nothing comes from the environment."""
    return Settings.resolve(
        folder_id=folder_id,
        credentials=credentials,
        endpoint=endpoint,
        operation_endpoint=None,
        root_certificates=None,
        history=None,
        store=None,
        limits=Limits(timeout=timeout),
        environ={},
    )


def blocking(settings: Settings, clock: Clock) -> YandexArt:
    """A blocking client on that clock."""
    client = ClockedYandexArt._with(settings, clock.now)
    client._clock = clock
    return client


def awaited(settings: Settings, clock: Clock) -> AsyncYandexArt:
    """An awaited client on that clock, for the event loop in which it is used first."""
    client = AsyncClockedYandexArt._with(settings, clock.now)
    client._clock = clock
    return client


def close(client: AsyncYandexArt) -> None:
    """Close an awaited client from outside of its event loop, which may be gone: in another, in a thread of its own."""
    thread = threading.Thread(target=lambda: asyncio.run(client.close()), name="yandexart-close")
    thread.start()
    thread.join()
