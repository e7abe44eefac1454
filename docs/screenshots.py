"""Pictures of the page for the README: a real server, real operations, a real browser. `make screenshots` runs it."""

import asyncio
import io
from pathlib import Path
from typing import Any

import PIL.Image
from playwright.async_api import Browser, expect

from tests import chromium
from yandexart_grpc import AsyncYandexArt, ContentRefused
from yandexart_grpc.server import Embedded, ServerSettings
from yandexart_grpc.server.app import serving

FOLDER = Path(__file__).parent / "images"
FLAT = 48
"""Colours that are kept as they are, those of most points; of a picture's 256, the others are blended."""
ORDERS = (
    ("a lighthouse at dusk, oil on canvas", "3:4", 11),
    ("снежные горы на рассвете", "16:9", 3),
    ("paper flowers, macro", "1:1", 8),
    ("a calm sea, long exposure", "3:2", 21),
    ("refuse this prompt", "1:1", 2),
    ("canyon walls in the evening", "4:3", 5),
    ("northern lights above a forest", "16:9", 34),
    ("a red cat on a window sill", "1:1", 42),
)
VIEWS: dict[str, dict[str, Any]] = {
    "page-light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 960}},
    "page-dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 960}},
    "page-phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


async def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    settings = ServerSettings(listen="127.0.0.1:0", http="127.0.0.1:0", duration="lognormal:2,0.4", grace=0)
    async with serving(settings) as server, chromium.running() as browser:
        async with AsyncYandexArt(endpoint=server.endpoint, folder_id="demo") as art:
            for prompt, ratio, seed in ORDERS:
                try:
                    await art.generate(prompt, aspect_ratio=ratio, seed=seed)
                except ContentRefused:
                    continue  # it is shown as one that failed
        for name in VIEWS:
            await shoot(browser, server, name)


async def shoot(browser: Browser, server: Embedded, name: str) -> None:
    """Look at the page as it draws; in the dark, at one picture of it; on a phone, at its list. Keep what is seen."""
    async with await browser.new_context(**VIEWS[name], locale="en-GB", reduced_motion="reduce") as context:
        page = await context.new_page()
        await page.goto(f"{server.http}/")
        await expect(page.locator("#list li img:visible").first).to_be_visible()
        if name == "page-phone":
            await page.locator(".figures").evaluate("element => scrollTo(0, element.offsetTop - 16)")
        elif name == "page-dark":
            await page.locator("#list li", has_text="northern lights").get_by_role("button").click()
            await expect(page.locator("#detail-image")).to_be_visible()
        else:
            await page.get_by_label("What should the picture show?").fill("a small boat under the stars")
            await page.get_by_role("button", name="Draw").click()
            await expect(page.locator("#easel-image")).to_be_visible()
        await expect(page.locator("#list li[data-kind=done] img[hidden]")).to_have_count(0)
        await asyncio.to_thread(keep, await page.screenshot(), FOLDER / f"{name}.png")


def keep(png: bytes, path: Path) -> None:
    """Write a picture, in as few bytes as it needs."""
    with PIL.Image.open(io.BytesIO(png)) as image:
        whole = image.convert("RGB")
        flat: list[Any] = sorted(whole.getcolors(2**24) or [], reverse=True)[:FLAT]  # else the paper would be dotted
        blended = whole.quantize(256 - FLAT).getpalette() or []
        palette = PIL.Image.new("P", (1, 1))
        palette.putpalette([*(part for _, colour in flat for part in colour), *blended])
        whole.quantize(palette=palette, dither=PIL.Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    asyncio.run(main())
