"""The page's door, spoken to without a browser: who may see what, what is told, and what no other page can have."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest

from tests.doors import SKETCHES, Scripted, opened
from yandexart_grpc import ContentRefused, stubs
from yandexart_grpc.again import command_of, program_of
from yandexart_grpc.request import DEFAULT_MODEL, ImageRequest, Message
from yandexart_grpc.server import live
from yandexart_grpc.server.backends.demo import draw
from yandexart_grpc.server.doors import page
from yandexart_grpc.server.live import Live
from yandexart_grpc.server.store import Row, State, open_store
from yandexart_grpc.server.thumbnails import SIDE, Thumbnails, small

GENERATE = "/foundationModels/v1/imageGenerationAsync"
ANNA, BEN = {"authorization": "Api-Key AQVNanna"}, {"authorization": "Api-Key AQVNben"}
HOSTILE = (
    "<script>alert(1)</script>",
    "'; touch hacked; echo '",
    "$(touch hacked) `touch hacked`",
    "two\nlines\\",
    "\x1b[201~\ntouch hacked\n",
    "-",
    "--help",
    "tab\tbell\x07 \u202egnp.exe ",
    '"\\\'" {} %s рыжий кот 🐈',
)


@pytest.fixture(scope="module")
def drawn() -> bytes:
    """A real picture."""
    return draw("a red cat", seed=42, width_ratio=16, height_ratio=9)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A key file with two callers, of whom one has a folder."""
    (tmp_path / "keys").write_text("anna AQVNanna\nben AQVNben b1gben\n")
    return str(tmp_path / "keys")


