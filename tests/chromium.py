"""A real Chromium for tests of the page, where this machine has one."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Where it is; None where there is none."""
MISSING = "no Chromium is installed: what the page does in a browser is NOT tested (Debian: apt-get install chromium)"
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
"""What Chromium does by itself, and shall not."""


@asynccontextmanager
async def running() -> "AsyncIterator[Browser]":
    """A browser without a window, that asks nobody for anything of its own. Playwright gives it an empty folder."""
    from playwright.async_api import async_playwright  # every test imports this file, and few need that

    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
        browser = await playwright.chromium.launch(executable_path=PATH, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()
