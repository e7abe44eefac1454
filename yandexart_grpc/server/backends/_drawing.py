"""The demo backend's art: what a picture shows.

Decides the palette and the motif (hills or cut paper) and draws them; size, caption and grain are `demo`'s business.
Every random choice comes from the one `random.Random` passed in, and neither palette nor motif depends on the size, so a
picture is the same in every process and keeps its character when only its ratio changes.

The numbers inside the motifs were chosen by eye. Lengths are in units of the picture's shorter side; lightness, chroma and
hue are OKLCH's (`_colour`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from yandexart_grpc.server.backends._colour import Colour, Palette, palette

Point = tuple[float, float]
Box = tuple[int, int, int, int]


def paint(size: tuple[int, int], rng: Random) -> Image.Image:
    """Paint a picture of that size (sides of 64 pixels and more); the same `rng` paints the same picture."""
    canvas = Canvas(Image.new("RGB", size), rng, palette(rng))
    motif = rng.choice((_hills, _hills, _paper))
    motif(canvas)
    return canvas.image


# ── drawing tools ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Stencil:
    """A mask for part of a picture, drawn at twice its size and halved: that is what makes its edges smooth."""

    def __init__(self, box: Box) -> None:
        """Cover `box`; everything drawn is in the coordinates of the whole picture."""
        self.box = box
        self._sheet = Image.new("L", (2 * (box[2] - box[0]), 2 * (box[3] - box[1])))
        self._pen = ImageDraw.Draw(self._sheet)

    def polygon(self, points: Sequence[Point], alpha: int = 255) -> None:
        left, top = self.box[:2]
        self._pen.polygon([(2 * (x - left), 2 * (y - top)) for x, y in points], fill=alpha)

    def disc(self, centre: Point, radius: float, alpha: int = 255) -> None:
        x, y = 2 * (centre[0] - self.box[0]), 2 * (centre[1] - self.box[1])
        self._pen.ellipse((x - 2 * radius, y - 2 * radius, x + 2 * radius, y + 2 * radius), fill=alpha)

    def mask(self) -> Image.Image:
        return self._sheet.reduce(2)


@dataclass(frozen=True)
class Canvas:
    """A picture being drawn."""

    image: Image.Image
    rng: Random
    palette: Palette

    @property
    def unit(self) -> int:
        """The shorter side, in pixels."""
        return min(self.image.size)

    def fill(self, stencil: Stencil, paint: Colour | Image.Image) -> None:
        """Paint through a stencil, with a colour or with an image of the stencil's size."""
        self.image.paste(paint, stencil.box, stencil.mask())

    def stamp(self, mask: Image.Image, paint: Colour, centre: Point) -> None:
        """Paint through a mask centred at a point."""
        self.image.paste(paint, (round(centre[0] - mask.width / 2), round(centre[1] - mask.height / 2)), mask)


def _gradient(size: tuple[int, int], colours: Sequence[Colour]) -> Image.Image:
    """A vertical gradient, from the first colour at the top to the last at the bottom."""
    strip = Image.frombytes("RGB", (1, len(colours)), bytes(channel for colour in colours for channel in colour))
    column = strip.resize((1, size[1]), Image.Resampling.BICUBIC)
    return column.resize(size, Image.Resampling.NEAREST)


def _glow(radius: float, strength: float, falloff: float) -> Image.Image:
    """A round mask that fades from its centre to nothing; the steeper, the larger `falloff`."""
    # Pillow's radial gradient reaches 255 in the corners, thus 180 on the inscribed circle.
    table = [round(255 * strength * max(0.0, 1 - value / 180) ** falloff) for value in range(256)]
    side = max(2, round(2 * radius))
    return Image.radial_gradient("L").point(table).resize((side, side), Image.Resampling.BILINEAR)


