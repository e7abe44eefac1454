"""A bot in the manner of Telegram's: a user writes what he would like to see, watches how it goes, and gets the image.

    yandexart serve &
    YANDEXART_ENDPOINT=http://127.0.0.1:50051 YC_FOLDER_ID=demo python examples/bot.py
    anna a red cat
    boris a blue dog
    boris /cancel

* Each user has one image at a time, many users have many, and nobody waits for anybody else.
* While an image is made, one message is edited, every `TICK` seconds; /cancel stops it where that is still possible.
* The id of an update is the idempotency key of its order, because an update may come twice.

There is no network here: updates are lines of standard input, and what the bot says goes to standard output. `Transport` is what
takes its place: its four methods are `getUpdates`, `sendMessage`, `editMessageText` and `sendPhoto` of a real one.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from yandexart_grpc import (
    AsyncOperation,
    AsyncYandexArt,
    ContentRefused,
    Image,
    InvalidRequest,
    OperationCancelled,
    QuotaExceeded,
    Unavailable,
    YandexArtError,
)

TICK = 2.0
"""Seconds from one edit of a message to the next; a messenger allows about one a second."""

log = logging.getLogger("bot")


@dataclass(frozen=True)
class Update:
    """What a user wrote."""

    id: str
    user: str
    text: str


class Transport(Protocol):
    """A messenger."""

    def updates(self) -> AsyncIterator[Update]:
        """What users write, as it comes."""

    async def send(self, user: str, text: str) -> int:
        """Write to a user, and return the number of the message."""

    async def edit(self, user: str, message: int, text: str) -> None:
        """Put another text into a message."""

    async def send_photo(self, user: str, photo: Image) -> None:
        """Send an image."""


class Bot:
    """Makes images for the users of a messenger."""

    def __init__(self, art: AsyncYandexArt, transport: Transport) -> None:
        self._art, self._transport = art, transport
        self._orders: dict[str, asyncio.Task[AsyncOperation]] = {}
        """The order of each user whose image is being made."""

    async def run(self) -> None:
        """Answer until there are no more updates, and then until every image is done."""
        async with asyncio.TaskGroup() as group:
            async for update in self._transport.updates():
                group.create_task(self._surely(self._answer(update)))

    async def _surely(self, answer: Coroutine[None, None, None]) -> None:
        """Give an answer. When that fails, the others are answered all the same."""
        try:
            await answer
        except Exception:
            log.exception("an update was not answered")

    async def _answer(self, update: Update) -> None:
        user, text = update.user, update.text
        if text == "/cancel":
            await self._cancel(user)
        elif text.startswith("/"):
            await self._transport.send(user, "Write what you would like to see, or /cancel.")
        elif user in self._orders:
            await self._transport.send(user, "One at a time; /cancel stops the one before.")
        else:
            self._orders[user] = asyncio.create_task(self._art.submit(text, idempotency_key=update.id))
            try:
                await self._make(user)
            finally:
                del self._orders[user]

    async def _make(self, user: str) -> None:
        """See an order through, in one message that is edited."""
        message = await self._transport.send(user, "Ordering…")
        try:
            image = await self._watched(user, message)
        except YandexArtError as error:
            await self._transport.edit(user, message, reason(error))
        else:
            await self._transport.edit(user, message, "Done.")
            await self._transport.send_photo(user, image)

    async def _watched(self, user: str, message: int) -> Image:
        """The image, once it is ready; until then, the message tells how long it has been waited for."""
        operation = await self._orders[user]
        log.info("%s ordered operation %s", user, operation.id)  # with which it can be had after a crash
        watching = asyncio.create_task(self._tell_time(user, message))
        try:
            return await operation.result()
        finally:
            watching.cancel()
            await asyncio.wait({watching})  # so that its last edit does not come after ours

    async def _tell_time(self, user: str, message: int) -> None:
        began = time.monotonic()
        while True:
            await self._transport.edit(user, message, f"Drawing for {time.monotonic() - began:.0f} s…")
            await asyncio.sleep(TICK)

    async def _cancel(self, user: str) -> None:
        """Stop what the user is waiting for. Who watches over it tells him how that went."""
        if user not in self._orders:
            await self._transport.send(user, "There is nothing to cancel.")
            return
        try:
            operation = await self._orders[user]
            if not await operation.cancel():
                await self._transport.send(user, "It is too late: the image is coming.")
        except YandexArtError as error:
            log.info("%s could not cancel: %s", user, error)


def reason(error: YandexArtError) -> str:
    """Why there is no image, for a user. What is not his business goes to the log."""
    match error:
        case OperationCancelled():
            return "Cancelled."
        case ContentRefused():
            return "The rules do not allow this image."
        case InvalidRequest():
            return f"This cannot be drawn: {error}"
        case QuotaExceeded() | Unavailable():
            return "Too much to do; try again later."
    log.error("%s (billed: %s)", error, error.billed)
    return "Something went wrong here."


@dataclass
class Terminal:
    """A messenger without network. A line of standard input is a user and what he writes; images are files."""

    folder: Path
    _sent: dict[str, int] = field(default_factory=dict)

    async def updates(self) -> AsyncIterator[Update]:
        reader, session = asyncio.StreamReader(), time.time_ns()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        number = 0
        while line := await reader.readline():
            user, _, text = line.decode(errors="replace").strip().partition(" ")
            if text:
                number += 1
                yield Update(f"{session}-{number}", user, text)

    async def send(self, user: str, text: str) -> int:
        self._sent[user] = message = self._sent.get(user, 0) + 1
        await self.edit(user, message, text)
        return message

    async def edit(self, user: str, message: int, text: str) -> None:
        print(f"{user} #{message}: {text}", flush=True)

    async def send_photo(self, user: str, photo: Image) -> None:
        path = await asyncio.to_thread(photo.save, self.folder / photo.operation_id)
        await self.send(user, str(path))


async def main() -> None:
    """Serve whoever writes."""
    async with AsyncYandexArt() as art:
        await Bot(art, Terminal(Path())).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main())
