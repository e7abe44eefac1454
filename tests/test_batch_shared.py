"""Batches that share a ledger in a real PostgreSQL: processes, each with a folder of its own, as on machines of their own."""

import io
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.faults.counting_server import digest, executions
from tests.faults.process import ServerProcess
from tests.foreign import Foreign, Held, failed, jpeg
from tests.postgres import Postgres
from tests.test_cli import NOBODY, end, printed, run, start
from yandexart_grpc import ConfigurationError, YandexArt, batch

PATIENCE = 60.0
"""Seconds within which everything has to come to its end."""

Serve = Callable[..., ServerProcess]
Order = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, and a cloud folder pays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YC_FOLDER_ID", "folder")
    return tmp_path


@pytest.fixture
def life() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A database that is not in use yet."""
    return postgres.database()


@pytest.fixture
def serve(life: ExitStack, tmp_path: Path) -> Serve:
    """Starts a server that counts what is bought."""
    store = f"sqlite:///{tmp_path / 'store.sqlite'}"
    return lambda *options: life.enter_context(ServerProcess(tmp_path / "bought", "--store", store, *options))


@pytest.fixture
def order(life: ExitStack, url: str) -> Order:
    """Starts batches of the rows of this test, each in the folder that is named."""

    def make(endpoint: str, out: str, *options: str) -> "subprocess.Popen[str]":
        process = start("batch", "rows.txt", "-o", out, "--endpoint", endpoint, "--ledger", url, "--json", *options)
        life.callback(end, process)
        return process

    return make


def write_rows(count: int) -> list[str]:
    """That many prompts, in the file."""
    prompts = [f"cat {number}" for number in range(count)]
    Path("rows.txt").write_text("\n".join(prompts))
    return prompts


def told(process: "subprocess.Popen[str]", code: int = 0) -> dict[str, Any]:
    """What a batch says in the end, which comes with this exit code."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return printed(out)


def manifest(out: str) -> dict[str, dict[str, Any]]:
    """The latest line of each prompt."""
    return {line["prompt"]: line for line in map(json.loads, Path(out, "manifest.jsonl").read_text().splitlines())}


def images(*folders: str) -> Counter[str]:
    """How often each file is there, in all the folders."""
    return Counter(path.name for out in folders for path in Path(out).glob("*.jpeg"))


def require_shared(prompts: list[str], *folders: str) -> None:
    """Each prompt is one image in one of the folders, and the manifest of the first tells of all of them."""
    lines = manifest(folders[0])
    assert {prompt: line["state"] for prompt, line in lines.items()} == dict.fromkeys(prompts, "done")
    assert images(*folders) == dict.fromkeys([line["file"] for line in lines.values()], 1)
    for line in lines.values():
        (file,) = [Path(out, line["file"]) for out in folders if Path(out, line["file"]).exists()]
        assert sha256(file.read_bytes()).hexdigest() == line["sha256"]
    assert not [piece for out in folders for piece in Path(out).glob("*.part")]


def wait_for(enough: Callable[[], bool]) -> None:
    """Return when it is."""
    end = time.monotonic() + PATIENCE
    while not enough():
        assert time.monotonic() < end
        time.sleep(0.02)


def has_asked(postgres: Postgres, url: str) -> bool:
    """Whether a batch that wants a row was told that another has it: it has done nothing since."""
    query = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
    return any("pg_try_advisory_lock" in asked for (asked,) in postgres.do(query, url))


@pytest.mark.parametrize("many", [2, 4])
def test_many_batches_do_each_row_once(many: int, serve: Serve, order: Order) -> None:
    """They begin at once, divide the rows among them, and each ends when all rows are done."""
    prompts, server = write_rows(60), serve("--duration", "0.2")
    folders = [f"out{number}" for number in range(many)]
    ends = [told(process) for process in [order(server.endpoint, out, "--in-flight", "4") for out in folders]]
    assert [summary["done"] for summary in ends] == [60] * many
    assert sum(summary["ordered"] for summary in ends) == 60
    assert executions(server.ledger) == dict.fromkeys(prompts, 1)
    for turn in range(many):
        require_shared(prompts, *folders[turn:], *folders[:turn])


