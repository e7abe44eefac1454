"""Small pictures for the page: made in a thread when somebody wants to see one, and kept beside the operation."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import suppress

from yandexart_grpc.errors import NotFound
from yandexart_grpc.image import reduced, whole_jpeg
from yandexart_grpc.server.store import Row, Store, StoreFailure, Thumbnail
from yandexart_grpc.stubs import ImageGenerationResponse

SIDE = 400
"""Pixels of the longer side."""
PIXELS = 64_000_000
"""What a picture may have for a small one to be made of it: more would take 200 MB to decode."""
AT_A_TIME = 2
"""How many are made at a time, so that a page of them costs little memory."""


class Thumbnails:
    """Makes each small picture once, however many ask for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._room = asyncio.Semaphore(AT_A_TIME)
        self._making: dict[str, asyncio.Task[Thumbnail]] = {}

    async def of(self, operation_id: str, caller: str, get: Callable[[], Awaitable[Row]]) -> Thumbnail:
        """The small picture of the caller's operation; `get` finds that, and is asked where the picture was not kept.

        Raises `NotFound` where there is no picture, or none that can be made small, and what `get` raises.
        """
        name = f"{caller} {operation_id}"
        if name not in self._making:
            self._making[name] = task = asyncio.create_task(self._kept(operation_id, caller, get))
            task.add_done_callback(lambda _: self._making.pop(name))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits any more
        return await asyncio.shield(self._making[name])

    async def _kept(self, operation_id: str, caller: str, get: Callable[[], Awaitable[Row]]) -> Thumbnail:
        if kept := await self._store.thumbnail(operation_id, caller):
            return kept
        async with self._room:
            row = await get()
            if not isinstance(row.outcome, ImageGenerationResponse):
                raise NotFound(f"Operation {operation_id!r} has no picture")
            try:
                made = await asyncio.to_thread(small, row.outcome.image)
            except ValueError as error:
                raise NotFound(f"Operation {operation_id!r}: no small picture can be made: {error}") from error
            with suppress(StoreFailure):  # it was forgotten meanwhile, or the disk is full: there is a picture all the same
                await self._store.keep_thumbnail(operation_id, made)
            return made


def small(data: bytes) -> Thumbnail:
    """A picture made small. Raises `ValueError`, which says what it is instead of a picture."""
    from PIL import Image

    data, width, height = whole_jpeg(data)
    if width * height > PIXELS:
        raise ValueError(f"{width} x {height} pixels exceed the limit of {PIXELS}")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return Thumbnail(width, height, reduced(image, SIDE))
    except (OSError, SyntaxError) as error:  # Pillow's word for a file that breaks the rules of its format
        raise ValueError(str(error)) from error
