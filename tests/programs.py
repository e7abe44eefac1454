"""Programs that are clients of ours, in processes of their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

TIME = 240
"""Seconds that a busy machine is given for what takes one or two."""


def environment(endpoint: str, **more: str | Path) -> dict[str, str]:
    """What a program is told."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = {"PATH": path, "YANDEXART_ENDPOINT": endpoint, "YC_FOLDER_ID": "b1g", "YC_API_KEY": "AQVN"}
    return os.environ | told | {name: str(value) for name, value in more.items()}


@asynccontextmanager
async def running(
    endpoint: str, folder: Path, *command: str | Path, **more: str | Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs in that folder, with pipes to all it reads and writes. It is killed in the end, if need be."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment(endpoint, **more), stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(TIME):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(stream: asyncio.StreamReader | None, wanted: Callable[[str], bool]) -> str:
    """The first line that is as wanted."""
    assert stream
    async for said in stream:
        if wanted(text := said.decode().rstrip("\n")):
            return text
    raise AssertionError("it ended before it said so")


async def ended(process: asyncio.subprocess.Process) -> str:
    """What a program has still to say once it ends as it should, with nothing on standard error."""
    said, wrong = await process.communicate()
    assert (process.returncode, wrong.decode()) == (0, "")
    return said.decode()
