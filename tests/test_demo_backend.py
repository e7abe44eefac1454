"""The demo backend: what it draws, how long it takes, what it refuses."""

import asyncio
import hashlib
import io
import math
import os
import subprocess
import sys
import time
from random import Random

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yandexart_grpc.errors import ContentRefused
from yandexart_grpc.request import ImageRequest, Message
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.backends.demo import REFUSAL, DemoBackend, draw, parse_duration, size_of
from yandexart_grpc.stubs import ImageGenerationResponse

MEGAPIXEL = 1024 * 1024
HOSTILE = {
    "nothing": "",
    "only spaces": " \n\t ",
    "emoji": "a cat 🐱‍👤 with a flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "Russian": "Рыжий кот на крыше, ёлки и щука — «акварель» №5",
    "right to left": "مرحبا שלום \u202eabc\u202c",
    "Chinese": "日本の猫",
    "line breaks": "one\ntwo\r\nthree\u2028four\x0bfive",
    "zero width": "a\u200b\u200d\ufeffb",
    "control characters": "a\x00\x07\x1b[31mb\x7f",
    "combining": "e" + "\u0301" * 400,
    "500 letters": "W" * 500,
    "500 words": "a " * 250,
    "ligatures": "ﷺ ﬃ ß İ",
}
NO_DURATIONS = """
    0.5 fixed fixed: fixed:x fixed:-1 fixed:nan fixed:inf fixed:86401 fixed:1,2 Fixed:1
    uniform:8 uniform:20,8 uniform:-1,2 uniform:1,nan uniform:1,2,3 uniform:1,1e9
    lognormal:12 lognormal:12,-1 lognormal:12,99 lognormal:-12,1 lognormal:inf,1 exponential:3
"""


def open_jpeg(data: bytes) -> Image.Image:
    """The decoded picture; fails unless the data are one whole JPEG."""
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.load()
    return image


def request_for(*messages: str | tuple[str, float], seed: int = 7, ratio: tuple[int, int] = (0, 0)) -> ImageRequest:
    parts = tuple(Message(part) if isinstance(part, str) else Message(*part) for part in messages)
    return ImageRequest(messages=parts, model_uri="art://folder/yandex-art/latest", seed=seed, aspect_ratio=ratio)


async def generate(request: ImageRequest) -> ImageGenerationResponse:
    return await DemoBackend(duration="fixed:0").generate(request)


# ── size ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ((0, 0), (1024, 1024)),
        ((1, 1), (1024, 1024)),
        ((1792, 1024), (1344, 768)),
        ((1024, 1536), (832, 1280)),
        ((16, 9), (1344, 768)),
        ((9, 16), (768, 1344)),
    ],
)
def test_sizes_are_those_seen_of_the_real_service(ratio: tuple[int, int], size: tuple[int, int]) -> None:
    assert size == size_of(*ratio)


@given(st.integers(1, 10**18), st.integers(1, 10**18))
def test_every_ratio_gives_about_a_megapixel_in_multiples_of_64(width_ratio: int, height_ratio: int) -> None:
    width, height = size_of(width_ratio, height_ratio)
    assert width % 64 == height % 64 == 0
    assert width >= 64
    assert height >= 64
    assert 0.9 * MEGAPIXEL <= width * height <= 1.1 * MEGAPIXEL


@given(st.integers(100, 400), st.integers(100, 400))
def test_ratios_up_to_4_to_1_are_met_within_4_percent(width_ratio: int, height_ratio: int) -> None:
    width, height = size_of(width_ratio, height_ratio)
    assert abs(math.log(width / height) - math.log(width_ratio / height_ratio)) <= math.log(1.04)


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 1000))
def test_a_ratio_is_a_ratio(width_ratio: int, height_ratio: int, factor: int) -> None:
    """Twice both sides is the same ratio, and a picture turned on its side has its sides exchanged."""
    size = size_of(width_ratio, height_ratio)
    assert size == size_of(factor * width_ratio, factor * height_ratio)
    assert size == size_of(height_ratio, width_ratio)[::-1]