def _waves(rng: Random, octaves: int, *, peaked: bool = False) -> Callable[[float], float]:
    """A random smooth curve with values from -1 to 1; a peaked one has summits."""
    terms = [(3 * rng.uniform(0.7, 1.3) * 1.9**k, rng.uniform(0, math.tau), 2.1**-k) for k in range(octaves)]
    total = sum(height for _, _, height in terms)

    def curve(x: float) -> float:
        sines = ((height, math.sin(pace * x + phase)) for pace, phase, height in terms)
        return sum(height * (1 - 2 * abs(sine) if peaked else sine) for height, sine in sines) / total

    return curve


# ── motif: hills ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _hills(canvas: Canvas) -> None:
    """Ridges fading into haze under a low sun or a moon, sometimes beyond a lake."""
    rng, unit = canvas.rng, canvas.unit
    lake = rng.random() < 0.4
    horizon = round(canvas.image.height * rng.uniform(0.5, 0.62))
    _sky(canvas, horizon)
    _sun(canvas, (canvas.image.width * rng.uniform(0.22, 0.78), horizon - unit * rng.uniform(0.03, 0.3)))
    count = rng.randrange(4, 7)
    for index in range(count):
        _ridge(canvas, horizon, index / (count - 1), lake=lake)
    if lake:
        _lake(canvas, horizon)
    if not canvas.palette.night:
        _birds(canvas, horizon)


def _sky(canvas: Canvas, horizon: int) -> None:
    tone, steps = canvas.palette.tone, [step / 7 for step in range(8)]
    if canvas.palette.night:
        colours = [tone(t, 0.22 + 0.42 * t**1.6, 0.075 + 0.05 * t) for t in steps]
    else:
        colours = [tone(t, 0.60 + 0.32 * t, 0.115 - 0.02 * t) for t in steps]
    canvas.image.paste(colours[-1], (0, 0, *canvas.image.size))
    canvas.image.paste(_gradient((canvas.image.width, horizon), colours))
    if canvas.palette.night:
        _stars(canvas, horizon)


def _stars(canvas: Canvas, horizon: int) -> None:
    rng = canvas.rng
    stars = Stencil((0, 0, canvas.image.width, horizon))
    for _ in range(110):
        down = rng.random()
        where = rng.uniform(0, canvas.image.width), horizon * down
        stars.disc(where, canvas.unit * rng.uniform(0.0005, 0.0019), alpha=round(rng.uniform(90, 255) * (1 - 0.9 * down)))
    canvas.fill(stars, (255, 255, 255))


def _sun(canvas: Canvas, centre: Point) -> None:
    shine, radius = canvas.palette.shine, canvas.unit * canvas.rng.uniform(0.045, 0.1)
    canvas.stamp(_glow(9 * radius, 0.8, 3.2), shine(0.75 if canvas.palette.night else 0.9, 0.1), centre)
    canvas.stamp(_glow(3 * radius, 0.6, 2.2), shine(0.96, 0.07), centre)
    x, y, reach = round(centre[0]), round(centre[1]), math.ceil(radius) + 2
    stencil = Stencil((x - reach, y - reach, x + reach, y + reach))
    stencil.disc(centre, radius)
    canvas.fill(stencil, shine(0.975, 0.04))


def _ridge(canvas: Canvas, horizon: int, near: float, *, lake: bool) -> None:
    """One ridge: `near` is 0 for the farthest, 1 for the nearest."""
    rng, unit, (width, height) = canvas.rng, canvas.unit, canvas.image.size
    peaked = rng.random() < 0.6 - 0.5 * near
    curve = _waves(rng, 5 if peaked else 3, peaked=peaked)
    pace = rng.uniform(0.8, 1.3) * (1.4 - 0.6 * near) / unit
    if lake:
        foot, base, rise = horizon, horizon - unit * (0.18 - 0.16 * near), unit * (0.12 - 0.10 * near)
    else:
        foot, base, rise = (
            height,
            horizon + (0.93 * height - horizon) * near**1.25 - 0.03 * unit,
            unit * (0.09 - 0.035 * near),
        )
    line = [(float(x), base - rise * curve(x * pace)) for x in range(-4, width + 8, 4)]
    top = max(0, math.floor(min(y for _, y in line) - 0.1 * unit))
    stencil = Stencil((0, top, width, foot))
    stencil.polygon([(-4, foot + 1), *line, (width + 8, foot + 1)])
    if near == 1 and not lake and rng.random() < 0.75:
        _trees(canvas, stencil, line)
    canvas.fill(stencil, _gradient((width, foot - top), _slope(canvas.palette, near, lake=lake)))