@pytest.mark.parametrize("kills", [1, 3])
def test_rows_of_a_batch_that_died_are_finished_by_others(kills: int, serve: Serve, order: Order) -> None:
    """SIGKILL in the middle: nothing is lost, and nothing bought twice."""
    prompts, server = write_rows(40), serve("--duration", "0.3")
    victims = [order(server.endpoint, f"victim{number}", "--in-flight", "4") for number in range(kills)]
    survivors = [order(server.endpoint, out, "--in-flight", "4") for out in ("out0", "out1")]
    for number, victim in enumerate(victims):
        wait_for(lambda number=number: len(executions(server.ledger)) > 8 * (number + 1))  # type: ignore[misc]
        victim.kill()
    assert [told(process)["done"] for process in survivors] == [40, 40]
    assert executions(server.ledger) == dict.fromkeys(prompts, 1)
    lines = manifest("out0")
    assert {prompt: line["state"] for prompt, line in lines.items()} == dict.fromkeys(prompts, "done")
    saved = images("out0", "out1", *(f"victim{number}" for number in range(kills)))
    assert saved.keys() == {line["file"] for line in lines.values()}  # a victim may have saved one and not have told it


@pytest.mark.faults
def test_batches_may_die_at_any_instant(serve: Serve, order: Order, postgres: Postgres) -> None:
    """Thirty times SIGKILL of one of three, and a restart of PostgreSQL: in the end all is done, and nothing was bought twice."""
    prompts, server, random = write_rows(300), serve("--duration", "0.2"), Random(1)
    folders = ["out0", "out1", "out2"]
    running = {out: order(server.endpoint, out, "--in-flight", "4") for out in folders}
    for number in range(30):
        time.sleep(random.uniform(0, 1))
        out = random.choice(folders)
        running[out].kill()
        running[out].wait()
        if number == 15:
            postgres.stop()
            for process in running.values():
                process.wait(PATIENCE)
            postgres.start()
            running |= {other: order(server.endpoint, other, "--in-flight", "4") for other in folders if other != out}
        running[out] = order(server.endpoint, out, "--in-flight", "4")
    assert [told(process)["done"] for process in running.values()] == [300] * 3
    assert executions(server.ledger) == dict.fromkeys(prompts, 1)
    lines = manifest("out0")
    assert {prompt: line["state"] for prompt, line in lines.items()} == dict.fromkeys(prompts, "done")
    assert images(*folders).keys() == {line["file"] for line in lines.values()}
    assert {line["sha256"] for line in lines.values()} <= {
        sha256(path.read_bytes()).hexdigest() for out in folders for path in Path(out).glob("*.jpeg")
    }


def test_who_waits_for_others_may_be_interrupted(life: ExitStack, order: Order, postgres: Postgres, url: str) -> None:
    """It has ordered nothing, and leaves at once; the row stays with the one that has it."""
    write_rows(1)
    held = Held()
    server = Foreign(generate=[held], image=jpeg())
    life.callback(server.close)
    endpoint = server.listen()
    owner = order(endpoint, "owner")
    assert held.asked.wait(PATIENCE)
    waiting = order(endpoint, "out")
    wait_for(lambda: has_asked(postgres, url))
    waiting.terminate()
    summary = told(waiting, code=130)
    assert (summary["unfinished"], summary["ordered"]) == (1, 0)
    held.release.set()
    assert told(owner)["done"] == 1


def test_an_order_of_a_batch_that_died_is_unknown_where_no_key_helps(
    life: ExitStack, order: Order, postgres: Postgres, url: str
) -> None:
    """While it lives, its row is waited for. Then nobody knows what became of its order, and nobody repeats that unasked."""
    write_rows(1)
    held = Held()
    server = Foreign(generate=[held], image=jpeg())
    life.callback(server.close)
    endpoint = server.listen()
    victim = order(endpoint, "victim")
    assert held.asked.wait(PATIENCE)
    heir = order(endpoint, "out")
    wait_for(lambda: has_asked(postgres, url))
    with pytest.raises(subprocess.TimeoutExpired):
        heir.wait(1)
    victim.kill()
    summary = told(heir, code=11)
    assert (summary["unknown"], summary["ordered"]) == (1, 0)
    held.release.set()
    assert len(server.executions) == 1


def test_a_batch_goes_on_on_another_machine(serve: Serve, order: Order) -> None:
    """The same command with another folder does what is missing; what others have is brought only with --fetch."""
    prompts, server = write_rows(10), serve("--duration", "0.2")
    first = order(server.endpoint, "here", "--in-flight", "2")
    wait_for(lambda: len(images("here")) > 3)
    first.terminate()
    assert told(first, code=130)["done"] < 10
    assert told(order(server.endpoint, "there"))["done"] == 10
    assert executions(server.ledger) == dict.fromkeys(prompts, 1)
    require_shared(prompts, "there", "here")
    assert told(order(NOBODY, "elsewhere"))["done"] == 10  # nothing is missing, so nothing is asked
    assert not images("elsewhere")
    assert told(order(server.endpoint, "elsewhere", "--fetch"))["ordered"] == 0
    lines = manifest("elsewhere")
    assert images("elsewhere") == {line["file"]: 1 for line in lines.values()}
    assert executions(server.ledger) == dict.fromkeys(prompts, 1)


