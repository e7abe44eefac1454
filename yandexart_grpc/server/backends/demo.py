"""The backend that draws its pictures itself: free, offline, and the same picture for the same request.

Decides how large a picture is, how long it seems to take, what its caption says, and which prompts are refused: every one
that contains the words "refuse this prompt" (in any case), so that callers can try out how they treat a refusal. What the
picture shows is left to `_drawing`.

The caption is set in the font inside Pillow, so no system font is needed. That font knows ASCII and little else: Cyrillic is
transliterated ("рыжий кот" reads "ryzhiy kot"), accents are dropped, and what has no Latin form (emoji, Arabic, Chinese) is
left out of the caption. The picture itself depends on every character.
"""

import asyncio
import hashlib
import io
import math
import textwrap
import unicodedata
from collections.abc import Callable
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from yandexart_grpc.errors import ContentRefused, row
from yandexart_grpc.request import LARGEST, ImageRequest
from yandexart_grpc.server.backends._drawing import paint
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.stubs import ImageGenerationResponse

MODEL_VERSION = "demo"
"""What an answer says about its origin."""
REFUSED = "refuse this prompt"
"""A prompt that contains these words is refused."""
REFUSAL = "it is not possible to generate an image from this request because it may violate the terms of use"
"""What the real service says of a prompt it refuses (contract/service.md, "Errors seen")."""
GRAINS = (64, 32, 16)
"""How coarse the three stages of a picture are, in pixels."""
LONGEST = 86_400
"""The longest duration of a generation, in seconds: a day."""


class DemoBackend:
    """Draws a picture for every request, after a while."""

    charges = resumable = False

    def __init__(self, duration: str = "fixed:0.5") -> None:
        """Take as long over each picture as `duration` says, in the forms of `parse_duration`."""
        self._random = Random()
        self._duration = parse_duration(duration)

    async def generate(self, request: ImageRequest, upstream: Upstream | None = None) -> ImageGenerationResponse:
        """Draw the picture while the duration passes. A seed of 0 stands for a random one.

        Whoever follows sees it become finer in three steps; they take their time, as everything does, from the duration.

        Raises:
            ContentRefused: the prompt contains `REFUSED`; at once, as the real service refuses.
        """
        if REFUSED in request.prompt.casefold():
            raise ContentRefused(REFUSAL, code=row(ContentRefused).code, details=REFUSAL)
        seed = request.seed or self._random.randint(1, LARGEST)
        width, height = request.aspect_ratio
        seconds = self._duration(self._random)
        drawing = asyncio.create_task(asyncio.to_thread(draw, request.prompt, seed=seed, width_ratio=width, height_ratio=height))
        image, *_ = await asyncio.gather(drawing, asyncio.sleep(seconds), _show(upstream, drawing, seconds))
        return ImageGenerationResponse(image=image, model_version=MODEL_VERSION)

    async def close(self) -> None:
        """Nothing is held open."""


async def _show(upstream: Upstream | None, drawing: asyncio.Task[bytes], seconds: float) -> None:
    """Show the picture in its stages, spread over the duration, to whoever follows."""
    for grain in GRAINS:
        await asyncio.sleep(seconds / (len(GRAINS) + 1))
        image = await drawing
        if upstream and upstream.followed:
            upstream.sketch(await asyncio.to_thread(coarse, image, grain))


def coarse(data: bytes, grain: int) -> bytes:
    """The picture as if each square of so many pixels were one, in its full size."""
    with Image.open(io.BytesIO(data)) as image:
        file = io.BytesIO()
        image.reduce(grain).resize(image.size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=60)
    return file.getvalue()


def draw(prompt: str, *, seed: int, width_ratio: int, height_ratio: int) -> bytes:
    """Draw a picture and return it as a baseline JPEG; the same arguments give the same picture in every process.

    Raises:
        ValueError: the ratio is none; see `size_of`.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode("utf-8", "surrogatepass")).digest()
    rng = Random(int.from_bytes(digest))
    image = paint(size_of(width_ratio, height_ratio), rng)
    _write(image, _legible(prompt))
    file = io.BytesIO()
    _with_grain(image, rng).save(file, "JPEG", quality=88)
    return file.getvalue()


def _with_grain(image: Image.Image, rng: Random) -> Image.Image:
    """Add film grain, which hides the steps that 8 bits and JPEG leave in gradients."""
    noise = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
    faint = noise.point([round(128 + 0.036 * (value - 127.5)) for value in range(256)])
    return ImageChops.add(image, Image.merge("RGB", [faint] * 3), offset=-128)


def parse_duration(text: str) -> Callable[[Random], float]:
    """Read how long generations take: a law that draws seconds from a source of randomness.

    `fixed:0.5` is always half a second; `uniform:8,20` is anything between 8 and 20 s, equally likely; `lognormal:12,0.35` has
    the median 12 s and the sigma 0.35 of its logarithm, cut off at `LONGEST`.

    Raises:
        ValueError: `text` is none of these, or a number is out of range (seconds 0 to 86400, sigma 0 to 3).
    """
    law, _, rest = text.partition(":")
    match law, _numbers(rest):
        case "fixed", [seconds] if 0 <= seconds <= LONGEST:
            return lambda rng: seconds
        case "uniform", [low, high] if 0 <= low <= high <= LONGEST:
            return lambda rng: rng.uniform(low, high)
        case "lognormal", [median, sigma] if 0 <= median <= LONGEST and 0 <= sigma <= 3:
            return lambda rng: min(median * math.exp(rng.normalvariate(0, sigma)), LONGEST)
    raise ValueError(
        f"duration {text!r} is not fixed:SECONDS, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA"
        f" with seconds from 0 to {LONGEST} and sigma from 0 to 3"
    )


def _numbers(text: str) -> list[float]:
    """The numbers of a list with commas; none if one of them is not a number."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        return []