@asynccontextmanager
async def visited(backend: Scripted, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A visitor of a server with that backend; he hangs up first."""
    async with AsyncExitStack() as life:
        running = await life.enter_async_context(opened(backend, **settings))
        yield await life.enter_async_context(httpx2.AsyncClient(base_url=str(running.http), timeout=30))


async def order(client: httpx2.AsyncClient, prompt: str = "a cat", folder: str = "folder", **headers: str) -> str:
    """The id of a new operation, ordered as the page does."""
    body = {"modelUri": f"art://{folder}/yandex-art/latest", "messages": [{"text": prompt, "weight": "1"}]}
    answered = await client.post(GENERATE, json=body, headers=headers)
    assert answered.status_code == 200, answered.text
    return str(answered.json()["id"])


async def made(client: httpx2.AsyncClient, prompt: str = "a cat", **headers: str) -> str:
    """The id of a finished operation."""
    operation_id = await order(client, prompt, **headers)
    await client.get(f"/operations/{operation_id}", headers={"prefer": "wait=10", **headers})
    return operation_id


async def told(client: httpx2.AsyncClient, path: str, **options: Any) -> Any:
    """The JSON at a path."""
    answered = await client.get(path, **options)
    assert answered.status_code == 200, answered.text
    return answered.json()


async def listed(client: httpx2.AsyncClient, headers: dict[str, str] | None = None, **asked: Any) -> list[dict[str, Any]]:
    """The operations of a list."""
    answered = await client.post("/page/list", json=asked, headers=headers)
    assert answered.status_code == 200, answered.text
    found: list[dict[str, Any]] = answered.json()["operations"]
    return found


async def events(answered: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    """Kind and content of each event of a stream."""
    kind = ""
    async for line in answered.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


class TestFiles:
    """What everybody may have."""

    async def test_the_page_is_its_own_files_and_nothing_else(self, keys: str) -> None:
        """Without a key too: there is nothing of anybody in it; and nothing in it is inline or comes from elsewhere."""
        async with visited(Scripted(), key_file=keys) as client:
            for path, kind in (("/", "text/html"), ("/page/style.css", "text/css"), ("/page/script.js", "text/javascript")):
                answered = await client.get(path)
                assert answered.status_code == 200
                assert answered.headers["content-type"] == f"{kind}; charset=utf-8"
                policy = answered.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert "http" not in policy
                assert answered.headers["x-content-type-options"] == "nosniff"
                assert answered.headers["referrer-policy"] == "no-referrer"
                assert answered.headers["cross-origin-resource-policy"] == "same-origin"
                assert "access-control-allow-origin" not in answered.headers
                links = answered.text.replace("http://www.w3.org/2000/svg", "")
                assert "://" not in links.replace("art://", "")
            html = (await client.get("/")).text
        assert " style=" not in html
        assert " onclick=" not in html
        assert html.count("<script") == html.count('<script type="module" src="/page/script.js"></script>') == 1


class TestKeys:
    """The page is no way around keys, owners and limits."""

    PATHS = ("/page/session", "/page/figures", "/page/news")
    OF_ONE = ("", "/thumbnail", "/image", "/sketches")

    async def test_without_a_key_nothing_is_told(self, keys: str, drawn: bytes) -> None:
        """Of anything that is somebody's."""
        async with visited(Scripted(drawn), key_file=keys) as client:
            one = await made(client, **ANNA)
            for path in (*self.PATHS, *(f"/page/operations/{one}{what}" for what in self.OF_ONE)):
                for headers in ({}, {"authorization": "Api-Key AQVNnobody"}):
                    answered = await client.get(path, headers=headers)
                    assert answered.status_code == 401, path
                    assert "nobody" not in answered.text
            assert (await client.post("/page/list", json={})).status_code == 401

    async def test_what_is_anothers_is_as_if_it_were_not(self, keys: str, drawn: bytes) -> None:
        """Every path of an operation answers another caller as everybody who asks for an id that nobody gave out."""
        async with visited(Scripted(drawn), key_file=keys) as client:
            one = await made(client, "anna's secret cat", **ANNA)
            unknown = "fbv" + "0" * 17
            for what in self.OF_ONE:
                assert (await client.get(f"/page/operations/{one}{what}", headers=ANNA)).status_code == 200
                his = await client.get(f"/page/operations/{one}{what}", headers=BEN)
                nobodys = await client.get(f"/page/operations/{unknown}{what}", headers=BEN)
                assert (his.status_code, his.text.replace(one, unknown)) == (404, nobodys.text)
            for search in ("", "secret", one):
                assert await listed(client, BEN, search=search) == []
            assert (await told(client, "/page/figures", headers=BEN))["lags"] == []
            assert len((await told(client, "/page/figures", headers=ANNA))["lags"]) == 1

    async def test_news_of_others_is_not_told(self, keys: str) -> None:
        """A viewer hears of his own operations alone, also of those of before."""
        async with visited(Scripted(), key_file=keys) as client:
            await made(client, "anna 1", **ANNA)
            async with client.stream("GET", "/page/news?since=0", headers=BEN) as answered:
                heard = events(answered)
                assert (await anext(heard))[1]["operations"] == []
                await made(client, "anna 2", **ANNA)
                await made(client, "ben 1", folder="b1gben", **BEN)
                _, news = await anext(heard)
                assert {one["prompt"] for one in news["operations"]} == {"ben 1"}

    async def test_each_request_counts(self, keys: str) -> None:
        """Against the requests that a caller may make each second, and a viewer against the reads that may be held."""
        async with visited(Scripted(), key_file=keys, requests_per_second=0.01) as client:
            assert (await client.get("/page/session", headers=ANNA)).status_code == 200
            refused = await client.get("/page/figures", headers=ANNA)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 1
            assert (await client.get("/page/session", headers=BEN)).status_code == 200
        async with (
            visited(Scripted(), key_file=keys, held_reads_per_caller=1) as client,
            client.stream("GET", "/page/news", headers=ANNA) as answered,
        ):
            await anext(events(answered))
            assert (await client.get("/page/news", headers=ANNA)).status_code == 429
            async with client.stream("GET", "/page/news", headers=BEN) as other:
                assert other.status_code == 200
            await answered.aclose()
            while (await client.head("/page/news", headers=ANNA)).status_code == 429:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)

    async def test_who_looks_is_told_who_he_is(self, keys: str) -> None:
        """And for which folder alone he may order."""
        async with visited(Scripted(charges=True), key_file=keys) as client:
            seen = await told(client, "/page/session", headers=BEN)
            assert (seen["caller"], seen["folder"], seen["keys"], seen["charges"]) == ("ben", "b1gben", True, True)
            assert DEFAULT_MODEL in seen["models"]
        async with visited(Scripted()) as client:
            seen = await told(client, "/page/session")
            assert (seen["caller"], seen["folder"], seen["keys"], seen["charges"]) == ("", None, False, False)

    async def test_quotas_are_those_of_the_callers_folder(self, keys: str) -> None:
        """One without a folder is told of the one that he names; without keys, everybody of all."""
        backend, quota = Scripted(charges=True), "minute=500,day=100"
        async with visited(backend, key_file=keys, quota=quota) as client:
            await made(client, folder="b1gben", **BEN)
            await made(client, folder="b1ganna", **ANNA)

            async def folders(headers: dict[str, str], folder: str = "") -> list[tuple[str, int]]:
                found = await told(client, "/page/figures", params={"folder": folder}, headers=headers)
                return [(one["folder"], one["day"]) for one in found["quotas"]]

            assert await folders(BEN) == await folders(BEN, "b1ganna") == [("b1gben", 99)]
            assert await folders(ANNA) == []
            assert await folders(ANNA, "b1ganna") == [("b1ganna", 99)]
        async with visited(backend, quota=quota) as client:
            await made(client)
            assert [one["folder"] for one in (await told(client, "/page/figures"))["quotas"]] == ["folder"]


