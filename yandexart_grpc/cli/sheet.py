"""`yandexart sheet`: the pictures of a folder on one page."""

from pathlib import Path

import click

from yandexart_grpc.cli.options import examples, json_option, verbose_option
from yandexart_grpc.cli.output import OutputError, echo, echo_json, reporting
from yandexart_grpc.cli.sheet_jpeg import font_of
from yandexart_grpc.cli.sheet_jpeg import sheet as drawn
from yandexart_grpc.cli.sheet_page import page
from yandexart_grpc.cli.tiles import tiles


@click.command(epilog=examples("yandexart sheet pictures", "yandexart sheet pictures -o cats --force"))
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="NAME",
    help="The sheet is NAME.html and NAME.jpeg.  [default: DIR/sheet]",
)
@click.option("--force", is_flag=True, help="Replace them if they are there.")
@json_option
@verbose_option
def sheet(folder: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Make a contact sheet of the pictures in DIR: an HTML file that needs no network, and a JPEG.

    Each picture has its prompt, seed, model, the id of its operation and the command that makes it again, as far as the file
    tells it, or the manifest of a batch. What is not known is said to be so. DIR is a folder of `yandexart batch`, or any with
    pictures of `yandexart generate`.
    """
    base = output or folder / "sheet"
    with reporting(as_json=as_json):
        files = {form: base.with_name(f"{base.name}.{form}") for form in ("html", "jpeg")}
        for file in files.values():
            if file.exists() and not force:
                raise OutputError(f"{file}: it exists already; --force replaces it")
        found = tiles(folder)
        title = f"Contact sheet of {folder.resolve().name}"
        try:
            files["html"].write_text(page(found, title, files["html"]), encoding="utf-8", errors="replace")
            files["jpeg"].write_bytes(drawn(found))
        except OSError as error:
            raise OutputError(f"{error.filename or base}: {error.strerror}") from error
        said = {form: str(file) for form, file in files.items()}
        if as_json:
            echo_json(said | {"pictures": len(found)})
        else:
            echo(f"{said['html']} and {said['jpeg']}: {len(found)} pictures")
        if not font_of()[1] and not all("".join(tile.facts().values()).isascii() for tile in found):
            echo(f"{said['jpeg']} has boxes for letters beyond Latin: no font with them was found. The HTML has them.", err=True)
