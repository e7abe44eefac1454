"""A server with a scripted backend and its HTTP doors open, in the event loop of a test."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.foreign import jpeg
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import Embedded, ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.stubs import ImageGenerationResponse

PICTURE = jpeg()
SKETCHES = tuple(jpeg(seed=seed) for seed in (2, 3, 4))


class Scripted:
    """A backend that keeps what it was asked for, and answers when it is let: at once where nothing else is said."""

    resumable = False

    def __init__(
        self, answer: bytes | Exception = PICTURE, *, charges: bool = False, sketches: Sequence[bytes] = (), warning: str = ""
    ) -> None:
        self.charges = charges
        self.asked: list[ImageRequest] = []
        self.authorizations: list[str] = []
        self.begun, self.let = asyncio.Event(), asyncio.Event()
        self.let.set()
        self._answer, self._sketches, self._warning = answer, sketches, warning

    async def generate(self, request: ImageRequest, upstream: Upstream) -> ImageGenerationResponse:
        self.asked.append(request)
        self.authorizations.append(upstream.authorization)
        self.begun.set()
        if self._warning:
            upstream.warn(self._warning)
        for sketch in self._sketches:
            await soon(lambda: upstream.followed)
            upstream.sketch(sketch)
            await soon(lambda: not upstream.followed)  # whoever follows has heard, and will listen again
        await self.let.wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return ImageGenerationResponse(image=self._answer, model_version="scripted")

    async def close(self) -> None:
        """Nothing is held open."""


async def soon(condition: Callable[[], bool], seconds: float = 0.2) -> None:
    """Wait for a condition, so long at the most: look whenever the loop comes round, as it may not last any longer."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(backend: Scripted, **settings: Any) -> AsyncIterator[Embedded]:
    """A server with that backend, which is stopped without grace where nothing else is said."""
    given: dict[str, Any] = {"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "grace": 0.0}
    async with serving(ServerSettings(backend=backend, **(given | settings))) as running:
        yield running
