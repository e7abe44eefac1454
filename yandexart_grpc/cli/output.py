"""What the commands print: results to stdout, errors to stderr, as text for people or as one JSON object for programs."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import click

from yandexart_grpc import Image, YandexArtError
from yandexart_grpc.errors import row

NOT_SAVED, INTERRUPTED = 1, 130
"""The exit codes that belong to the command line; the rest are in the table of errors."""


class OutputError(YandexArtError):
    """What was asked for could not be written to where it should go."""


class Interrupted(YandexArtError):
    """Ctrl-C or SIGTERM."""


def exit_code(error: YandexArtError) -> int:
    """The exit code of an error."""
    match error:
        case OutputError():
            return NOT_SAVED
        case Interrupted():
            return INTERRUPTED
    return row(type(error)).exit


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Print an error instead of a traceback, and leave with its exit code."""
    try:
        yield
    except YandexArtError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        fail(Interrupted("interrupted"), as_json=as_json)


def fail(error: YandexArtError, *, as_json: bool) -> NoReturn:
    """Print the error, its notes as what to do next, and leave."""
    notes = getattr(error, "__notes__", [])
    with suppress(OSError, OutputError):  # the exit code is told even where nothing can be printed
        if as_json:
            echo_json(error_fields(error) | {"exit": exit_code(error), "next": " ".join(notes) or None}, err=True)
        else:
            for line in (f"Error: {error}", *notes):
                echo(line, err=True)
    sys.exit(exit_code(error))


def show_image(image: Image, path: Path, seconds: float, *, as_json: bool) -> None:
    """Print where an image was saved, and what it is."""
    if as_json:
        about = {"file": str(path), "operation_id": image.operation_id, "seed": image.seed, "prompt": image.prompt}
        echo_json(about | image_fields(image) | {"seconds": round(seconds, 3)})
    else:
        seed = "" if image.seed is None else f"seed {image.seed}, "
        echo(f"{path}: {image.width}x{image.height}, {seed}operation {image.operation_id}, {seconds:.1f} s")


def image_fields(image: Image) -> dict[str, object]:
    """What an image is."""
    return {
        "width": image.width,
        "height": image.height,
        "mime_type": image.mime_type,
        "model_version": image.model_version,
        "bytes": len(image.data),
    }


def error_fields(error: YandexArtError) -> dict[str, object]:
    """What an error tells."""
    return {
        "error": type(error).__name__,
        "message": str(error),
        "code": error.code.name if error.code else None,
        "details": error.details,
        "operation_id": error.operation_id,
        "request_id": error.request_id,
        "idempotency_key": error.idempotency_key,
        "retry_after": error.retry_after,
        "billed": error.billed,
        "resend": error.resend,
    }


def echo_json(fields: dict[str, object], *, err: bool = False) -> None:
    """Print one JSON object in ASCII, which any terminal and locale can take."""
    echo(json.dumps(fields), err=err)


def echo(text: str, *, err: bool = False) -> None:
    """Print one line. Raises `OutputError`, but leaves a closed pipe to click, which ends quietly."""
    try:
        click.echo(printable(text), err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail again at the end of the process, and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())
        raise OutputError(f"cannot print the answer: {error.strerror}") from error


def printable(text: str) -> str:
    """The text with line breaks and terminal commands made visible: what a server says may hold them."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
