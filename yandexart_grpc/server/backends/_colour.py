"""Colour for the demo backend: palettes that go together, in OKLCH, where colours of one lightness look equally light."""

import math
from dataclasses import dataclass
from random import Random

Colour = tuple[int, int, int]


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Turn an OKLCH colour (hue in degrees) into sRGB; one that a screen cannot show loses chroma until it can."""
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    if chroma > 0.005 and (min(red, green, blue) < -0.001 or max(red, green, blue) > 1.001):
        return oklch(lightness, 0.94 * chroma, hue)
    return _channel(red), _channel(green), _channel(blue)


def _channel(linear: float) -> int:
    """Apply the sRGB curve to one linear channel."""
    linear = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


@dataclass(frozen=True)
class Palette:
    """The hues of one picture, and whether it is night in it."""

    far: float
    """The hue of the zenith, or of whatever is farthest from the light."""
    near: float
    """The hue at the horizon; may exceed 360, so that the way there leads through the right colours."""
    light: float
    """The hue of the sun and of its light."""
    night: bool

    def tone(self, along: float, lightness: float, chroma: float) -> Colour:
        """The colour at `along` of the way from far (0) to near (1)."""
        return oklch(lightness, chroma, self.far + (self.near - self.far) * along)

    def shine(self, lightness: float, chroma: float) -> Colour:
        """A colour of the light."""
        return oklch(lightness, chroma, self.light)


# Far, near, light. From blue to orange the way leads through pink; through green it would look like a bruise.
_MOODS = (
    (285, 405, 75),  # dusk
    (250, 385, 60),  # dawn
    (255, 185, 100),  # lagoon
    (215, 130, 100),  # meadow
    (320, 420, 85),  # rose
    (385, 435, 90),  # ember
    (265, 340, 60),  # lavender
    (190, 95, 95),  # moss
)


def palette(rng: Random) -> Palette:
    """One of the moods, a little shifted, by day or by night."""
    far, near, light = rng.choice(_MOODS)
    shift = rng.uniform(-12, 12)
    return Palette(far + shift, near + shift, light + shift / 2, night=rng.random() < 0.45)