def test_an_image_that_cannot_be_fetched_stays_done(serve: Serve, order: Order) -> None:
    """Another machine has it: who fails to bring it says so, and nobody orders it again."""
    write_rows(1)
    server = serve()
    assert told(order(server.endpoint, "here"))["done"] == 1
    server.kill()
    Path("store.sqlite").unlink()
    for rest in Path().glob("store.sqlite-*"):
        rest.unlink()
    server.start()
    assert told(order(server.endpoint, "there", "--fetch"), code=12)["failed"] == 1
    assert (manifest("there")["cat 0"]["state"], manifest("there")["cat 0"]["error"][:8]) == ("failed", "NotFound")
    summary = told(order(server.endpoint, "there", "--retry-failed"))
    assert (summary["ordered"], summary["done"]) == (0, 1)


def test_equal_rows_of_another_file_are_the_same(serve: Serve, order: Order) -> None:
    """The database is the batch: whatever file a row stands in, and wherever, its image is bought once."""
    prompts, server = write_rows(3), serve()
    assert told(order(server.endpoint, "here"))["ordered"] == 3
    Path("rows.txt").write_text("\n".join(["new", *reversed(prompts)]))
    assert told(order(server.endpoint, "there"))["ordered"] == 1
    assert set(executions(server.ledger).values()) == {1}


def test_what_failed_is_retried_by_one_of_all(life: ExitStack, order: Order) -> None:
    """Of two batches with --retry-failed, one orders it again; what failed after the other began, that one leaves."""
    write_rows(1)
    held = Held()
    server = Foreign(generate=[failed(13, "broken"), held], reads=[failed(13, "broken")], image=jpeg())
    life.callback(server.close)
    endpoint = server.listen()
    assert told(order(endpoint, "first"), code=12)["failed"] == 1
    one = order(endpoint, "out0", "--retry-failed")
    assert held.asked.wait(PATIENCE)
    other = order(endpoint, "out1", "--retry-failed")
    wait_for(Path("out1", "manifest.jsonl").exists)  # by now it has read the ledger
    held.release.set()
    assert [told(process, code=12)["ordered"] for process in (one, other)] == [1, 0]
    assert len(server.executions) == 2


def test_a_dry_run_makes_nothing_there(serve: Serve, order: Order, postgres: Postgres, url: str) -> None:
    """It knows what the ledger knows."""
    write_rows(3)
    assert told(order(NOBODY, "out", "--dry-run"))["new"] == 3
    assert postgres.do("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'yandexart%'", url) == [(0,)]
    assert told(order(serve().endpoint, "out"))["done"] == 3
    plan = told(order(NOBODY, "there", "--dry-run"))
    assert (plan["new"], plan["done"]) == (0, 3)
    assert told(order(NOBODY, "there", "--dry-run", "--fetch"))["waiting"] == 3


