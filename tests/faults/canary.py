"""Clients at work with a key and a prompt that nobody may see, which show everything of themselves that can be shown.

`python -m tests.faults.canary ENDPOINT...`: the key is in `YC_API_KEY`, the prompt in `PROMPT`.
"""

import asyncio
import contextlib
import logging
import os
import pickle
import sys
import traceback
from typing import Any

from yandexart_grpc import AsyncYandexArt, YandexArt, YandexArtError
from yandexart_grpc.auth import Secret

TIMES = 10


def show(*things: object) -> None:
    """Print all that a thing says of itself, and what a pickle of it would hold."""
    for thing in things:
        print(repr(thing), str(thing), f"{thing}", vars(thing) if hasattr(thing, "__dict__") else "")  # noqa: T201
        with contextlib.suppress(pickle.PicklingError, TypeError, AttributeError):
            print(pickle.dumps(thing))  # noqa: T201
        if isinstance(thing, BaseException):
            frames = traceback.TracebackException.from_exception(thing, capture_locals=True)
            print("".join(frames.format()))  # noqa: T201


def show_client(art: Any) -> None:
    """The client, its settings and its credential."""
    settings = art._settings
    show(art, settings, settings.credential, settings.metadata())


async def work(endpoint: str, prompt: str) -> None:
    """Pictures, refusals and errors, by both clients."""
    wrong = Secret(f"{os.environ['YC_API_KEY']}-and-wrong")
    with YandexArt(endpoint=endpoint, folder_id="folder", timeout=5) as art:
        show_client(art)
        for number in range(TIMES):
            try:
                show(art.submit(f"{prompt} {number}"), art.operation("fbv00000000000000000"))
                art.operation("fbv00000000000000000").result()
            except YandexArtError as error:
                show(error)
    async with AsyncYandexArt(endpoint=endpoint, folder_id="folder", timeout=5) as aio:
        show_client(aio)
        for number in range(TIMES):
            try:
                show(await aio.generate(f"{prompt} {number}"))
                await aio.submit(f"{prompt} {'x' * 500}")
            except YandexArtError as error:
                show(error)
    async with AsyncYandexArt(endpoint=endpoint, folder_id="folder", credentials=wrong, timeout=5) as stranger:
        try:
            await stranger.generate(prompt)
        except YandexArtError as error:
            show(error)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    for one in sys.argv[1:]:
        asyncio.run(work(one, os.environ["PROMPT"]))