# ── size ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_STEP = 64
_MEGAPIXEL = 1024 * 1024
_LARGEST_AREA = _MEGAPIXEL * 11 // 10
_SMALLEST_AREA = _MEGAPIXEL * 9 // 10
_SIZES = [
    (width, height)
    for width in range(_STEP, _LARGEST_AREA // _STEP + 1, _STEP)
    for height in range(_STEP, _LARGEST_AREA // width + 1, _STEP)
    if width * height >= _SMALLEST_AREA
]
"""Every size whose sides are multiples of 64 and whose area is within a tenth of a megapixel."""


def size_of(width_ratio: int, height_ratio: int) -> tuple[int, int]:
    """Choose the size of a picture: of those near one megapixel, the one whose ratio is closest to the asked one.

    0:0 is 1:1. Agrees with the sizes seen of the real service (contract/service.md): 1792x1024 gives 1344x768, 1024x1536
    gives 832x1280. Ratios beyond 281:1 all give the narrowest size there is, 17984x64.

    Raises:
        ValueError: a side is negative, or only one is zero.
    """
    if (width_ratio, height_ratio) == (0, 0):
        width_ratio = height_ratio = 1
    if width_ratio < 1 or height_ratio < 1:
        raise ValueError(f"aspect ratio {width_ratio}:{height_ratio} is not two positive integers")
    # In logarithms 2:1 is as far from 1:1 as 1:2 is, and integers of any length have one.
    asked = math.log(width_ratio) - math.log(height_ratio)

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        width, height = size
        # Rounded, so that sizes of one ratio tie and the area decides.
        return round(abs(math.log(width / height) - asked), 9), abs(width * height - _MEGAPIXEL)

    return min(_SIZES, key=distance)


# ── caption ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщыэюяіїєґў"
_LATIN = "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch y e yu ya i yi ye g u"
_LETTERS = dict(zip(_CYRILLIC, _LATIN.split(), strict=True)) | {"ł": "l", "ø": "o", "æ": "ae", "đ": "d"}
_CAPITALS = {letter.upper(): latin.capitalize() for letter, latin in _LETTERS.items()}
_OTHERS = {"ß": "ss", "–": "-", "—": "-", "«": '"', "»": '"', "“": '"', "”": '"', "„": '"', "’": "'"}
_SPELLING = str.maketrans(_LETTERS | _CAPITALS | _OTHERS)


def _legible(prompt: str) -> str:
    """The prompt as one line of ASCII, all that Pillow's own font is sure to have."""
    latin = unicodedata.normalize("NFC", " ".join(prompt.split())).translate(_SPELLING)
    plain = unicodedata.normalize("NFKD", latin).encode("ascii", "ignore").decode()
    return " ".join("".join(filter(str.isprintable, plain)).split())


def _write(image: Image.Image, text: str) -> None:
    """Write a text small into the lower left corner, in at most three lines over a soft shadow."""
    if not text:
        return
    height = min(max(11, round(0.03 * min(image.size))), 20)
    margin, leading = round(0.9 * height), round(1.3 * height)
    font = ImageFont.load_default(height)
    letter = font.getlength(text) / len(text)
    columns = max(5, int(0.7 * (image.width - 2 * margin) / letter))
    lines = textwrap.wrap(text, columns, max_lines=3, placeholder="...")
    block = Image.new("L", (image.width, leading * len(lines) + 2 * margin))
    pen = ImageDraw.Draw(block)
    for index, line in enumerate(lines):
        pen.text((margin, margin + index * leading), line, fill=230, font=font)
    shadow = block.filter(ImageFilter.GaussianBlur(0.35 * height)).point([min(150, 2 * value) for value in range(256)])
    corner = (0, image.height - block.height)
    image.paste((16, 12, 28), corner, shadow)
    image.paste((255, 255, 255), corner, block)