def _slope(palette: Palette, near: float, *, lake: bool) -> list[Colour]:
    """The colours of a ridge from its line down: darker the nearer it is, with haze at its foot."""
    haze, dark = (0.66, 0.3 if lake else 0.17) if palette.night else (0.9, 0.5 if lake else 0.3)
    crest = (haze - 0.06) * (1 - near) + dark * near
    foot = crest + (haze - crest) * (0.45 - 0.3 * near)
    return [
        palette.tone(1 - 0.9 * near, crest, 0.07 + 0.03 * near),
        palette.tone(1 - 0.7 * near, (crest + foot) / 2, 0.065 + 0.025 * near),
        palette.tone(1 - 0.6 * near, foot, 0.06 + 0.02 * near),
    ]


def _trees(canvas: Canvas, stencil: Stencil, line: Sequence[Point]) -> None:
    """Add firs to the ridge `line`: four triangles each."""
    rng, unit = canvas.rng, canvas.unit
    spacing = unit * rng.uniform(0.018, 0.05)
    x = 0.0
    while (x := x + spacing * rng.uniform(0.3, 2.2)) < canvas.image.width:
        ground = line[round((x + 4) / 4)][1] + 0.014 * unit
        height = unit * rng.uniform(0.03, 0.085)
        for tier in range(4):
            bottom, half = ground - height * (0.05 + 0.23 * tier), height * (0.24 - 0.053 * tier)
            stencil.polygon([(x - half, bottom), (x, bottom - 0.36 * height), (x + half, bottom)])


def _lake(canvas: Canvas, horizon: int) -> None:
    """Mirror what stands above the horizon in still water, with ripples of light."""
    rng, unit, width, palette = canvas.rng, canvas.unit, canvas.image.width, canvas.palette
    depth = canvas.image.height - horizon
    above = canvas.image.crop((0, horizon - depth, width, horizon)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    water = above.filter(ImageFilter.BoxBlur((0.012 * unit, 0.002 * unit)))
    murk = Image.linear_gradient("L").point([round(40 + 0.5 * value) for value in range(256)]).resize(water.size)
    water.paste(palette.tone(0.15, 0.15 if palette.night else 0.3, 0.07), (0, 0, *water.size), murk)
    canvas.image.paste(water, (0, horizon))
    ripples = Stencil((0, horizon, width, canvas.image.height))
    for _ in range(46):
        near = rng.random() ** 1.5
        x, y = width * rng.uniform(-0.1, 1.1), horizon + 3 + near * depth
        half, thick = unit * rng.uniform(0.02, 0.1) * (0.4 + near), unit * (0.0006 + 0.0016 * near)
        ripples.polygon([(x - half, y), (x, y - thick), (x + half, y), (x, y + thick)], alpha=90)
    canvas.fill(ripples, palette.shine(0.95, 0.04))


def _birds(canvas: Canvas, horizon: int) -> None:
    rng, unit = canvas.rng, canvas.unit
    left, top = round(canvas.image.width * rng.uniform(0.1, 0.7)), round(horizon * rng.uniform(0.15, 0.5))
    flock = Stencil((left, top, left + round(0.3 * unit), top + round(0.2 * unit)))
    for _ in range(rng.randrange(0, 8)):
        x, y = left + unit * rng.uniform(0.03, 0.27), top + unit * rng.uniform(0.03, 0.17)
        span = unit * rng.uniform(0.006, 0.013)
        lift, body = span * rng.uniform(0.3, 0.7), 0.2 * span
        upper = [(-1.3, 0.6 * lift), (-0.5, lift), (0.0, 0.0), (0.5, lift), (1.3, 0.6 * lift)]
        lower = [(0.5, lift - body), (0.0, -1.1 * body), (-0.5, lift - body)]
        flock.polygon([(x + span * across, y - up) for across, up in upper + lower], alpha=190)
    canvas.fill(flock, canvas.palette.tone(0.1, 0.35, 0.06))


# ── motif: cut paper ──────────────────────────────────────────────────────────────────────────────────────────────────


def _paper(canvas: Canvas) -> None:
    """Sheets of paper with ever wider holes, stacked over a light; each throws its shadow on the one below."""
    rng, unit, palette = canvas.rng, canvas.unit, canvas.palette
    width, height = canvas.image.size
    centre = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.38, 0.62)
    count = rng.randrange(5, 8)
    reach = 0.46 * math.hypot(width, height)
    holes = [_blob(rng, centre, unit * 0.13 + (reach - unit * 0.13) * (k / (count - 1)) ** 1.15) for k in range(count)]
    canvas.image.paste(palette.shine(0.95, 0.06), (0, 0, width, height))
    for index, hole in enumerate(holes):
        # What lies outside the next hole will be covered by the next sheet.
        seen = _bounds(holes[index + 1], canvas.image.size, margin=1) if index + 1 < count else (0, 0, width, height)
        _sheet(canvas, hole, seen, index / (count - 1))


