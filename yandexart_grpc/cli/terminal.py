"""A picture in the terminal: by the graphics protocol of kitty or of iTerm2 where the terminal has one of them, else in half
blocks, which every terminal with colours has.

No library does it: textual-image needs Python 3.12 and knows nothing of iTerm2, term-image forbids today's Pillow.
"""

import base64
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from yandexart_grpc import Image
from yandexart_grpc.cli.output import echo, put

if TYPE_CHECKING:
    import PIL.Image
    from rich.console import Console

CHUNK = 4096
"""Characters of Base64 that kitty takes at a time."""
CELL = (16, 32)
"""Pixels that a cell has at most: a picture of more shows nothing more."""
WIDEST = 80
"""Columns that a picture takes at most."""
BELOW = 3
"""Lines that are left for what follows the picture."""


class Means(Enum):
    """How a terminal is told to show a picture."""

    KITTY = auto()
    """https://sw.kovidgoyal.net/kitty/graphics-protocol/"""
    ITERM2 = auto()
    """https://iterm2.com/documentation-images.html"""
    BLOCKS = auto()
    """A cell is an upper half block: two pixels, one in the colour of the text and one in that of the ground."""


class Size(NamedTuple):
    """Cells of a terminal. One is about twice as high as it is wide."""

    columns: int
    rows: int


def means_of(environ: Mapping[str, str]) -> Means:
    """What a terminal is told by, from the variables that it sets."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or environ.get("STY") or term.startswith(("screen", "tmux")):
        return Means.BLOCKS  # a multiplexer lets no picture through
    if environ.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return Means.KITTY
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return Means.ITERM2
    return Means.BLOCKS


def obstacle(environ: Mapping[str, str]) -> str | None:
    """Why stdout can show no picture, where it cannot."""
    if not (sys.stdout and sys.stdout.isatty()):
        return "stdout is not a terminal"
    if means_of(environ) is Means.BLOCKS:
        console = _console(io.StringIO(), environ)
        if console.color_system is None or console.no_color:
            return "this terminal has no colours, or NO_COLOR forbids them"
        try:
            "▀".encode(sys.stdout.encoding)
        except UnicodeEncodeError:
            return f"the encoding of this terminal, {sys.stdout.encoding}, has no half blocks"
    return None


def present(image: Image, path: Path, *, show: bool, open_it: bool) -> None:
    """Show the picture, and open its file, if that is asked for. What cannot be done is told: the picture is saved already."""
    if show:
        _show(image, path)
    if open_it and click.launch(str(path.resolve())):
        echo(f"{path} is not opened: no program for that was found.", err=True)


def _show(image: Image, path: Path) -> None:
    reason = obstacle(os.environ)
    if reason is None:
        try:
            drawn = drawing(image, os.environ, shutil.get_terminal_size())
        except OSError as error:  # what the service made was decoded by nobody before
            reason = str(error)
        else:
            put(drawn)
    if reason is not None:
        echo(f"{path} is not shown: {reason}.", err=True)


def drawing(image: Image, environ: Mapping[str, str], terminal: os.terminal_size) -> str:
    """What shows the picture when it is printed, as large as the terminal lets it be. Raises `OSError` where it is broken."""
    size = fitting(image.width, image.height, Size(min(terminal.columns, WIDEST), max(terminal.lines - BELOW, 1)))
    match means_of(environ):
        case Means.KITTY:
            return "".join([*kitty(image.open(), size), "\n"])
        case Means.ITERM2:
            return f"{iterm2(image.data, size)}\n"
        case Means.BLOCKS:
            return blocks(image.open(), size, environ)


def fitting(width: int, height: int, room: Size) -> Size:
    """The cells that a picture of so many pixels takes in the room."""
    columns = min(room.columns, max(1, room.rows * 2 * width // height))
    return Size(columns, min(room.rows, max(1, round(columns * height / width / 2))))


def kitty(picture: "PIL.Image.Image", size: Size) -> Iterator[str]:
    """The commands of kitty's protocol, which takes PNG in pieces. q=2: nothing is answered."""
    picture.thumbnail((size.columns * CELL[0], size.rows * CELL[1]))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG")
    data = base64.standard_b64encode(file.getvalue()).decode()
    head = f"a=T,f=100,q=2,c={size.columns},r={size.rows},"
    for start in range(0, len(data), CHUNK):
        more = int(start + CHUNK < len(data))
        yield f"\x1b_G{head}m={more};{data[start : start + CHUNK]}\x1b\\"
        head = ""


def iterm2(data: bytes, size: Size) -> str:
    """The command of iTerm2's protocol, which takes a file as it is."""
    about = f"inline=1;size={len(data)};width={size.columns};height={size.rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={about}:{base64.standard_b64encode(data).decode()}\a"


def blocks(picture: "PIL.Image.Image", size: Size, environ: Mapping[str, str]) -> str:
    """Lines of half blocks, in as many colours as the terminal has."""
    from rich.color import Color
    from rich.segment import Segment, Segments
    from rich.style import Style

    pixels = picture.convert("RGB").resize((size.columns, size.rows * 2)).tobytes()

    def colour(column: int, row: int) -> Color:
        start = 3 * (row * size.columns + column)
        return Color.from_rgb(*pixels[start : start + 3])

    cells = []
    for row in range(0, size.rows * 2, 2):
        columns = range(size.columns)
        cells += [Segment("▀", Style(color=colour(column, row), bgcolor=colour(column, row + 1))) for column in columns]
        cells.append(Segment.line())
    file = io.StringIO()
    _console(file, environ).print(Segments(cells), end="")
    return file.getvalue()


def _console(file: io.StringIO, environ: Mapping[str, str]) -> "Console":
    """A console of rich that knows the colours of this terminal, and writes into a text."""
    from rich.console import Console

    return Console(file=file, force_terminal=True, width=WIDEST + 1, legacy_windows=False, _environ=environ)
