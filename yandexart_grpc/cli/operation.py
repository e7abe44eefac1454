"""`yandexart operation`: what became of an operation that was submitted earlier, in whichever process."""

import time
from pathlib import Path
from typing import Unpack

import click

from yandexart_grpc import YandexArt, YandexArtError
from yandexart_grpc.cli.options import (
    Connection,
    connection_options,
    examples,
    image_options,
    json_option,
    present_options,
    require_no_json,
    verbose_option,
)
from yandexart_grpc.cli.output import echo, echo_json, error_fields, image_fields, reporting, show_image
from yandexart_grpc.cli.progress import progress
from yandexart_grpc.cli.target import Target
from yandexart_grpc.cli.terminal import present


@click.group(epilog=examples("yandexart operation get fbvEXAMPLE", "yandexart operation wait fbvEXAMPLE -o cat.jpeg"))
def operation() -> None:
    """Look at an earlier operation, wait for it, or cancel it."""


@operation.command(epilog=examples("yandexart operation get fbvEXAMPLE", "yandexart operation get fbvEXAMPLE --json"))
@click.argument("operation_id", metavar="ID")
@connection_options
@json_option
@verbose_option
def get(operation_id: str, as_json: bool, **connection: Unpack[Connection]) -> None:
    """Tell what has become of operation ID so far.

    An operation that failed is an answer too: the exit code is 0 unless the question fails.
    """
    with reporting(as_json=as_json), YandexArt(**connection) as art:
        handle = art.operation(operation_id)
        done, image, error = handle.done(), None, None
        if done:
            try:
                image = handle.result()
            except YandexArtError as ended:
                error = ended
        if as_json:
            echo_json(
                {
                    "operation_id": handle.id,
                    "done": done,
                    "image": image_fields(image) if image else None,
                    "error": error_fields(error) if error else None,
                }
            )
        elif error:
            echo(f"{type(error).__name__}: {error}")
        elif image:
            echo(f"operation {handle.id} is done: {image.width}x{image.height}, {len(image.data)} bytes")
        else:
            echo(f"operation {handle.id} is not done")


@operation.command(
    epilog=examples("yandexart operation wait fbvEXAMPLE -o cat.jpeg", "yandexart operation wait fbvEXAMPLE --show --timeout 600")
)
@click.argument("operation_id", metavar="ID")
@image_options
@present_options
@connection_options
@json_option
@verbose_option
def wait(
    operation_id: str,
    output: Path | None,
    force: bool,
    timeout: float,
    show: bool,
    open_it: bool,
    as_json: bool,
    **connection: Unpack[Connection],
) -> None:
    """Wait for the image of operation ID and save it."""
    if show:
        require_no_json()
    target = Target(output, force=force)
    with reporting(as_json=as_json):
        with progress(connection, output) as so_far, YandexArt(timeout=timeout, **connection) as art:
            handle = art.operation(operation_id)
            so_far.waiting(handle.id)
            target.check(handle.id)
            start = time.monotonic()
            image = handle.result()
            seconds = time.monotonic() - start
            so_far.saving()
            path = target.save(image)
        show_image(image, path, seconds, as_json=as_json)
        present(image, path, show=show, open_it=open_it)


@operation.command(epilog=examples("yandexart operation cancel fbvEXAMPLE"))
@click.argument("operation_id", metavar="ID")
@connection_options
@json_option
@verbose_option
def cancel(operation_id: str, as_json: bool, **connection: Unpack[Connection]) -> None:
    """Ask that the image of operation ID is not made. Being too late is not an error."""
    with reporting(as_json=as_json), YandexArt(**connection) as art:
        handle = art.operation(operation_id)
        cancelled = handle.cancel()
        if as_json:
            echo_json({"operation_id": handle.id, "cancelled": cancelled})
        else:
            echo(f"operation {handle.id} {'is' if cancelled else 'was not'} cancelled{'' if cancelled else ': it is too late'}")