class TestOtherPages:
    """A page of somebody else, in the same browser, can neither order nor read."""

    async def test_no_other_origin_may_read(self) -> None:
        """No answer permits it, and what a browser asks before it sends JSON is refused."""
        elsewhere = {"origin": "https://evil.example"}
        async with visited(Scripted()) as client:
            one = await made(client)
            for path in ("/", "/page/figures", f"/page/operations/{one}", f"/page/operations/{one}/image", "/page/session"):
                answered = await client.get(path, headers=elsewhere)
                assert not [name for name in answered.headers if name.startswith("access-control")]
                assert answered.headers.get("cross-origin-resource-policy") == "same-origin"
            asked = {**elsewhere, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
            assert (await client.options(GENERATE, headers=asked)).status_code == 405

    async def test_what_a_form_can_send_orders_nothing(self) -> None:
        """Of the types that a browser sends without asking."""
        backend, body = Scripted(), b'{"modelUri":"art://f/m","messages":[{"text":"a cat"}]}'
        async with visited(backend) as client:
            for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                headers = {"content-type": media, "origin": "https://evil.example"}
                assert (await client.post(GENERATE, content=body, headers=headers)).status_code == 400
                assert (await client.post("/page/list", content=b"{}", headers=headers)).status_code == 400
            assert await listed(client) == []

    async def test_a_name_that_leads_here_is_no_way_in(self) -> None:
        """A page on the web may let its own name lead to this machine: under it, a server that asks for no key is silent."""
        async with visited(Scripted()) as client:
            one = await made(client)
            for name in ("evil.example", "evil.example:80", "localhost.evil.example"):
                for path in ("/page/list", f"/page/operations/{one}/image", "/page/news", "/page/session"):
                    way = (
                        client.post(path, json={}, headers={"host": name})
                        if "list" in path
                        else client.get(path, headers={"host": name})
                    )
                    answered = await way
                    assert answered.status_code == 403
                    assert "evil.example" in answered.json()["message"]
                ordered = await client.post(GENERATE, json={}, headers={"host": name, "origin": f"http://{name}"})
                assert ordered.status_code == 403
            for name in ("localhost:1", "127.0.0.1", "[::1]:8080"):
                assert await listed(client, {"host": name})

    async def test_behind_a_proxy_a_key_is_the_way_in(self, keys: str) -> None:
        """Under any name: nobody else's page has it."""
        async with visited(Scripted(), key_file=keys) as client:
            assert await listed(client, {"host": "art.example.com", **ANNA}) == []


class TestList:
    """What is told of operations."""

    async def test_everything_that_is_shown(self, drawn: bytes) -> None:
        """Prompt, state, times, model, seed, ratio and warnings; a seed as a text, since a script would round it."""
        async with visited(Scripted(drawn, warning="no weight")) as client:
            body = {
                "modelUri": "art://b1g/yandex-art/latest",
                "messages": [{"text": "a cat", "weight": "1"}, {"text": "rain", "weight": "-1"}],
                "generationOptions": {"seed": str(2**62 + 1), "aspectRatio": {"widthRatio": "16", "heightRatio": "9"}},
            }
            one = (await client.post(GENERATE, json=body)).json()["id"]
            await client.get(f"/operations/{one}", headers={"prefer": "wait=10"})
            (found,) = await listed(client)
            assert found["created"] <= found["started"] <= found["ended"]
            expected = {
                "id": one,
                "prompt": "a cat",
                "messages": [{"text": "a cat", "weight": 1.0}, {"text": "rain", "weight": -1.0}],
                "folder": "b1g",
                "model": "yandex-art/latest",
                "seed": str(2**62 + 1),
                "ratio": "16:9",
                "kind": "done",
                "charged": False,
                "warnings": ["no weight"],
                "error": None,
            }
            assert expected.items() <= found.items()
            whole = await told(client, f"/page/operations/{one}")
            with PIL.Image.open(io.BytesIO(drawn)) as image:
                size = image.size
            assert (whole["width"], whole["height"]) == size
            assert (whole["bytes"], whole["modelVersion"]) == (len(drawn), "scripted")
            assert found.items() <= whole.items()

    async def test_an_error_is_told_in_its_words(self) -> None:
        """With the name of its code; and there is no picture."""
        async with visited(Scripted(ContentRefused("it may violate the terms"))) as client:
            one = await made(client)
            (found,) = await listed(client, kind="failed")
            assert found["error"] == {"code": "INVALID_ARGUMENT", "message": "it may violate the terms"}
            for what in ("image", "thumbnail"):
                assert (await client.get(f"/page/operations/{one}/{what}")).status_code == 404

    async def test_pages_follow_each_other(self) -> None:
        """Each operation once, newest first."""
        async with visited(Scripted()) as client:
            ids = [await order(client, f"cat {number}") for number in range(25)]
            seen, before = list[str](), None
            while found := await listed(client, limit=10, before=before):
                seen += [one["id"] for one in found]
                before = [found[-1]["created"], found[-1]["id"]]
            assert seen == ids[::-1]

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            ({"kind": "lost"}, "kind: 'lost' is none of 'accepted', 'running', 'done', 'failed'"),
            ({"limit": 0}, "limit: 0 is not an integer from 1 to 200"),
            ({"limit": 201}, "limit: 201 is not an integer from 1 to 200"),
            ({"limit": 1.5}, "limit: 1.5 is not an integer from 1 to 200"),
            ({"limit": True}, "limit: True is not an integer from 1 to 200"),
            ({"before": [1e300, "id"]}, "before: not the time and the id of an operation, [1763640000.5, 'fbv…']"),
            ({"before": 3}, "before: not the time and the id of an operation, [1763640000.5, 'fbv…']"),
            ({"search": "x" * 501}, "search: not a text of up to 500 characters"),
            ({"search": 1}, "search: not a text of up to 500 characters"),
            ({"caller": "anna"}, "caller: there is no such field"),
        ],
    )
    async def test_a_wrong_question_is_named(self, asked: dict[str, Any], words: str) -> None:
        """Field, value and limit."""
        async with visited(Scripted()) as client:
            answered = await client.post("/page/list", json=asked)
            assert (answered.status_code, answered.json()["message"]) == (400, words)
            assert (await client.get("/page/news?since=x")).status_code == 400

    @pytest.mark.parametrize("prompt", HOSTILE)
    async def test_a_hostile_prompt_is_data(self, prompt: str) -> None:
        """As JSON, which no browser takes for a page."""
        async with visited(Scripted()) as client:
            one = await made(client, prompt)
            answered = await client.get(f"/page/operations/{one}")
            assert answered.headers["content-type"] == "application/json"
            assert answered.headers["x-content-type-options"] == "nosniff"
            assert answered.json()["prompt"] == prompt