@pytest.mark.parametrize("ratio", [(0, 1), (1, 0), (-1, -1), (16, -9)])
def test_a_ratio_that_is_none_is_an_error_that_names_it(ratio: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{ratio[0]}:{ratio[1]}"):
        size_of(*ratio)


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ratio", [(1, 1), (16, 9), (2, 3), (1, 100), (10**18, 1)])
def test_a_picture_is_a_baseline_jpeg_of_its_size(ratio: tuple[int, int]) -> None:
    for seed in range(3):
        data = draw("a red cat", seed=seed, width_ratio=ratio[0], height_ratio=ratio[1])
        image = open_jpeg(data)
        assert size_of(*ratio) == image.size
        assert image.mode == "RGB"
        assert "progression" not in image.info
        assert 50_000 <= len(data) <= 300_000


@pytest.mark.parametrize("prompt", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_text_can_be_drawn(prompt: str) -> None:
    for ratio in ((1, 1), (1, 1000)):
        open_jpeg(draw(prompt, seed=1, width_ratio=ratio[0], height_ratio=ratio[1]))


def test_a_picture_is_the_same_in_another_process() -> None:
    """Nothing depends on the hash seed of the process, its locale or its time zone."""
    program = (
        "import hashlib; from yandexart_grpc.server.backends.demo import draw;"
        "print(hashlib.sha256(draw('рыжий кот', seed=42, width_ratio=16, height_ratio=9)).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "4242", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    here = draw("рыжий кот", seed=42, width_ratio=16, height_ratio=9)
    assert hashlib.sha256(here).hexdigest() == there.stdout.strip()


def test_pictures_of_other_prompts_and_seeds_are_others() -> None:
    prompts = ("a red cat", "a red cat ", "кот", "🐱", "🐶")
    pictures = {draw(prompt, seed=seed, width_ratio=1, height_ratio=1) for prompt in prompts for seed in (1, 2, 2**63 - 1)}
    assert len(pictures) == 15


def test_prompt_and_seed_are_not_confused() -> None:
    """Seed 1 with the prompt "2" is not seed 12 with none."""
    assert draw("2", seed=1, width_ratio=1, height_ratio=1) != draw("", seed=12, width_ratio=1, height_ratio=1)


@pytest.mark.parametrize(("prompt", "written"), [("a red cat", True), ("рыжий кот", True), ("🐱", False), ("日本", False)])
def test_what_can_be_spelled_in_latin_letters_is_written_in_the_corner(prompt: str, written: bool) -> None:
    for seed in range(5):
        image = open_jpeg(draw(prompt, seed=seed, width_ratio=1, height_ratio=1))
        corner = image.crop((0, 970, 200, 1024)).convert("L").histogram()
        assert (sum(corner[200:]) > 50) is written


def test_a_picture_takes_little_time() -> None:
    """About 40 ms here; the bound leaves room for a slow and busy machine."""
    draw("warm up", seed=1, width_ratio=1, height_ratio=1)
    start = time.process_time()
    for seed in range(10):
        draw("a red cat", seed=seed, width_ratio=1, height_ratio=1)
    assert (time.process_time() - start) / 10 < 0.3


# ── duration ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(0, 86_400))
def test_fixed_is_always_the_same(seconds: float) -> None:
    assert seconds == parse_duration(f"fixed:{seconds!r}")(Random(1))


@given(st.floats(0, 86_400), st.floats(0, 86_400), st.integers())
def test_uniform_stays_within_its_bounds(one: float, other: float, seed: int) -> None:
    low, high = sorted((one, other))
    assert low <= parse_duration(f"uniform:{low!r},{high!r}")(Random(seed)) <= high


@given(st.floats(0, 86_400), st.floats(0, 3), st.integers())
def test_lognormal_is_never_negative_and_never_longer_than_a_day(median: float, sigma: float, seed: int) -> None:
    assert 0 <= parse_duration(f"lognormal:{median!r},{sigma!r}")(Random(seed)) <= 86_400


def test_lognormal_has_its_median_and_its_spread() -> None:
    law, rng = parse_duration("lognormal:12,0.35"), Random(1)
    drawn = sorted(law(rng) for _ in range(10_001))
    assert drawn[5_000] == pytest.approx(12, rel=0.03)
    assert drawn[8_413] == pytest.approx(12 * math.exp(0.35), rel=0.03)  # one sigma above the median


@pytest.mark.parametrize("text", ["", *NO_DURATIONS.split()])
def test_a_bad_duration_is_an_error_that_names_it_and_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"fixed:SECONDS, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        law = parse_duration(text)
    except ValueError:
        return
    assert 0 <= law(Random(1)) <= 86_400


# ── backend ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_backend_that_costs_nothing() -> None:
    backend: Backend = DemoBackend()
    assert not backend.charges


async def test_the_picture_is_that_of_the_request() -> None:
    response = await generate(request_for("a red cat", seed=42, ratio=(16, 9)))
    assert response.image == draw("a red cat", seed=42, width_ratio=16, height_ratio=9)
    assert response.model_version == "demo"


async def test_what_is_unwanted_is_not_drawn() -> None:
    """Messages of positive weight are the prompt, a line each; those of negative weight are left out."""
    response = await generate(request_for("a cat", ("a dog", -1), ("on a roof", 2)))
    assert response.image == draw("a cat\non a roof", seed=7, width_ratio=1, height_ratio=1)


async def test_seed_0_is_a_random_one() -> None:
    backend = DemoBackend(duration="fixed:0")
    one, other = [await backend.generate(request_for("a cat", seed=0)) for _ in range(2)]
    assert one.image != other.image


async def test_a_documented_phrase_is_refused_in_the_words_of_the_service() -> None:
    with pytest.raises(ContentRefused) as caught:
        await generate(request_for("a cat, please Refuse This Prompt"))
    assert str(caught.value) == caught.value.details == REFUSAL
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_an_unwanted_phrase_is_not_refused() -> None:
    assert (await generate(request_for("a cat", ("refuse this prompt", -1)))).image


async def test_drawing_happens_while_the_duration_passes() -> None:
    """The loop stays free, pictures are drawn side by side, and none is ready before its time."""
    backend = DemoBackend(duration="fixed:0.05")
    start = time.monotonic()
    responses = await asyncio.gather(*(backend.generate(request_for("a cat", seed=seed)) for seed in range(1, 5)))
    assert time.monotonic() - start >= 0.05
    assert len({response.image for response in responses}) == 4
    await backend.close()


async def test_a_generation_can_be_cancelled() -> None:
    task = asyncio.create_task(DemoBackend(duration="fixed:3600").generate(request_for("a cat")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_bad_duration_stops_the_backend_from_being_made() -> None:
    with pytest.raises(ValueError, match="'soon'"):
        DemoBackend(duration="soon")
