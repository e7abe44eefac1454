"""Our server with a backend that keeps a ledger: each picture is written down, durably, before it is drawn.

`python -m tests.faults.counting_server --listen 127.0.0.1:50051 --ledger FILE` runs it in a process that may be killed.
"""

import argparse
import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import PIL.Image

from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server import ServerSettings, serve
from yandexart_grpc.stubs import ImageGenerationResponse


def picture(prompt: str, seed: int) -> bytes:
    """The only picture of this prompt and seed."""
    file = BytesIO()
    PIL.Image.frombytes("RGB", (16, 16), Random(f"{seed} {prompt}").randbytes(16 * 16 * 3)).save(file, "jpeg")
    return file.getvalue()


def digest(prompt: str, seed: int) -> str:
    """What the file with that picture hashes to."""
    return hashlib.sha256(picture(prompt, seed)).hexdigest()


class Ledger:
    """Which prompts were executed and when, in a file that outlives its writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, prompt: str) -> None:
        """Add a line, and return when it is on the disk."""
        os.write(self._file, f"{time.monotonic():.6f} {prompt}\n".encode())
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def executions(path: Path) -> Counter[str]:
    """How often each prompt was executed, by the ledger in that file."""
    return Counter(prompt for _, prompt in _lines(path))


def instants(path: Path) -> list[float]:
    """When there was an execution, by the ledger in that file, on the monotonic clock of the machine."""
    return [float(at) for at, _ in _lines(path)]


def _lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        yield line.split(" ", 1)


class CountingBackend:
    """Draws `picture` after `duration` seconds, and writes each prompt into a ledger before that."""

    resumable = False

    def __init__(self, ledger: Path, *, charges: bool, duration: float = 0.0) -> None:
        self.charges = charges
        self._duration = duration
        self._ledger = Ledger(ledger)

    async def generate(self, request: ImageRequest, upstream: object = None) -> ImageGenerationResponse:
        """Make the picture. `upstream` is for backends that can be asked again."""
        self._ledger.write(request.prompt)
        await asyncio.sleep(self._duration)
        return ImageGenerationResponse(image=picture(request.prompt, request.seed), model_version="counting")

    async def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM; print the address once it can be reached."""
    parser = argparse.ArgumentParser(prog="counting_server")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--duration", type=float, default=0.0)
    parser.add_argument("--charges", action=argparse.BooleanOptionalAction, default=True)
    # Settings of the server; what is not given stays as the server has it.
    parser.add_argument("--store", default=argparse.SUPPRESS)
    parser.add_argument("--unknown", choices=["fail", "resend"], default=argparse.SUPPRESS)
    parser.add_argument("--role", choices=["serve", "work", "both"], default=argparse.SUPPRESS)
    parser.add_argument("--concurrency", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--quota", default=argparse.SUPPRESS)
    parser.add_argument("--grace", type=float, default=argparse.SUPPRESS)
    parser.add_argument("--allow-anonymous", action="store_true", default=argparse.SUPPRESS)
    settings: dict[str, Any] = vars(parser.parse_args(arguments))
    backend = CountingBackend(settings.pop("ledger"), charges=settings.pop("charges"), duration=settings.pop("duration"))
    asyncio.run(serve(ServerSettings(backend=backend, **settings), lambda server: print(server.endpoint, flush=True)))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
