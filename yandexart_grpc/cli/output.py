"""What the commands print: results to stdout, errors to stderr, as text for people or as one JSON object for programs."""

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import click

from yandexart_grpc import (
    ConfigurationError,
    ContentRefused,
    Image,
    InvalidRequest,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    YandexArtError,
)
from yandexart_grpc.errors import row

NOT_SAVED, INTERRUPTED = 1, 130
"""The exit codes that belong to the command line; the rest are in the table of errors."""
VERBOSE = "yandexart_grpc.verbose"
"""Under which name click keeps that --verbose was given."""
SET = {
    "credentials": "Set YC_API_KEY, or one of the others; `generate --demo` needs none. `yandexart doctor` tells what is set.",
    "model_uri": "Give --folder-id, or set YC_FOLDER_ID.",
}
"""What to set where an error names one of these."""
PAID = {"no": "Nothing was paid for it.", "yes": "It was paid for.", "unknown": "It may have been paid for."}
"""What `billed` says of a picture, in words."""


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
    """Print the error and what to do next, and leave."""
    with suppress(OSError, OutputError):  # the exit code is told even where nothing can be printed
        if as_json:
            echo_json(failure_fields(error), err=True)
        else:
            tell(error)
    sys.exit(exit_code(error))


def tell(error: YandexArtError) -> None:
    """Print the error for people, what to do next on a line of its own, and with --verbose all that is known of it."""
    for line in (f"Error: {error}", *next_steps(error), *(_rest(error) if is_verbose() else ())):
        echo(line, err=True)


def is_verbose() -> bool:
    """Whether --verbose was given."""
    return bool(click.get_current_context().meta.get(VERBOSE))


def next_steps(error: YandexArtError) -> list[str]:
    """What a person can do about an error: its notes, or what is true of all errors of its kind."""
    if notes := getattr(error, "__notes__", None):
        return list(notes)
    again = "Running the command again orders another picture."
    match error:
        case Unauthenticated() | PermissionDenied():
            return ["`yandexart doctor` tells which credential is used and what it may do, and buys nothing."]
        case NotFound():
            return ["Give the --endpoint where it was ordered; results are kept for about three days."]
        case Unavailable() if error.resend == "safe" or error.operation_id:
            return ["It is safe to run the command again. `yandexart doctor` tells which step fails."]
        case QuotaExceeded() if error.resend == "safe" or error.operation_id:
            soon = "" if error.retry_after is None else f" in {math.ceil(error.retry_after)} s"
            return [f"It is safe to run the command again{soon}."]
        case ContentRefused():
            return [f"{PAID[error.billed]} Change the prompt: this one is refused again."]
        case ConfigurationError() | InvalidRequest() if error.code is None:
            return [step for name, step in SET.items() if f"{name}: " in str(error)]
        case InvalidRequest() if error.billed == "no":
            return ["Nothing was ordered: mend what is named, and run the command again."]
        case OperationFailed() | OperationCancelled():
            return [f"{PAID[error.billed]} {again}"]
        case OutcomeUnknown():
            return ["Running the command again may pay for a second picture."]
        case ProtocolError():
            return ["`yandexart doctor` tells whether a server of images is there, and --verbose what this one said."]
    return []


def _rest(error: YandexArtError) -> Iterator[str]:
    """All that is known of an error beside its message, a line each."""
    known = error_fields(error) | {"client_request_id": error.client_request_id}
    for name, value in known.items():
        if name not in ("error", "message") and value is not None:
            yield f"  {name}: {value}"
    cause = error.__cause__
    while cause is not None:
        yield f"  caused by {type(cause).__name__}: {cause}"
        cause = cause.__cause__


def show_image(image: Image, path: Path, seconds: float, *, as_json: bool) -> None:
    """Print where an image was saved, and what it is."""
    if as_json:
        echo_json(saved_fields(image, path, seconds))
    else:
        seed = "" if image.seed is None else f"seed {image.seed}, "
        echo(f"{path}: {image.width}x{image.height}, {seed}operation {image.operation_id}, {seconds:.1f} s")


def saved_fields(image: Image, path: Path, seconds: float) -> dict[str, object]:
    """Where an image was saved, and what it is."""
    about = {"file": str(path), "operation_id": image.operation_id, "seed": image.seed, "prompt": image.prompt}
    return about | image_fields(image) | {"seconds": round(seconds, 3)}


def image_fields(image: Image) -> dict[str, object]:
    """What an image is."""
    return {
        "width": image.width,
        "height": image.height,
        "mime_type": image.mime_type,
        "model_version": image.model_version,
        "bytes": len(image.data),
        "request_id": image.request_id,
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


def failure_fields(error: YandexArtError) -> dict[str, object]:
    """What an error tells, with the exit code and what to do next."""
    return error_fields(error) | {"exit": exit_code(error), "next": " ".join(next_steps(error)) or None}


def echo_json(fields: dict[str, object], *, err: bool = False) -> None:
    """Print one JSON object in ASCII, which any terminal and locale can take."""
    echo(json.dumps(fields), err=err)


def echo(text: str, *, err: bool = False) -> None:
    """Print one line. Raises `OutputError`, but leaves a closed pipe to click, which ends quietly."""
    put(f"{printable(text)}\n", err=err)


def put(text: str, *, err: bool = False) -> None:
    """Print a text as it is, with the terminal commands in it. Raises what `echo` does."""
    try:
        click.echo(text, err=err, nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail again at the end of the process, and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())
        raise OutputError(f"cannot print the answer: {error.strerror}") from error


def printable(text: str) -> str:
    """The text with line breaks and terminal commands made visible: what a server says may hold them."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
