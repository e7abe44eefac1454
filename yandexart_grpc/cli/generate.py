"""`yandexart generate`: from a prompt to a file."""

import sys
import time
from pathlib import Path
from typing import Unpack

import click

from yandexart_grpc import YandexArt
from yandexart_grpc.cli.options import (
    Connection,
    connection_options,
    demo_option,
    image_options,
    json_option,
    point_to_demo,
    request_options,
)
from yandexart_grpc.cli.output import reporting, show_image
from yandexart_grpc.cli.progress import progress
from yandexart_grpc.cli.target import Target
from yandexart_grpc.request import MIME_TYPE


@click.command()
@click.argument("prompt")
@image_options
@request_options
@click.option("--mime-type", default=MIME_TYPE, show_default=True, metavar="TYPE", help="The format of the image.")
@connection_options
@demo_option
@json_option
def generate(
    prompt: str,
    output: Path | None,
    force: bool,
    timeout: float,
    aspect_ratio: str | None,
    seed: int | None,
    model: str,
    mime_type: str,
    folder_id: str | None,
    demo: bool,
    as_json: bool,
    **connection: Unpack[Connection],
) -> None:
    """Make an image of PROMPT and save it. When PROMPT is - it is read from stdin.

    The credential comes from the environment only: YC_API_KEY, YC_SERVICE_ACCOUNT_KEY_FILE, and what else the README lists.
    """
    if demo:
        point_to_demo(connection)
    target = Target(output, force=force)
    with reporting(as_json=as_json):
        if prompt == "-":
            prompt = _stdin()
        with (
            progress(connection["endpoint"], connection["store"]) as so_far,
            YandexArt(folder_id=folder_id, timeout=timeout, **connection) as art,
        ):
            target.check()
            so_far.submitting()
            start = time.monotonic()
            operation = art.submit(prompt, model=model, aspect_ratio=aspect_ratio, seed=seed, mime_type=mime_type)
            so_far.waiting(operation.id)
            image = operation.result()
            seconds = time.monotonic() - start
            so_far.saving()
            path = target.save(image)
        show_image(image, path, seconds, as_json=as_json)


def _stdin() -> str:
    """What stdin holds, with bytes that are no text passed on for the client to name."""
    data = sys.stdin.buffer.read() if sys.stdin else b""
    return data.decode(errors="surrogateescape").strip()
