"""What a terminal showed over time, as one animated SVG: no script, no font and no host is needed to see it.

Each content of a line is drawn once, and shown where and while it stood there. Where nothing moves, or nobody wants it to, the
last screen is seen.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

import pyte
from pyte.screens import Char

WIDTH, HEIGHT, MARGIN = 8, 18, 12
"""Of a cell and around all of them, in pixels."""
REST = 4.0
"""Seconds for which the last screen stays before the film begins again."""
INK, PAPER, EDGE = "#24292f", "#f6f8fa", "#d0d7de"
PALETTE = {
    "black": INK,
    "red": "#cf222e",
    "green": "#1a7f37",
    "brown": "#7d4e00",
    "blue": "#0550ae",
    "magenta": "#8250df",
    "cyan": "#1b7c83",
    "white": "#6e7781",
}
"""The colours that programs call by name, on light paper."""
BLOCKS = {"█": (True, True), "▀": (True, False), "▄": (False, True)}
"""Characters that fill the upper and the lower half of a cell."""


class Shot(NamedTuple):
    """What the screen showed from an instant on."""

    at: float
    """Seconds since the film began."""
    lines: tuple[str, ...]
    """Each as SVG, with the upper left corner of the line as origin; those that are empty are empty."""


def shot(at: float, screen: pyte.Screen) -> Shot:
    """Take a picture of the screen."""
    return Shot(at, tuple(draw([screen.buffer[y][x] for x in range(screen.columns)]) for y in range(screen.lines)))


def draw(cells: Sequence[Char]) -> str:
    """A line as SVG: what is filled, one path for each colour, and on it the text, one piece for each style."""
    fills: dict[str, str] = {}
    for y, half in ((0, 0), (HEIGHT // 2, 1)):
        for column, length, colour in spans([filled(cell)[half] for cell in cells]):
            piece = f"M{column * WIDTH} {y}h{length * WIDTH}v{HEIGHT // 2}h-{length * WIDTH}z"
            fills[colour] = fills.get(colour, "") + piece
    drawn = "".join(f'<path fill="{colour}" d="{path}"/>' for colour, path in fills.items())
    for column, length, style in spans([inked(cell) for cell in cells]):
        text = escape("".join(cell.data for cell in cells[column : column + length]), quote=False)
        drawn += f'<text x="{column * WIDTH}" y="13" textLength="{length * WIDTH}"{style}>{text}</text>'
    return drawn


def spans(marks: Sequence[str | None]) -> Iterator[tuple[int, int, str]]:
    """Where equal marks stand side by side: column, length, mark. None is no mark."""
    column = 0
    for mark, group in groupby(marks):
        length = len(list(group))
        if mark is not None:
            yield column, length, mark
        column += length


def filled(cell: Char) -> tuple[str | None, str | None]:
    """The colours of the upper and the lower half of a cell, None where the paper is seen."""
    ink, paper = (cell.bg, cell.fg) if cell.reverse else (cell.fg, cell.bg)
    ground = None if paper == "default" else named(paper)
    upper, lower = BLOCKS.get(cell.data, (False, False))
    return named(ink) if upper else ground, named(ink) if lower else ground


def inked(cell: Char) -> str | None:
    """How the character of a cell is written, as attributes; None where there is none."""
    if cell.data == " " or cell.data in BLOCKS:
        return None
    ink = named(cell.bg if cell.reverse and cell.bg != "default" else cell.fg)
    grey = re.fullmatch(r"#(..)\1\1", ink)  # programs mean their greys for dark paper
    ink = f"#{255 - int(grey[1], 16):02x}" + 2 * f"{255 - int(grey[1], 16):02x}" if grey else ink
    return ("" if ink == INK else f' fill="{ink}"') + (' class="b"' if cell.bold else "")


def named(colour: str) -> str:
    """A colour of the screen for SVG; those of 24 bits are rounded, so that neighbours are one piece."""
    if re.fullmatch("[0-9a-f]{6}", colour):
        return "#" + "".join(f"{int(colour[i : i + 2], 16) // 8 * 8:02x}" for i in (0, 2, 4))
    return PALETTE.get(colour.removeprefix("bright"), INK)


def film(shots: Sequence[Shot], columns: int, title: str) -> str:
    """The SVG of what was shown. Lines that stay empty at the end are cut off."""
    length = shots[-1].at + REST
    used = [y for shot in shots for y, line in enumerate(shot.lines) if line]
    height = (max(used) + 1) * HEIGHT + 2 * MARGIN
    contents: dict[str, str] = {}
    moments: dict[tuple[float, float | None], str] = {}
    shown = ""
    for y in range(max(used) + 1):
        for content, begin, end in stays([(shot.at, shot.lines[y]) for shot in shots]):
            name = contents.setdefault(content, f"l{len(contents)}")
            moment = moments.setdefault((begin, end), f"t{len(moments)}")
            shown += f'<use href="#{name}" y="{y * HEIGHT}" class="{moment}{"" if end is None else " h"}"/>\n'
    style = "".join(f".{name}{{animation-name:{name}}}{keyframes(name, *moment, length)}\n" for moment, name in moments.items())
    drawn = "".join(f'<g id="{name}">{content}</g>\n' for content, name in contents.items())
    width = columns * WIDTH + 2 * MARGIN
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>{escape(title)}</title>
<style>
text{{font:13px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}}.b{{font-weight:bold}}
use{{animation:{length:.1f}s step-end infinite}}.h{{visibility:hidden}}
@media(prefers-reduced-motion){{use{{animation:none!important}}}}
{style}</style>
<defs>
{drawn}</defs>
<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6" fill="{PAPER}" stroke="{EDGE}"/>
<g transform="translate({MARGIN} {MARGIN})" fill="{INK}">
{shown}</g>
</svg>
"""


def stays(line: Sequence[tuple[float, str]]) -> Iterator[tuple[str, float, float | None]]:
    """What a line of the screen showed, from when, and until when, where that is not the end."""
    changes = [(content, next(group)[0]) for content, group in groupby(line, key=lambda moment: moment[1])]
    ends = [*(begin for _, begin in changes[1:]), None]
    for (content, begin), end in zip(changes, ends, strict=True):
        if content:
            yield content, begin, end


def keyframes(name: str, begin: float, end: float | None, length: float) -> str:
    """When something is seen."""
    marks = {0.0: "hidden", begin: "visible"} | ({} if end is None else {end: "hidden"})
    frames = "".join(f"{100 * at / length:.4g}%{{visibility:{state}}}" for at, state in marks.items())
    return f"@keyframes {name}{{{frames}}}"