class TestAgain:
    """The command and the program that make a picture again."""

    @pytest.mark.parametrize("prompt", HOSTILE)
    async def test_the_very_picture_comes_again(self, prompt: str, tmp_path: Path) -> None:
        """Point by point, by bash and by Python, whatever the prompt says; and nothing else happens."""
        async with AsyncExitStack() as life:
            running = await life.enter_async_context(opened("demo", duration="fixed:0"))  # type: ignore[arg-type]
            client = await life.enter_async_context(httpx2.AsyncClient(base_url=str(running.http), timeout=30))
            body = {
                "modelUri": "art://b1g/yandex-art/latest",
                "messages": [{"text": prompt, "weight": "1"}],
                "generationOptions": {"seed": "7", "aspectRatio": {"widthRatio": "2", "heightRatio": "1"}},
            }
            one = (await client.post(GENERATE, json=body)).json()["id"]
            await client.get(f"/operations/{one}", headers={"prefer": "wait=10"})
            picture = (await client.get(f"/page/operations/{one}/image")).content
            again = await told(client, f"/page/operations/{one}")
            environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            for name, words in (("command", ["bash", "-c"]), ("program", [sys.executable, "-W", "error", "-c"])):
                folder = tmp_path / name
                folder.mkdir()
                await asyncio.to_thread(
                    subprocess.run,
                    [*words, again[name]],
                    cwd=folder,
                    env=environment,
                    check=True,
                    capture_output=True,
                    timeout=60,
                )
                assert [file.name for file in folder.iterdir()] == [f"{one}.jpeg"]
                with PIL.Image.open(folder / f"{one}.jpeg") as again_made, PIL.Image.open(io.BytesIO(picture)) as first:
                    assert again_made.tobytes() == first.tobytes()

    def test_a_terminal_is_given_nothing_to_obey(self) -> None:
        """Every character of a command that is pasted can be seen."""
        for prompt in HOSTILE:
            request = ImageRequest.build(prompt, folder_id="b1g")
            made = command_of(request, endpoint="http://localhost:1", name="x")
            assert made
            assert made.isprintable()

    def test_what_no_command_can_say_is_left_to_the_program(self) -> None:
        """Several texts with weights, and NUL."""
        several = ImageRequest.build([("a cat", 2.0), ("rain", -1)], folder_id="b1g", model="other", seed=3)
        assert command_of(several, endpoint="e", name="x") is None
        assert command_of(ImageRequest.build("a\0b", folder_id="b1g"), endpoint="e", name="x") is None
        assert "art.generate([('a cat', 2.0), ('rain', -1)], model='other', seed=3)" in program_of(
            several, endpoint="e", name="x"
        )


