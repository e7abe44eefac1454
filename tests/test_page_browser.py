"""The page in a real Chromium, without a window: what people see, press and hear of it."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests import chromium
from tests.doors import Scripted, opened
from tests.test_page import GENERATE, HOSTILE, made, order
from yandexart_grpc import stubs
from yandexart_grpc.request import ImageRequest, Message
from yandexart_grpc.server import Embedded
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.server.backends.demo import draw
from yandexart_grpc.server.store import Row, State, open_store

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium.PATH is None, reason=chromium.MISSING),
]

expect.set_options(timeout=30_000)

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
"""axe-core, which finds what keeps people from using a page."""


class Sketching(Scripted):
    """A backend that shows a sketch to whoever follows, and finishes when it is let."""

    async def generate(self, request: ImageRequest, upstream: Upstream) -> stubs.ImageGenerationResponse:
        while not upstream.followed:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
        upstream.sketch(picture())
        return await super().generate(request, upstream)


def picture(size: tuple[int, int] = (64, 48)) -> bytes:
    """A small real picture."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, "teal").save(file, "JPEG")
    return file.getvalue()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests."""
    async with chromium.running() as started:
        yield started


Opens = Callable[..., Any]
"""Opens the page of a server, as a context manager."""


@pytest_asyncio.fixture(loop_scope="module")
async def looking(browser: Browser) -> AsyncIterator[Opens]:
    """Opens pages, in a fresh profile each. In the end it is seen that no script failed, and that nobody else was asked."""
    faults, strangers = list[str](), list[str]()

    @asynccontextmanager
    async def look(server: Embedded, **options: Any) -> AsyncIterator[Page]:
        async with await browser.new_context(**({"locale": "en-GB", "reduced_motion": "reduce"} | options)) as context:
            page = await context.new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("dialog", lambda dialog: faults.append(dialog.message))
            page.on("console", lambda line: faults.append(line.text) if "Security Policy" in line.text else None)
            here = (f"{server.http}/", f"blob:{server.http}/", "data:")
            page.on("request", lambda asked: None if asked.url.startswith(here) else strangers.append(asked.url))
            await page.goto(f"{server.http}/")
            yield page

    yield look
    assert (faults, strangers) == ([], [])


@asynccontextmanager
async def visited(backend: Scripted, **settings: Any) -> AsyncIterator[tuple[Embedded, httpx2.AsyncClient]]:
    """A server with that backend, and somebody who orders there without a browser."""
    async with AsyncExitStack() as life:
        running = await life.enter_async_context(opened(backend, **settings))
        yield running, await life.enter_async_context(httpx2.AsyncClient(base_url=str(running.http), timeout=30))


def cards(page: Page) -> Any:
    """The cards of the list that are in the document."""
    return page.locator("#list li")


class TestOrder:
    """The box to type a prompt in."""

    async def test_a_picture_is_ordered_and_watched(self, looking: Opens) -> None:
        """A sketch while it is drawn, the picture when it is ready, and its card in the gallery."""
        backend = Sketching(picture())
        backend.let.clear()
        async with visited(backend) as (server, _), looking(server) as page:
            await page.get_by_label("What should the picture show?").fill("a red cat")
            await page.get_by_label("Seed").fill("42")
            await page.get_by_label("Ratio").select_option("16:9")
            await page.get_by_role("button", name="Draw").click()
            await expect(page.locator("#easel-state")).to_have_text("Drawing…")
            await expect(page.locator("#easel-image")).to_be_visible()
            await expect(cards(page)).to_contain_text(["a red cat"])
            await expect(cards(page).first).to_contain_text("drawing")
            backend.let.set()
            await expect(page.locator("#easel-state")).to_contain_text("Ready after")
            await expect(page.locator("#announcer")).to_have_text("Your picture is ready: a red cat")
            await expect(cards(page).first).to_contain_text("64 × 48")
            await expect(page.locator("#figure-reads .value")).to_have_text("1")
        (asked,) = backend.asked
        assert asked == ImageRequest.build("a red cat", folder_id="demo", seed=42, aspect_ratio="16:9")

    async def test_an_order_whose_answer_is_lost_is_one_picture(self, looking: Opens) -> None:
        """It is sent again under the same key, and says so meanwhile."""
        backend = Scripted(picture())
        async with visited(backend) as (server, _), looking(server) as page:
            keys = list[str | None]()

            async def lose(route: Route) -> None:
                keys.append(route.request.headers.get("idempotency-key"))
                if len(keys) < 3:
                    await route.fetch()
                    await route.abort()
                else:
                    await route.continue_()

            await page.route(f"**{GENERATE}", lose)
            await page.get_by_label("What should the picture show?").fill("a red cat")
            await page.keyboard.press("Control+Enter")
            await expect(page.get_by_role("alert")).to_contain_text("Asking again, for the same picture")
            await expect(page.locator("#easel-state")).to_contain_text("Ready")
            assert len(keys) == 3
            assert len(set(keys)) == 1
            await expect(cards(page)).to_have_count(1)
        assert len(backend.asked) == 1

    async def test_another_store_is_not_sent_the_order_again(self, looking: Opens) -> None:
        """It would not know the key, so the page says that the outcome is unknown."""
        first, second = Scripted(picture()), Scripted(picture())
        async with AsyncExitStack() as life:
            server = await life.enter_async_context(opened(first))

            async def lose(route: Route) -> None:
                await route.fetch()
                await first.begun.wait()
                await life.aclose()
                await route.abort()

            async with looking(server) as page:
                await page.route(f"**{GENERATE}", lose)
                await page.get_by_label("What should the picture show?").fill("a red cat")
                await page.get_by_role("button", name="Draw").click()
                await expect(page.get_by_role("alert")).to_contain_text("The answer was lost")
                async with opened(second, http=address(server)):
                    await expect(page.get_by_role("alert")).to_contain_text("came back with another store")
                    await expect(page.locator("#connection")).to_have_text("Live")
        assert (len(first.asked), second.asked) == (1, [])

    async def test_a_refusal_is_told_where_it_was_asked(self, looking: Opens) -> None:
        """In the words of the server, and nothing is shown as ordered."""
        async with visited(Scripted(picture())) as (server, _), looking(server) as page:
            await page.get_by_label("What should the picture show?").fill("x" * 501)
            await page.get_by_role("button", name="Draw").click()
            await expect(page.get_by_role("alert")).to_have_text("Prompt positive size 501 exceeds limit (500)")
            await expect(page.locator("#nothing")).to_have_text("Nothing was ordered here yet.")


class TestGallery:
    """The list, and one picture of it."""

    async def test_a_picture_is_opened_large(self, looking: Opens) -> None:
        """With where it comes from, and the command that makes it again; then focus is where it was."""
        shown = draw("a ship", seed=7, width_ratio=16, height_ratio=9)
        async with visited(Scripted(shown)) as (server, client), looking(server) as page:
            ids = [await made(client, prompt) for prompt in ("a ship", "a cat")]
            await cards(page).get_by_role("button", name="Open a ship, done").click()
            dialog = page.get_by_role("dialog")
            await expect(dialog.get_by_role("heading", name="a ship")).to_be_focused()
            image = dialog.get_by_role("img", name="a ship")
            await expect(image).to_be_visible()
            with PIL.Image.open(io.BytesIO(shown)) as real:
                assert await image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == list(real.size)
            for fact in (ids[0], "yandex-art/latest", "scripted", f"{real.width} × {real.height}", "folder"):
                await expect(dialog.locator("#provenance")).to_contain_text(fact)
            await expect(dialog.locator("#command")).to_contain_text(f"yandexart generate 'a ship' --endpoint {server.endpoint}")
            await expect(dialog.locator("#program")).to_contain_text("art.generate('a ship')")
            await expect(dialog.locator("#seedless")).to_be_visible()
            async with page.expect_download() as saving:
                await dialog.get_by_role("link", name="Save").click()
            saved = await saving.value
            assert saved.suggested_filename == f"{ids[0]}.jpeg"
            assert await asyncio.to_thread((await saved.path()).read_bytes) == shown
            await page.keyboard.press("ArrowLeft")
            await expect(dialog.get_by_role("heading", name="a cat")).to_be_visible()
            await page.keyboard.press("Escape")
            await expect(dialog).to_be_hidden()
            await expect(cards(page).get_by_role("button", name="Open a cat, done")).to_be_focused()

    async def test_figures_are_plotted(self, looking: Opens) -> None:
        """Lag, reads and what is left of the quota, each as a number and as a plot with words for who cannot see it."""
        async with visited(Scripted(picture(), charges=True), quota="minute=500,day=100") as (server, client):
            for number in range(3):
                await made(client, f"cat {number}")
            async with looking(server) as page:
                await expect(page.locator("#figure-lag .value")).to_contain_text("s")
                await expect(page.locator("#figure-reads .value")).to_have_text("1")
                await expect(page.locator("#figure-quota .value")).to_have_text("97")
                await expect(page.locator("#figure-quota .hint")).to_contain_text("folder folder")
                await expect(page.get_by_role("img", name="Reads of the last 3 pictures, up to 1").locator("rect")).to_have_count(
                    3
                )
                await expect(page.get_by_role("img", name="Lag of the last 3 pictures")).to_be_visible()
                await expect(page.get_by_role("img", name="97 left of the quota of folder folder")).to_be_visible()

    async def test_it_is_filtered_and_searched(self, looking: Opens) -> None:
        """By state, and by what stands in the prompt, in any case and alphabet."""
        backend = Scripted(picture())
        async with visited(backend, concurrency=1) as (server, client), looking(server) as page:
            urls = list[str]()
            page.on("request", lambda asked: urls.append(asked.url))
            await made(client, "a red cat")
            await made(client, "Рыжий КОТ")
            backend.let.clear()
            backend.begun.clear()
            await order(client, "a slow cat")
            await backend.begun.wait()
            await order(client, "a patient dog")
            await expect(cards(page)).to_have_count(4)
            for name, prompts in (
                ("Waiting", ["a patient dog"]),
                ("Drawing", ["a slow cat"]),
                ("Done", ["Рыжий КОТ", "a red cat"]),
                ("Failed", []),
                ("All", ["a patient dog", "a slow cat", "Рыжий КОТ", "a red cat"]),
            ):
                await page.get_by_role("radio", name=name, exact=True).check()
                await expect(cards(page)).to_have_count(len(prompts))
                await expect(cards(page).locator(".prompt")).to_have_text(prompts)
            await page.get_by_label("Search in prompts").fill("рыжий кот")
            await expect(cards(page).locator(".prompt")).to_have_text(["Рыжий КОТ"])
            await expect(page.locator("#announcer")).to_have_text("1 found")
            await page.get_by_label("Search in prompts").fill("100%")
            await expect(page.get_by_text("Nothing fits.")).to_be_visible()
            assert not [url for url in urls if "%" in url]  # what is searched for stands in no address

    async def test_a_hostile_prompt_is_text(self, looking: Opens) -> None:
        """In the list, in the dialog and in the box: no element is made of it, no script runs, and title and address stay."""
        hostile = [
            *HOSTILE,
            "<img src=x onerror=alert(1)>",
            "</p></li><dialog open>",
            "<svg onload=alert(1)>",
            "javascript:alert(1)",
        ]
        async with visited(Scripted(picture())) as (server, client), looking(server) as page:
            elements = "() => document.querySelectorAll('script, svg image, iframe, #list svg, #list img[src^=x], dialog').length"
            before = await page.evaluate(elements)
            for prompt in hostile:
                await made(client, prompt)
            await expect(cards(page)).to_have_count(len(hostile))
            texts = await cards(page).locator(".prompt").evaluate_all("found => found.map(one => one.textContent)")
            assert texts == hostile[::-1]
            for prompt in hostile[-4:]:
                await cards(page).get_by_role("button", name=f"Open {prompt}, done").click()
                await expect(page.locator("#detail-prompt")).to_have_text(prompt)
                await expect(page.locator("#command")).to_contain_text(f"generate '{prompt}' --")
                await page.get_by_role("button", name="Use this prompt").click()
                await expect(page.get_by_label("What should the picture show?")).to_have_value(prompt)
            assert await page.evaluate(elements) == before
            assert (await page.title(), page.url) == ("Pictures", f"{server.http}/")

    async def test_ten_thousand_operations(self, looking: Opens, tmp_path: Path) -> None:
        """All of them can be reached by scrolling and each by searching, and the document never holds more than what is seen."""
        store = f"sqlite:///{tmp_path}/many.db"
        answer = stubs.ImageGenerationResponse(image=picture())
        async with open_store(store) as kept:
            rows = (
                Row(
                    id=f"fbv{number:05}",
                    caller="",
                    key=None,
                    request=ImageRequest(messages=(Message(f"cat {number}"),), model_uri="art://f/m"),
                    state=State.DONE,
                    created=1.7e9 + number,
                    started=1.7e9 + number,
                    ended=1.7e9 + number + 1,
                    expires=4e9,
                    outcome=answer,
                )
                for number in range(10_000)
            )
            await asyncio.gather(*map(kept.accept, rows))
        async with visited(Scripted(), store=store) as (server, _), looking(server) as page:
            await expect(cards(page).first).to_contain_text("cat 9999")
            await expect(cards(page).first.locator("img")).to_be_visible()
            last, most = cards(page).filter(has_text=re.compile(r"^\W*cat 0\D")), 0
            for _ in range(3_000):
                await page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
                most = max(most, await cards(page).count())
                if await last.count():
                    break
                await asyncio.sleep(0.02)
            await expect(last).to_have_attribute("aria-posinset", "10000")
            assert most < 150
            await expect(last.locator("img")).to_be_visible()
            await page.get_by_label("Search in prompts").fill("CAT 4321")
            await expect(cards(page).locator(".prompt")).to_have_text(["cat 4321"])

    async def test_what_is_new_waits_for_whoever_looks_further_down(self, looking: Opens) -> None:
        """Nothing moves under his eyes; a button tells of it."""
        async with visited(Scripted(picture())) as (server, client):
            for number in range(30):
                await made(client, f"cat {number}")
            async with looking(server) as page:
                await expect(cards(page).first).to_contain_text("cat 29")
                await expect(page.locator("#connection")).to_have_text("Live")
                await page.evaluate("() => scrollTo(0, 900)")
                await made(client, "a new cat")
                new = page.get_by_role("button", name="1 new picture")
                await expect(new).to_be_visible()
                await expect(cards(page).filter(has_text="a new cat")).to_have_count(0)
                await new.click()
                await expect(cards(page).first).to_contain_text("a new cat")
                await expect(page.get_by_role("heading", name="All pictures")).to_be_focused()


class TestConnection:
    """A server that goes, and comes back."""

    async def test_a_lost_connection_is_told_and_made_again(self, looking: Opens, file: str) -> None:
        """What happened meanwhile is there then, without a reload."""
        async with AsyncExitStack() as life:
            server = await life.enter_async_context(opened(Scripted(picture()), store=file))
            async with looking(server) as page:
                await expect(page.locator("#connection")).to_have_text("Live")
                await life.aclose()
                await expect(page.locator("#connection")).to_contain_text("Connection lost")
                async with visited(Scripted(picture()), store=file, http=address(server)) as (_, client):
                    await made(client, "meanwhile")
                    await expect(page.locator("#connection")).to_have_text("Live")
                    await expect(cards(page)).to_contain_text(["meanwhile"])

    async def test_a_silent_connection_is_lost_too(self, looking: Opens) -> None:
        """A server that says nothing for longer than its heartbeat is lost; the clock of the browser is turned forward."""
        async with visited(Scripted(picture())) as (server, _), looking(server) as page:
            await expect(page.locator("#connection")).to_have_text("Live")
            await page.clock.install()
            await page.reload()
            await expect(page.locator("#connection")).to_have_text("Live")
            await page.route("**/page/news*", lambda route: route.abort())
            await page.clock.fast_forward(26_000)
            await expect(page.locator("#connection")).to_contain_text("Connection lost")


class TestKey:
    """A server that asks for keys."""

    async def test_a_key_is_asked_for_and_kept_in_memory_alone(self, looking: Opens, tmp_path: Path) -> None:
        """Each sees his own; a reload and signing out forget it."""
        (tmp_path / "keys").write_text("anna AQVNanna\nben AQVNben b1gben\n")
        async with visited(Scripted(picture()), key_file=str(tmp_path / "keys")) as (server, client), looking(server) as page:
            await made(client, "anna's cat", authorization="Api-Key AQVNanna")
            dialog = page.get_by_role("dialog", name="Sign in")
            await expect(dialog.get_by_label("API key")).to_be_focused()
            await page.keyboard.type("AQVNnobody")
            await page.keyboard.press("Enter")
            await expect(dialog.get_by_role("alert")).to_have_text("Unknown api key")
            await page.keyboard.type("AQVNanna")
            await page.keyboard.press("Enter")
            await expect(cards(page)).to_contain_text(["anna's cat"])
            await expect(page.locator("#connection")).to_have_text("Live")
            seen = await page.evaluate(
                "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, document.title])"
                " + document.documentElement.outerHTML + document.getElementById('key').value"
            )
            assert "AQVN" not in seen
            await page.get_by_role("button", name="anna · sign out").click()
            await expect(dialog).to_be_visible()
            await expect(cards(page)).to_have_count(0)
            await page.keyboard.type("AQVNben")
            await page.keyboard.press("Enter")
            await expect(page.locator("#nothing")).to_have_text("Nothing was ordered here yet.")
            await expect(page.get_by_label("Folder")).to_have_value("b1gben")
            await page.reload()
            await expect(dialog).to_be_visible()


class TestAccess:
    """Everybody can use it."""

    async def test_with_the_keyboard_alone(self, looking: Opens) -> None:
        """From the top of the page into the list, through a picture, and back to where one was; an order, and a filter."""
        async with visited(Scripted(picture())) as (server, client):
            for number in range(3):
                await made(client, f"cat {number}")
            async with looking(server) as page:
                await expect(cards(page)).to_have_count(3)
                await page.keyboard.press("Tab")
                await expect(page.get_by_role("link", name="Skip to the pictures")).to_be_focused()
                await page.keyboard.press("Enter")
                await page.keyboard.press("Tab")
                await expect(page.get_by_role("button", name="Open cat 2, done")).to_be_focused()
                await page.keyboard.press("Tab")
                await page.keyboard.press("Enter")
                await expect(page.locator("#detail-prompt")).to_have_text("cat 1")
                await expect(page.locator("#detail-prompt")).to_be_focused()
                for _ in range(12):
                    await page.keyboard.press("Tab")
                    assert await page.evaluate(
                        "() => document.body === document.activeElement || !!document.activeElement.closest('dialog')"
                    )
                await page.keyboard.press("Escape")
                await expect(page.get_by_role("button", name="Open cat 1, done")).to_be_focused()
                await page.get_by_label("What should the picture show?").focus()
                await page.keyboard.type("by hand")
                await page.keyboard.press("Control+Enter")
                await expect(page.locator("#easel-state")).to_contain_text("Ready")
                await page.get_by_label("All", exact=True).focus()
                for _ in range(4):
                    await page.keyboard.press("ArrowRight")
                await expect(page.get_by_label("Failed", exact=True)).to_be_checked()
                await expect(page.get_by_text("Nothing fits.")).to_be_visible()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 360])
    async def test_axe_finds_nothing(self, looking: Opens, scheme: str, width: int) -> None:
        """Of any kind: in the gallery, over a picture that is there and over one that failed, and at the key."""
        options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
        async with AsyncExitStack() as life:
            server = await life.enter_async_context(opened("demo", duration="fixed:0"))  # type: ignore[arg-type]
            client = await life.enter_async_context(httpx2.AsyncClient(base_url=str(server.http), timeout=30))
            page = await life.enter_async_context(looking(server, **options))
            await made(client, "a red cat")
            await made(client, "refuse this prompt")
            await expect(cards(page)).to_have_count(2)
            await expect(page.locator("#figure-reads .value")).not_to_have_text("–")
            assert await faults(page) == []
            for prompt in ("a red cat", "refuse this prompt"):
                await cards(page).filter(has_text=prompt).get_by_role("button").click()
                await expect(page.locator("#program")).to_contain_text(prompt)
                assert await faults(page) == []
                await page.keyboard.press("Escape")
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_label("API key")).to_be_visible()
            assert await faults(page) == []
            assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
            await page.evaluate("() => document.querySelector('[for=key]').remove()")
            assert await faults(page) == ["critical label: ['#key']"]


async def faults(page: Page) -> list[str]:
    """What axe-core finds wrong, a line each."""
    await page.evaluate(AXE)
    found = (await page.evaluate("() => axe.run()"))["violations"]
    return [f"{one['impact']} {one['id']}: {node['target']}" for one in found for node in one["nodes"]]


def address(server: Embedded) -> str:
    """Host and port of the doors over HTTP."""
    return str(server.http).removeprefix("http://")
