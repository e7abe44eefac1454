"""`yandexart generate`: from a prompt to a file, or to several."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Unpack

import click

from yandexart_grpc import YandexArt, YandexArtError
from yandexart_grpc.cli.options import (
    Connection,
    connection_options,
    demo_option,
    examples,
    image_options,
    json_option,
    metadata_option,
    point_to_demo,
    present_options,
    request_options,
    require_no_json,
    verbose_option,
)
from yandexart_grpc.cli.output import (
    INTERRUPTED,
    Interrupted,
    echo,
    echo_json,
    exit_code,
    fail,
    failure_fields,
    reporting,
    saved_fields,
    show_image,
    tell,
)
from yandexart_grpc.cli.pictures import Picture, Saved, make
from yandexart_grpc.cli.progress import Progress, display
from yandexart_grpc.cli.target import Target
from yandexart_grpc.cli.terminal import present
from yandexart_grpc.request import MIME_TYPE, ImageOptions, ImageRequest

MOST = 100
"""How many pictures one command makes; `yandexart batch` makes any number, and goes on after a crash."""


@click.command(
    epilog=examples(
        'yandexart generate "a red cat" --demo --show',
        'yandexart generate "a red cat" -o cat.jpeg --aspect-ratio 16:9 --seed 42',
        'yandexart generate "a red cat" -n 4 -o cat.jpeg --seed 42',
        'echo "a red cat" | yandexart generate - --json',
    )
)
@click.argument("prompt")
@image_options
@click.option(
    "-n",
    "--number",
    type=click.IntRange(1, MOST),
    default=1,
    show_default=True,
    metavar="N",
    help=f"How many images to make, up to {MOST}: cat-1.jpeg, cat-2.jpeg and so on. With --seed S they have the seeds S, S+1 "
    "and so on, without it random ones.",
)
@request_options
@click.option("--mime-type", default=MIME_TYPE, show_default=True, metavar="TYPE", help="The format of the image.")
@metadata_option
@present_options
@connection_options
@demo_option
@json_option
@verbose_option
def generate(
    prompt: str,
    output: Path | None,
    force: bool,
    timeout: float,
    number: int,
    aspect_ratio: str | None,
    seed: int | None,
    model: str,
    mime_type: str,
    folder_id: str | None,
    no_metadata: bool,
    show: bool,
    open_it: bool,
    demo: bool,
    as_json: bool,
    **connection: Unpack[Connection],
) -> None:
    """Make an image of PROMPT and save it. When PROMPT is - it is read from stdin.

    The credential comes from the environment only: YC_API_KEY, YC_SERVICE_ACCOUNT_KEY_FILE, and what else docs/credentials.md
    lists.

    Several images are ordered before the first is waited for. The first that cannot be ordered ends the ordering, whatever
    was ordered is saved, and the exit code is that of the first error. --json then prints one object with images,
    errors, how many were not ordered, and the exit code.
    """
    if demo:
        point_to_demo(connection)
    if show:
        require_no_json()
    pictures, interrupted = list[Picture](), False
    with reporting(as_json=as_json):
        if prompt == "-":
            prompt = _stdin()
        try:
            with display() as shown, YandexArt(folder_id=folder_id, timeout=timeout, **connection) as art:
                for index in range(number):
                    drawn = None if seed is None else seed + index
                    options = ImageOptions(model=model, aspect_ratio=aspect_ratio, seed=drawn, mime_type=mime_type)
                    file = output if output is None or number == 1 else output.with_stem(f"{output.stem}-{index + 1}")
                    target, so_far = Target(file, force=force), Progress(shown, connection, file)
                    request = ImageRequest.build(prompt, folder_id=art._settings.folder_id, **options)
                    pictures.append(Picture(request, target, so_far, metadata=not no_metadata))
                make(art, pictures, timeout)
        except KeyboardInterrupt:
            interrupted = True
            for picture in pictures:
                picture.interrupt()
        saved = [picture.ended for picture in pictures if isinstance(picture.ended, Saved)]
        errors = [picture.ended for picture in pictures if isinstance(picture.ended, YandexArtError)]
        if interrupted and len(saved) < number and not any(isinstance(error, Interrupted) for error in errors):
            errors.append(Interrupted("interrupted"))
        if number == 1 and errors:
            fail(errors[0], as_json=as_json)
        if number == 1 or not as_json:
            for one in saved:
                show_image(one.image, one.path, one.seconds, as_json=as_json)
                present(one.image, one.path, show=show, open_it=open_it)
        if number > 1:
            left = number - sum(picture.ended is not None for picture in pictures)
            _leave(number, saved, errors, left, as_json=as_json)


def _leave(number: int, saved: Sequence[Saved], errors: Sequence[YandexArtError], left: int, *, as_json: bool) -> NoReturn:
    """Print what several pictures have come to beside those that were saved, and leave with the exit code that says it."""
    code = next((INTERRUPTED for error in errors if isinstance(error, Interrupted)), exit_code(errors[0]) if errors else 0)
    if as_json:
        images = [saved_fields(one.image, one.path, one.seconds) for one in saved]
        told = [failure_fields(error) for error in errors]
        echo_json({"images": images, "errors": told, "not_ordered": left, "exit": code})
    else:
        for error in errors:
            tell(error)
        if errors:
            echo(f"{len(saved)} of {number} images are saved, and {left} were not ordered.", err=True)
    sys.exit(code)


def _stdin() -> str:
    """What stdin holds, with bytes that are no text passed on for the client to name."""
    data = sys.stdin.buffer.read() if sys.stdin else b""
    return data.decode(errors="surrogateescape").strip()
