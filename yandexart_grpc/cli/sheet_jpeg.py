"""A contact sheet as one JPEG."""

import io
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from yandexart_grpc.cli.tiles import MARK, SIDE, UNKNOWN, Tile

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
"""Those with letters beyond Latin that a machine is likely to have."""
TEXT, GAP, LINE = 11, 16, 15
"""Pixels of letters, between tiles, and from one line to the next."""
GROUND, INK, SOFT = "#ffffff", "#1a1a1a", "#767676"


def sheet(tiles: Sequence[Tile]) -> bytes:
    """The JPEG of these tiles."""
    import PIL.Image  # slow to import, and needed by nobody else
    import PIL.ImageDraw

    font, columns = font_of()[0], math.ceil(math.sqrt(len(tiles)))
    smalls = [PIL.Image.open(io.BytesIO(tile.small)) for tile in tiles]
    texts = [list(_lines(tile, font)) for tile in tiles]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    tallest = [max(smalls[index].height for index in row) for row in rows]
    heights = [
        tall + GAP // 2 + LINE * max(len(texts[index]) for index in row) + GAP for tall, row in zip(tallest, rows, strict=True)
    ]
    whole = PIL.Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + sum(heights)), GROUND)
    pen = PIL.ImageDraw.Draw(whole)
    for index, small in enumerate(smalls):
        row, column = divmod(index, columns)
        x, y = GAP + column * (SIDE + GAP), GAP + sum(heights[:row]) + tallest[row]
        whole.paste(small, (x, y - small.height))
        for number, (line, colour) in enumerate(texts[index]):
            pen.text((x, y + GAP // 2 + LINE * number), line, colour, font)
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=85, comment=MARK)
    return file.getvalue()


def font_of() -> "tuple[Font, bool]":
    """The font of the text, and whether it has letters beyond Latin."""
    import PIL.ImageFont

    for name in FONTS:
        try:
            return PIL.ImageFont.truetype(name, TEXT), True
        except OSError:
            continue
    return PIL.ImageFont.load_default(TEXT), False


def _lines(tile: Tile, font: "Font") -> Iterator[tuple[str, str]]:
    """The text below a picture, with its colours."""
    for name, value in tile.facts().items():
        for line in _wrapped(f"{name}: {value}", font):
            yield line, SOFT if value == UNKNOWN or name == "again" else INK
    for line in _wrapped(tile.remark(), font):
        yield line, SOFT


def _wrapped(text: str, font: "Font") -> Iterator[str]:
    """Lines that are not wider than a tile, broken between words where that can be."""
    for paragraph in text.splitlines():
        while paragraph:
            fits = _fitting(paragraph, font)
            if fits < len(paragraph) and (space := paragraph.rfind(" ", 1, fits + 1)) > 0:
                fits = space
            yield paragraph[:fits]
            paragraph = paragraph[fits:].lstrip()


def _fitting(text: str, font: "Font") -> int:
    """How many letters fit into the width of a tile, at least one."""
    return bisect_right(range(1, min(len(text), SIDE) + 1), SIDE, key=lambda size: math.ceil(font.getlength(text[:size]))) or 1