def _sheet(canvas: Canvas, hole: Sequence[Point], seen: Box, near: float) -> None:
    """Lay one sheet: `near` is 0 for the lowest, 1 for the topmost."""
    palette, unit = canvas.palette, canvas.unit
    left, top, right, bottom = seen
    _shadow(canvas, hole, _bounds(hole, canvas.image.size, margin=0.05 * unit), near)
    light = 0.87 - (0.55 if palette.night else 0.37) * near
    chroma = 0.07 + 0.06 * math.sin(math.pi * near)
    stencil = Stencil(seen)
    stencil.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])
    stencil.polygon(hole, alpha=0)
    colours = [palette.tone(1 - near, light + 0.03, chroma), palette.tone(1 - 0.9 * near, light - 0.03, chroma)]
    canvas.fill(stencil, _gradient((right - left, bottom - top), colours))


def _shadow(canvas: Canvas, hole: Sequence[Point], box: Box, near: float) -> None:
    """Throw the shadow of a sheet through its hole; a quarter of the size is enough for what is blurred."""
    left, top, right, bottom = box
    mask = Image.new("L", ((right - left) // 4 + 1, (bottom - top) // 4 + 1), 130)
    drop = 0.006 * canvas.unit
    ImageDraw.Draw(mask).polygon([((x - left) / 4, (y - top + drop) / 4) for x, y in hole], fill=0)
    blurred = mask.filter(ImageFilter.GaussianBlur(canvas.unit * (0.0055 + 0.003 * near)))
    dark = canvas.palette.tone(1 - near, 0.18, 0.06)
    canvas.image.paste(dark, box, blurred.resize((right - left, bottom - top), Image.Resampling.BILINEAR))


def _blob(rng: Random, centre: Point, radius: float) -> list[Point]:
    """A circle that wobbles."""
    terms = [(k, rng.uniform(0, math.tau), 0.17 * rng.uniform(0.3, 1) / k) for k in range(2, 6)]
    angles = [math.tau * step / 120 for step in range(120)]
    reach = [radius * (1 + sum(size * math.sin(k * angle + phase) for k, phase, size in terms)) for angle in angles]
    return [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in zip(reach, angles, strict=True)]


def _bounds(points: Sequence[Point], size: tuple[int, int], *, margin: float) -> Box:
    """The part of a picture of that size that the points span, and the margin around it."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top = max(0, math.floor(min(xs) - margin)), max(0, math.floor(min(ys) - margin))
    return left, top, min(size[0], math.ceil(max(xs) + margin)), min(size[1], math.ceil(max(ys) + margin))