class TestPictures:
    """Pictures, large and small."""

    async def test_a_thumbnail_is_small_and_made_once(self, drawn: bytes, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many ask at once, and also by the next server on the store; it goes with its operation."""
        works = list[bytes]()

        def counted(data: bytes) -> Any:
            works.append(data)
            return small(data)

        monkeypatch.setattr("yandexart_grpc.server.thumbnails.small", counted)
        settings: dict[str, Any] = {"store": store}
        async with visited(Scripted(drawn), **settings) as client:
            one = await made(client)
            path = f"/page/operations/{one}/thumbnail"
            answers = await asyncio.gather(*(client.get(path) for _ in range(8)))
            assert len({answered.content for answered in answers}) == len(works) == 1
            assert answers[0].headers["content-type"] == "image/jpeg"
            with PIL.Image.open(io.BytesIO(drawn)) as image, PIL.Image.open(io.BytesIO(answers[0].content)) as little:
                assert answers[0].headers["x-image-size"] == f"{image.width}x{image.height}"
                assert max(little.size) == SIDE
                assert abs(little.width / little.height - image.width / image.height) < 0.01
            assert len(answers[0].content) < 60_000
        async with visited(Scripted(drawn), **settings) as client:
            assert (await client.get(path)).content == answers[0].content
        assert len(works) == 1
        async with open_store(store) as kept:
            assert await kept.thumbnail(one, "") is not None
            assert await kept.thumbnail(one, "somebody") is None
            assert await kept.purge(1e12) == 1
            count = "SELECT count(*) FROM thumbnails"
            assert await kept._do(lambda connection: connection.exec_driver_sql(count).scalar()) == 0

    async def test_a_picture_is_handed_out_as_it_was_made(self, drawn: bytes) -> None:
        """And looking at it is no read by which lag is measured."""
        async with visited(Scripted(drawn)) as client:
            one = await order(client)
            while (await told(client, f"/page/operations/{one}"))["kind"] != "done":  # noqa: ASYNC110  # nothing else tells
                await asyncio.sleep(0.01)
            answered = await client.get(f"/page/operations/{one}/image")
            assert answered.content == drawn
            assert answered.headers["content-type"] == "image/jpeg"
            assert (await client.get(f"/page/operations/{one}/thumbnail")).status_code == 200
            assert (await told(client, "/page/figures"))["lags"] == []
            await client.get(f"/operations/{one}")
            found = await told(client, "/page/figures")
            assert (len(found["lags"]), found["reads"]) == (1, [1])

    def test_a_bomb_is_not_decoded(self, drawn: bytes) -> None:
        """A picture that says it is enormous, and what is none at all, are refused before anything is done."""
        at = drawn.index(b"\xff\xc0") + 5
        bomb = drawn[:at] + b"\xff\xff\xff\xff" + drawn[at + 4 :]
        with pytest.raises(ValueError, match="65535 x 65535 pixels exceed the limit of 64000000"):
            small(bomb)
        for broken in (b"", b"GIF89a", drawn[:3000], drawn[:200] + b"\xff\xd9"):
            with pytest.raises(ValueError, match=r"."):
                small(broken)

    async def test_what_cannot_be_made_small_is_an_error(self) -> None:
        """Of the picture, and not of the server; the picture itself is there."""
        async with visited(Scripted(b"\xff\xd8 no picture")) as client:
            one = await made(client)
            for what in ("image", "thumbnail"):
                answered = await client.get(f"/page/operations/{one}/{what}")
                assert answered.status_code == 404
                assert "JPEG" in answered.json()["message"]
            assert (await told(client, f"/page/operations/{one}"))["modelVersion"] == "scripted"

    async def test_a_picture_is_watched_as_it_is_drawn(self, drawn: bytes) -> None:
        """Sketches as they are made, and then the operation."""
        backend = Scripted(drawn, sketches=SKETCHES)
        async with visited(backend) as client:
            one = await order(client)
            async with client.stream("GET", f"/page/operations/{one}/sketches") as answered:
                assert answered.headers["content-type"].startswith("text/event-stream")
                heard = [(kind, content) async for kind, content in events(answered)]
            assert heard[-1][0] == "operation"
            assert (heard[-1][1]["id"], heard[-1][1]["kind"]) == (one, "done")
            assert {kind for kind, _ in heard[:-1]} <= {"sketch"}


class TestNews:
    """What is told as it happens."""

    async def test_a_life_is_told_as_it_goes(self) -> None:
        """Each step, of each operation, and what was missed since a time."""
        backend = Scripted()
        backend.let.clear()
        async with visited(backend) as client, client.stream("GET", "/page/news") as answered:
            heard = events(answered)
            kind, first = await anext(heard)
            assert (kind, first["operations"], first["more"]) == ("news", [], False)
            one, kinds = await order(client), list[str]()
            await backend.begun.wait()
            while kinds[-1:] != ["running"]:
                kinds += [news["kind"] for news in (await anext(heard))[1]["operations"]]
            backend.let.set()
            while kinds[-1:] != ["done"]:
                kinds += [news["kind"] for news in (await anext(heard))[1]["operations"]]
            assert kinds == sorted(kinds, key=["accepted", "running", "done"].index)
            async with client.stream("GET", f"/page/news?since={first['now']}") as later:
                _, missed = await anext(events(later))
                assert [(news["id"], news["kind"]) for news in missed["operations"]] == [(one, "done")]

    async def test_what_another_server_does_is_told(self, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of all servers on a PostgreSQL; one question for all who watch here."""
        monkeypatch.setattr(live, "PAUSE", 0.05)
        store = postgres.database()
        async with AsyncExitStack() as life:
            here = await life.enter_async_context(visited(Scripted(), store=store, role="serve"))
            there = await life.enter_async_context(visited(Scripted(), store=store))
            streams = [await life.enter_async_context(here.stream("GET", "/page/news")) for _ in range(2)]
            heard = [events(answered) for answered in streams]
            for one in heard:
                await anext(one)
            ordered = await made(there)
            for one in heard:
                kind = ""
                while kind != "done":
                    _, news = await asyncio.wait_for(anext(one), 20)
                    kind = next((told["kind"] for told in news["operations"] if told["id"] == ordered), kind)

    async def test_whoever_is_slow_is_told_that_he_missed_something(self) -> None:
        """What is remembered for a viewer is bounded, and the newest news of an operation is one."""

        def row(number: int, state: State) -> Row:
            request = ImageRequest(messages=(Message("a cat"),), model_uri="art://f/m")
            return Row(id=f"id{number}", caller="", key=None, request=request, state=state, created=1.0)

        hearing = Live(None)
        with hearing.viewed("") as viewer, hearing.viewed("anna") as other:
            for state in (State.ACCEPTED, State.RUNNING):
                hearing.began(row(0, state))
            news, more = await viewer.news(0)
            assert ([one.state for one in news], more) == ([State.RUNNING], False)
            for number in range(live.MOST + 1):
                hearing.accepted(row(number, State.ACCEPTED))
            news, more = await viewer.news(0)
            assert (len(news), more) == (live.MOST, True)
            assert await viewer.news(0) == ([], False)
            assert await other.news(0) == ([], False)

    async def test_a_silent_page_has_a_heartbeat_and_ends_with_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The stream ends at once when the server is told to stop, although it has all the grace in the world."""
        monkeypatch.setattr(page, "HEARTBEAT", 0.02)
        async with AsyncExitStack() as outer:
            client = await outer.enter_async_context(httpx2.AsyncClient(timeout=30))
            async with opened(Scripted(), grace=600.0) as running:
                answered = await outer.enter_async_context(client.stream("GET", f"{running.http}/page/news"))
                heard = events(answered)
                assert [(await anext(heard))[1]["operations"] for _ in range(3)] == [[], [], []]
            assert {kind async for kind, _ in heard} <= {"news"}


async def test_a_thumbnail_that_nobody_waits_for_is_forgotten(drawn: bytes) -> None:
    """Whoever asked may hang up: it is kept for the next one."""
    async with open_store("sqlite://") as store:
        request = ImageRequest(messages=(Message("a cat"),), model_uri="art://f/m")
        answer = stubs.ImageGenerationResponse(image=drawn)
        row = Row(id="id1", caller="", key=None, request=request, state=State.DONE, created=1.0, expires=1e12, outcome=answer)
        await store.accept(row)
        thumbnails, let = Thumbnails(store), asyncio.Event()

        async def get() -> Row:
            await let.wait()
            return row

        asking = asyncio.create_task(thumbnails.of("id1", "", get))
        await asyncio.sleep(0)
        asking.cancel()
        let.set()
        assert (await thumbnails.of("id1", "", get)).image
        assert await store.thumbnail("id1", "")