class TestLoss:
    """PostgreSQL is not there, or not what it should be."""

    SECRET = "hunter2"
    WRONG = (
        ("postgresql://me:{}@127.0.0.1:1/art", r"ledger: postgresql://\*\*\*@127.0.0.1:1/art cannot be used: .*refused"),
        ("postgresql://me@127.0.0.1:1/art?password={}", r"ledger: postgresql://\*\*\*@127.0.0.1:1/art cannot be used: .*refused"),
        ("postgresql://me:a@{}@127.0.0.1:1/art", "ledger: this is not postgresql://user@host/database, in which special"),
        ("postgresql://me:a/{}@127.0.0.1:1/art", "ledger: this is not postgresql://"),
        ("postgresql://me:a?{}@127.0.0.1:1/art", "ledger: this is not postgresql://"),
        ("postgresql://me:a#{}@127.0.0.1:1/art", "ledger: this is not postgresql://"),
        ("postgresql://me:{}/art", "ledger: this is not postgresql://"),
        (
            "postgresql://me:{}%zz@127.0.0.1:1/art",
            r"ledger: postgresql://\*\*\*@127.0.0.1:1/art has an unknown parameter or a wr",
        ),
        ("sqlite:///{}", "ledger: this is not postgresql://"),
    )

    @pytest.mark.parametrize(("wrong", "words"), WRONG, ids=range(len(WRONG)))
    def test_a_wrong_url_costs_nothing_and_tells_no_password(self, wrong: str, words: str) -> None:
        """The error says what is wrong, before anything is sent."""
        write_rows(1)
        wrong = wrong.format(self.SECRET)
        for options in [[], ["--dry-run"]]:
            result = run("batch", "rows.txt", "-o", "out", "--endpoint", NOBODY, "--ledger", wrong, *options)
            assert result.exit_code == 2
            assert re.search(words, result.stderr.replace("\n", " ")), result.stderr
            assert self.SECRET not in result.output
        assert not list(Path("out").glob("*.j*"))

    def test_the_extra_is_named_where_it_is_missing(self) -> None:
        """Nothing but this needs it."""
        script = "import sys; sys.modules['psycopg'] = None; from yandexart_grpc.cli import main; main()"
        write_rows(1)
        command = [sys.executable, "-c", script, "batch", "rows.txt", "-o", "out", "--endpoint", NOBODY]
        command += ["--ledger", "postgresql://h/d"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 2
        assert "ledger: PostgreSQL needs more packages: pip install 'yandexart-grpc[postgres]'" in done.stderr

    def test_a_folder_with_a_ledger_of_its_own_is_refused(self, serve: Serve, order: Order, url: str) -> None:
        """The other ledger would buy again what this one knows."""
        write_rows(2)
        endpoint = serve().endpoint
        with YandexArt(endpoint=endpoint) as art:
            rows = batch.read_rows("rows.txt")
            assert batch.run(art, rows, "out").done == 2
            for call in (lambda: batch.run(art, rows, "out", ledger=url), lambda: batch.plan(rows, "out", ledger=url)):
                with pytest.raises(ConfigurationError, match=r"out/ledger.db knows of 2 rows, which another ledger would buy"):
                    call()

    def test_two_batches_in_one_folder(self, serve: Serve, order: Order) -> None:
        """They may share a ledger, and no folder."""
        write_rows(10)
        endpoint = serve("--duration", "0.3").endpoint
        first = order(endpoint, "out", "--in-flight", "2")
        wait_for(lambda: bool(images("out")))
        out, err = order(endpoint, "out").communicate(timeout=PATIENCE)
        assert "another batch is at work in this folder" in out + err
        assert told(first)["done"] == 10

    def test_a_newer_ledger_is_refused(self, order: Order, postgres: Postgres, url: str, serve: Serve) -> None:
        """It is not changed."""
        write_rows(1)
        endpoint = serve().endpoint
        told(order(endpoint, "out"))
        postgres.do("UPDATE yandexart_batch SET version = 2", url)
        out, err = order(endpoint, "out").communicate(timeout=PATIENCE)
        assert "is 2, and the newest that is known here is 1" in out + err

    def test_a_restart_stops_the_batch_and_loses_nothing(self, serve: Serve, order: Order, postgres: Postgres) -> None:
        """It orders nothing that cannot be written down, and the same command goes on; every row is bought once."""
        prompts, server = write_rows(30), serve("--duration", "0.2")
        running = [order(server.endpoint, out, "--in-flight", "3") for out in ("out0", "out1")]
        wait_for(lambda: len(executions(server.ledger)) > 8)
        postgres.stop()
        try:
            for process in running:
                summary = told(process, code=1)
                assert summary["stopped_by"]["message"].startswith("ledger: postgresql://***@/")
                assert summary["unfinished"] > 0
            bought = executions(server.ledger).total()
            assert bought < 30
        finally:
            postgres.start()
        ends = [told(process) for process in [order(server.endpoint, out) for out in ("out0", "out1")]]
        assert [summary["done"] for summary in ends] == [30, 30]
        assert executions(server.ledger) == dict.fromkeys(prompts, 1)
        lines = manifest("out0")
        assert {prompt: line["state"] for prompt, line in lines.items()} == dict.fromkeys(prompts, "done")
        assert images("out0", "out1").keys() == {line["file"] for line in lines.values()}


def test_a_zero_in_a_prompt_can_be_kept(serve: Serve, url: str) -> None:
    """PostgreSQL knows no such letter in a text."""
    rows = batch.read_rows(io.BytesIO(b'{"prompt": "a\\u0000b", "seed": 1}'), form="jsonl")
    with YandexArt(endpoint=serve().endpoint) as art:
        summary = batch.run(art, rows, "out", ledger=url, metadata=False)
    assert (summary.done, summary.stopped_by) == (1, None)
    (image,) = Path("out").glob("*.jpeg")
    assert sha256(image.read_bytes()).hexdigest() == digest("a\0b", 1)
