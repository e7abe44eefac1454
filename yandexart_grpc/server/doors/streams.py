"""Streams of server-sent events: how one is answered, and kept alive while there is nothing to tell."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

from starlette.responses import StreamingResponse

HEARTBEAT = 10.0
"""Seconds of silence in a stream, at the most: what stands in between takes longer ones for the end."""
PAUSE_MARK = b": it goes on\n\n"
"""A comment, which every reader of a stream passes over."""

News = TypeVar("News")


def stream(events: AsyncIterator[bytes], headers: Mapping[str, str]) -> StreamingResponse:
    """The answer that tells events as they come, through whatever stands in between."""
    kept = {**headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(events, headers=kept, media_type="text/event-stream")


def event(kind: str, data: bytes) -> bytes:
    """An event of that kind, with JSON in it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


async def with_pauses(news: AsyncIterator[News], seconds: float) -> AsyncIterator[News | None]:
    """The news, and None whenever there was none for so many seconds."""
    coming = asyncio.ensure_future(anext(news))
    try:
        while True:
            if not (await asyncio.wait([coming], timeout=seconds))[0]:
                yield None
                continue
            try:
                told = coming.result()
            except StopAsyncIteration:
                return
            coming = asyncio.ensure_future(anext(news))  # listens again before this is handed out, so that nothing is missed
            yield told
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
