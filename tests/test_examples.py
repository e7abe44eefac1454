"""The programs of examples/, each run as its README says, in a process of its own, on a server with a scripted backend."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import httpx2
import nbclient
import nbformat
import pytest
from grpc import StatusCode

from tests.doors import PICTURE, Scripted, opened
from tests.foreign import Foreign, Held, alone, refused
from tests.programs import TIME, ended, environment, line, running
from yandexart_grpc.errors import ContentRefused
from yandexart_grpc.server import Embedded
from yandexart_grpc.server.backends.demo import REFUSAL

EXAMPLES = Path(__file__).parent.parent / "examples"


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def pictures(folder: Path) -> list[bytes]:
    """What was written there."""
    return [path.read_bytes() for path in folder.glob("*.jpeg")]


@pytest.mark.parametrize("name", ["stubs_blocking.py", "stubs_asyncio.py"])
class TestStubs:
    """examples/stubs_blocking.py and examples/stubs_asyncio.py."""

    async def test_an_image_is_written(self, name: str, tmp_path: Path) -> None:
        """The image comes out as the backend made it."""
        backend = Scripted()
        async with opened(backend) as server:
            command = (sys.executable, "-W", "error", EXAMPLES / name, "a red cat", "cat.jpeg")
            async with running(server.endpoint, tmp_path, *command) as process:
                assert (await ended(process)).startswith("ordered ")
        assert (tmp_path / "cat.jpeg").read_bytes() == PICTURE
        assert [asked.prompt for asked in backend.asked] == ["a red cat"]

    async def test_a_refusal_is_told(self, name: str, tmp_path: Path) -> None:
        """An operation that ends with an error is no image: its words are told, and there is no file."""
        async with opened(Scripted(ContentRefused(REFUSAL))) as server:
            command = (sys.executable, "-W", "error", EXAMPLES / name, "a red cat", "cat.jpeg")
            async with running(server.endpoint, tmp_path, *command) as process:
                _, wrong = await process.communicate()
        assert process.returncode == 1
        assert wrong.decode().endswith(f"ended without an image: {REFUSAL}\n")
        assert pictures(tmp_path) == []

    async def test_it_is_asked_until_it_is_done(self, name: str, tmp_path: Path) -> None:
        """A server that holds no reads is asked again, also after a read that failed; the order is sent once."""
        command = (sys.executable, "-W", "error", EXAMPLES / name, "a red cat", "cat.jpeg")
        with closing(Foreign(image=PICTURE, reads=[refused(StatusCode.UNAVAILABLE), alone])) as server:
            async with running(server.listen(), tmp_path, *command) as process:
                await ended(process)
        assert (tmp_path / "cat.jpeg").read_bytes() == PICTURE
        assert (len(server.submits), len(server.reads)) == (1, 3)


class TestService:
    """examples/fastapi_service.py."""

    @staticmethod
    @asynccontextmanager
    async def serving(endpoint: str, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx2.AsyncClient]]:
        """The service in a process, and somebody who calls it."""
        command = ("uvicorn", "--app-dir", EXAMPLES, "--port", "0", "fastapi_service:app")
        async with running(endpoint, folder, *command) as process:
            started = await line(process.stderr, lambda said: "running on" in said)
            address = next(word for word in started.split() if word.startswith("http://"))
            async with httpx2.AsyncClient(base_url=address, timeout=TIME) as http:
                yield process, http

    async def test_an_order_is_answered_at_once_and_read_when_it_is_ready(self, tmp_path: Path) -> None:
        """202 and an id come before there is an image; a short wait ends with 202, and a longer one with the image."""
        backend = Scripted()
        backend.let.clear()
        async with opened(backend) as server, self.serving(server.endpoint, tmp_path) as (_, http):
            ordered = await http.post("/images", json={"prompt": "a red cat", "aspect_ratio": "16:9", "seed": 7})
            assert (ordered.status_code, ordered.headers["location"]) == (202, f"/images/{ordered.json()['id']}")
            early = await http.get(ordered.headers["location"], params={"wait": 0.1})
            assert (early.status_code, early.json()) == (202, {"id": ordered.json()["id"], "done": False})
            backend.let.set()
            ready = await http.get(ordered.headers["location"])
            assert (ready.status_code, ready.headers["content-type"], ready.content) == (200, "image/jpeg", PICTURE)
        assert [(asked.prompt, asked.aspect_ratio, asked.seed) for asked in backend.asked] == [("a red cat", (16, 9), 7)]

    async def test_a_key_is_one_image(self, tmp_path: Path) -> None:
        """The same order with the same `Idempotency-Key` is the same operation, and another with it is 409."""
        backend, key = Scripted(), {"Idempotency-Key": "order-7"}
        async with opened(backend) as server, self.serving(server.endpoint, tmp_path) as (_, http):
            first, again = [await http.post("/images", json={"prompt": "a red cat"}, headers=key) for _ in range(2)]
            assert first.json() == again.json()
            other = await http.post("/images", json={"prompt": "a blue dog"}, headers=key)
            assert (other.status_code, other.json()["error"]) == (409, "InvalidRequest")
            await http.get(first.headers["location"])
        assert len(backend.asked) == 1

    async def test_errors_have_the_statuses_of_the_table(self, tmp_path: Path) -> None:
        """What is wrong is told with its status and what it means for the money."""
        async with opened(Scripted(ContentRefused(REFUSAL))) as server, self.serving(server.endpoint, tmp_path) as (_, http):
            missing = await http.get("/images/fbv00000000000000000")
            assert (missing.status_code, missing.json()["error"]) == (404, "NotFound")
            wrong = await http.post("/images", json={"prompt": ""})
            assert (wrong.status_code, wrong.json()["billed"], wrong.json()["resend"]) == (400, "no", "safe")
            ordered = await http.post("/images", json={"prompt": "a red cat"})
            refused = await http.get(ordered.headers["location"])
            assert (refused.status_code, refused.json()["error"]) == (400, "ContentRefused")

    async def test_a_quota_tells_when_to_come_back(self, tmp_path: Path) -> None:
        """What a quota refuses for longer than a request may take is 429, with the time after which it may be sent again."""
        full = refused(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed", (("grpc-retry-pushback-ms", "59500"),))
        with closing(Foreign(generate=[full])) as server:
            async with self.serving(server.listen(), tmp_path) as (_, http):
                answer = await http.post("/images", json={"prompt": "a red cat"})
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["resend"]) == (429, "60", "safe")

    async def test_a_wrong_key_of_the_service_is_not_the_users(self, tmp_path: Path) -> None:
        """What the service itself is not set up for is 502, without a word of what it is."""
        (tmp_path / "keys").write_text("anna AQVNanother b1g\n")
        async with (
            opened(Scripted(), key_file=str(tmp_path / "keys")) as server,
            self.serving(server.endpoint, tmp_path) as (_, http),
        ):
            answer = await http.post("/images", json={"prompt": "a red cat"})
        assert (answer.status_code, answer.json()["error"]) == (502, "BadGateway")
        assert "key" not in answer.text

    async def test_a_stop_finishes_what_is_under_way(self, tmp_path: Path) -> None:
        """At SIGTERM, a read that waits still gets its image, and then the process ends."""
        held = Held()
        with closing(Foreign(image=PICTURE, reads=[held])) as server:
            async with self.serving(server.listen(), tmp_path) as (process, http):
                ordered = await http.post("/images", json={"prompt": "a red cat"})
                waiting = asyncio.create_task(http.get(ordered.headers["location"]))
                await asyncio.to_thread(held.asked.wait, TIME)
                process.terminate()
                await line(process.stderr, lambda said: "Waiting for" in said)
                held.release.set()
                assert (await waiting).content == PICTURE
                await process.communicate()
        assert process.returncode in (0, -signal.SIGTERM)


class TestTask:
    """examples/celery_tasks.py, with broker and results in files of SQLite."""

    @staticmethod
    @asynccontextmanager
    async def calling(endpoint: str, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
        """A worker with one process, and the id of a task that it was given."""
        told: dict[str, str | Path] = {
            "PYTHONPATH": EXAMPLES,
            "CELERY_BROKER_URL": f"sqla+sqlite:///{folder}/broker.db",
            "CELERY_RESULT_BACKEND": f"db+sqlite:///{folder}/results.db",
        }
        celery = ("celery", "--app", "celery_tasks")
        call = (*celery, "call", "celery_tasks.make_image", "--args", '["a red cat"]')
        async with running(endpoint, folder, *call, **told) as process:
            task = (await ended(process)).strip()
        # A process that is lost is given up after a second instead of ten.
        worker = (*celery, "worker", "--concurrency", "1", "--loglevel", "INFO", "--", "worker.lost_wait=1.0")
        async with running(endpoint, folder, *worker, **told) as process:
            yield process, task
            process.terminate()  # it takes its own processes with it
            await process.communicate()

    async def test_a_task_whose_worker_dies_buys_no_second_image(self, tmp_path: Path) -> None:
        """The process of a worker is killed while its image is made. Another takes the task over, and finds the same image."""
        backend = Scripted(charges=True)
        backend.let.clear()
        async with opened(backend) as server, self.calling(server.endpoint, tmp_path) as (worker, task):
            await backend.begun.wait()
            (child,) = children(worker.pid)
            os.kill(child, signal.SIGKILL)
            await line(worker.stderr, lambda said: "SIGKILL" in said)
            backend.let.set()
            await line(worker.stderr, lambda said: f"[{task}] succeeded" in said)
        assert (tmp_path / "images" / f"{task}.jpeg").read_bytes() == PICTURE
        assert len(backend.asked) == 1

    async def test_a_server_without_keys_is_not_used(self, tmp_path: Path) -> None:
        """Where keys are not kept a task that is tried again would buy again, so nothing is ordered."""
        with closing(Foreign()) as server:
            async with self.calling(server.listen(), tmp_path) as (worker, task):
                failed = await line(worker.stderr, lambda said: f"[{task}] raised unexpected" in said)
        assert "keeps no idempotency keys" in failed
        assert not server.submits


class TestBot:
    """examples/bot.py."""

    @staticmethod
    def chatting(server: Embedded, folder: Path) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        """The bot in a process."""
        return running(server.endpoint, folder, sys.executable, "-W", "error", EXAMPLES / "bot.py")

    async def test_users_have_one_image_each_and_may_cancel(self, tmp_path: Path) -> None:
        """Two users order; one is told to wait with a second and cancels the first, the other watches his, and gets it."""
        backend = Scripted()
        backend.let.clear()
        async with opened(backend) as server, self.chatting(server, tmp_path) as process:

            async def told(update: str, answer: str) -> None:
                assert process.stdin
                process.stdin.write(update.encode() + b"\n")
                assert await line(process.stdout, lambda said: said.startswith(answer))

            await told("anna /start", "anna #1: Write what you would like to see")
            await told("anna a red cat", "anna #2: Drawing for")
            await told("boris a blue dog", "boris #1: Drawing for")
            await told("anna a green bird", "anna #3: One at a time")
            await told("boris /cancel", "boris #1: Cancelled.")
            await told("boris /cancel", "boris #2: There is nothing to cancel.")
            await told("boris a grey mouse", "boris #3: Drawing for")
            await line(process.stdout, lambda said: said.startswith("anna #2: Drawing for"))
            assert process.stdin
            process.stdin.write_eof()
            backend.let.set()
            said = await ended(process)
        assert {"anna #2: Done.", "boris #3: Done."} <= set(said.splitlines())
        assert pictures(tmp_path) == [PICTURE] * 2
        assert "a green bird" not in [asked.prompt for asked in backend.asked]

    async def test_a_failure_is_told_and_the_bot_goes_on(self, tmp_path: Path) -> None:
        """What a prompt did wrong is told to whoever wrote it, and so is the next."""
        async with opened(Scripted(ContentRefused(REFUSAL))) as server, self.chatting(server, tmp_path) as process:
            said, wrong = await process.communicate(f"anna a cat\nboris {'x' * 501}\n".encode())
        assert (process.returncode, wrong) == (0, b"")
        assert "anna #1: The rules do not allow this image." in said.decode()
        assert "boris #1: This cannot be drawn: Prompt" in said.decode()


class TestNotebook:
    """examples/notebook.ipynb."""

    NOTEBOOK = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]

    async def test_every_cell_runs(self, server: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each cell runs, without a word on standard error, and the images are shown as images."""
        for name, value in environment(server.endpoint, IPYTHONDIR=tmp_path).items():
            monkeypatch.setenv(name, value)
        made = nbformat.from_dict(self.NOTEBOOK)  # type: ignore[no-untyped-call]
        await nbclient.NotebookClient(made, timeout=TIME, resources={"metadata": {"path": str(tmp_path)}}).async_execute()
        outputs = [output for cell in made.cells for output in cell.get("outputs", ())]
        assert [output for output in outputs if output.get("name") == "stderr"] == []
        assert sum("image/jpeg" in output.get("data", ()) for output in outputs) == 6

    def test_it_is_committed_without_results(self) -> None:
        """No cell has an output or a number, so that only what was written is in the history."""
        assert not [cell for cell in self.NOTEBOOK.cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_readme_lists_every_example() -> None:
    """Each file of the folder stands in the table."""
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    listed = (EXAMPLES / "README.md").read_text()
    assert {name for name in files if f"]({name})" in listed} == files
