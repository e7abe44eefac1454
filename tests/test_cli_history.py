"""`yandexart history`: what a store and a ledger know of what was asked for."""

import csv
import json
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.postgres import Postgres
from tests.test_cli import printed, python, run
from yandexart_grpc import YandexArt, YandexArtError
from yandexart_grpc.batch.origin import Origin, origin_of
from yandexart_grpc.server import embedded

MODEL = "art://folder/yandex-art/latest"
PROMPTS = ("a red cat", "рыжий КОТ", "refuse this prompt")


class Kept(NamedTuple):
    """A store that a server is using, and the ids of what was asked for."""

    url: str
    ids: list[str]
    images: list[bytes]
    art: YandexArt


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder, and a cloud folder pays."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("YC_FOLDER_ID", "folder")
    return tmp_path / "here"


@pytest.fixture
def kept(store: str) -> Iterator[Kept]:
    """A store of either kind with two pictures and a refusal; its server goes on meanwhile."""
    with embedded(duration="fixed:0", store=store) as server, YandexArt(endpoint=server.endpoint, folder_id="folder") as art:
        ids, images = [], []
        for seed, prompt in enumerate(PROMPTS, 1):
            operation = art.submit(prompt, seed=seed, aspect_ratio="16:9")
            ids.append(operation.id)
            try:
                images.append(operation.result().data)
            except YandexArtError:
                continue
        yield Kept(store, ids, images, art)


@pytest.fixture
def ledger() -> Path:
    """The folder of a batch that has ended."""
    Path("prompts.txt").write_text("a red cat\nрыжий КОТ\n")
    assert run("batch", "prompts.txt", "-o", "pictures", "--demo").exit_code == 0
    return Path("pictures")


def listed(*arguments: str) -> list[dict[str, object]]:
    """What `history` lists for programs."""
    result = run("history", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = printed(result.stdout)["operations"]
    assert isinstance(found, list)
    return found


class TestStore:
    def test_the_newest_stands_first(self, kept: Kept) -> None:
        """With time, state, id and prompt, a line each, beside the server that uses the store."""
        result = run("history", "list", "--store", kept.url)
        assert (result.exit_code, result.stderr) == (0, "")
        rows = [line.split(maxsplit=3) for line in result.stdout.splitlines()]
        assert [(state, name, prompt) for _, state, name, prompt in rows] == [
            ("failed", kept.ids[2], PROMPTS[2]),
            ("done", kept.ids[1], PROMPTS[1]),
            ("done", kept.ids[0], PROMPTS[0]),
        ]

    def test_programs_get_all_that_is_known(self, kept: Kept) -> None:
        """One object with every attribute."""
        refused, _, first = listed("list", "--store", kept.url)
        assert first.keys() == refused.keys()
        assert str(first.pop("created")).endswith("Z")
        assert float(str(first.pop("seconds"))) >= 0
        assert first == {
            "operation_id": kept.ids[0],
            "state": "done",
            "caller": "",
            "prompt": "a red cat",
            "seed": 1,
            "model": MODEL,
            "aspect_ratio": "16:9",
            "weighted": False,
            "file": None,
            "error": None,
            "warnings": [],
        }
        assert "terms of use" in str(refused["error"])

    def test_what_is_listed_can_be_chosen(self, kept: Kept) -> None:
        """By state, by number, by a piece of the prompt in any case, by the id."""
        assert [one["operation_id"] for one in listed("list", "--state", "failed", "--store", kept.url)] == [kept.ids[2]]
        assert [one["operation_id"] for one in listed("list", "--limit", "1", "--store", kept.url)] == [kept.ids[2]]
        assert [one["operation_id"] for one in listed("search", "кот", "--store", kept.url)] == [kept.ids[1]]
        assert [one["operation_id"] for one in listed("search", kept.ids[0], "--store", kept.url)] == [kept.ids[0]]
        assert listed("search", "nothing", "--store", kept.url) == []
        assert listed("list", "--state", "running", "--store", kept.url) == []

    def test_the_environment_names_the_store(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        """YANDEXART_STORE stands in for --store."""
        monkeypatch.setenv("YANDEXART_STORE", kept.url)
        assert len(listed("list")) == 3

    def test_one_is_shown_with_the_command_that_makes_it_again(self, kept: Kept) -> None:
        """The command brings the same picture from the same server."""
        result = run("history", "show", kept.ids[1], "--store", kept.url)
        told = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert (told["prompt"], told["seed"], told["model"], told["aspect_ratio"]) == ("рыжий КОТ", "2", MODEL, "16:9")
        endpoint = str(kept.art._settings.endpoint)
        arguments = ["-o", "again.jpeg", "--no-metadata", "--endpoint", endpoint]
        assert run(*shlex.split(told["again"])[1:], *arguments).exit_code == 0
        assert Path("again.jpeg").read_bytes() == kept.images[1]

    def test_an_unknown_id_is_not_found(self, kept: Kept) -> None:
        """With the exit code of `NotFound`; what has the id in its prompt is another one."""
        kept.art.generate("fbvnobody")
        result = run("history", "show", "fbvnobody", "--store", kept.url)
        assert (result.exit_code, result.stdout) == (6, "")

    def test_all_is_exported(self, kept: Kept) -> None:
        """As JSONL on stdout or in a file, as CSV with a header; what is there is replaced by --force alone."""
        lines = [json.loads(line) for line in run("history", "export", "--store", kept.url).stdout.splitlines()]
        assert lines == listed("list", "--store", kept.url)
        assert run("history", "export", "--store", kept.url, "-o", "all.csv").exit_code == 0
        with Path("all.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["operation_id"], row["prompt"], row["seed"]) for row in rows] == [
            (name, prompt, str(seed))
            for seed, (name, prompt) in reversed(list(enumerate(zip(kept.ids, PROMPTS, strict=True), 1)))
        ]
        again = ["history", "export", "--store", kept.url, "-o", "all.csv", "--search", "cat"]
        refused = run(*again)
        assert (refused.exit_code, refused.stderr) == (1, "Error: all.csv: it exists already; --force replaces it\n")
        assert run(*again, "--force").exit_code == 0
        assert len(Path("all.csv").read_text().splitlines()) == 2

    def test_images_are_exported(self, kept: Kept) -> None:
        """Each as a file that says where it comes from, or as it came; a second time they are left as they are."""
        done = run("history", "export", "--store", kept.url, "--images", "out")
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr == "out: of 2 images, 2 were saved, and 0 were there already\n"
        files = [Path("out") / f"yandexart-{name}.jpeg" for name in kept.ids[:2]]
        assert sorted(Path("out").iterdir()) == sorted(files)
        assert origin_of(files[0].read_bytes()) == Origin(
            prompt="a red cat", seed=1, model=MODEL, aspect_ratio="16:9", operation_id=kept.ids[0]
        )
        files[0].unlink()
        again = run("history", "export", "--store", kept.url, "--images", "out", "--no-metadata")
        assert again.stderr == "out: of 2 images, 1 were saved, and 1 were there already\n"
        assert files[0].read_bytes() == kept.images[0]

    def test_many_are_exported(self, kept: Kept) -> None:
        """More than are asked of the store at a time."""
        with YandexArt(endpoint=str(kept.art._settings.endpoint), folder_id="folder", submits_per_minute=100_000) as art:
            for _ in range(520):
                art.submit("refuse this prompt")  # it is not drawn
        assert len(run("history", "export", "--store", kept.url).stdout.splitlines()) == 523

    def test_the_store_stays_as_it_was(self, file: str) -> None:
        """Not a byte of a file that nobody serves is changed, and nothing is put beside it."""
        with embedded(duration="fixed:0", store=file) as server, YandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
            art.generate("a cat")
        path = Path(file.removeprefix("sqlite:///"))
        before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
        assert len(listed("list", "--store", file)) == 1
        assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before


class TestLedger:
    @pytest.mark.parametrize("name", ["pictures", "pictures/ledger.db"])
    def test_a_folder_or_its_ledger_is_listed(self, name: str, ledger: Path) -> None:
        """The last that was written first; it knows neither times nor models."""
        found = listed("list", "--ledger", name)
        manifest = [json.loads(line) for line in (ledger / "manifest.jsonl").read_text().splitlines()]
        assert [one["operation_id"] for one in found] == [line["operation_id"] for line in reversed(manifest)]
        assert {one["state"] for one in found} == {"done"}
        assert [(one["created"], one["model"]) for one in found] == [(None, None)] * 2
        assert [one["prompt"] for one in listed("search", "кот", "--ledger", name)] == ["рыжий КОТ"]
        assert listed("list", "--state", "failed", "--ledger", name) == []

    def test_its_images_are_copied(self, ledger: Path) -> None:
        """Under the names of their ids."""
        assert run("history", "export", "--ledger", "pictures", "--images", "out").exit_code == 0
        copied = {path.read_bytes() for path in Path("out").iterdir()}
        assert copied == {path.read_bytes() for path in ledger.glob("*.jpeg")}

    def test_a_shared_ledger_is_listed(self, postgres: Postgres) -> None:
        """Wherever its batches run; the images are theirs."""
        url = postgres.database()
        Path("prompts.txt").write_text("a red cat\n")
        assert listed("list", "--ledger", url) == []
        assert run("batch", "prompts.txt", "-o", "pictures", "--demo", "--ledger", url).exit_code == 0
        assert [one["prompt"] for one in listed("list", "--ledger", url)] == ["a red cat"]
        result = run("history", "export", "--ledger", url, "--images", "out")
        assert result.exit_code == 2
        assert "they are in the folders of the batches" in result.stderr

    def test_a_batch_at_work_keeps_its_ledger_to_itself(self, ledger: Path) -> None:
        """Which is told, and does not disturb it."""
        with sqlite3.connect(ledger / "ledger.db") as connection:
            connection.execute("BEGIN EXCLUSIVE")
            result = run("history", "list", "--ledger", "pictures")
            connection.rollback()
        connection.close()
        assert (result.exit_code, result.stderr) == (2, "Error: pictures: another batch is at work in this folder\n")


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["list"], "yandexart.db' is no file"),
            (["list", "--store", "mysql://x"], "store: 'mysql://x' is neither"),
            (["list", "--ledger", "nowhere"], "ledger: nowhere is no file"),
            (["list", "--ledger", "pictures", "--state", "running"], "state: 'running' is none that a ledger knows: submitting"),
            (["list", "--store", "sqlite:///x.db", "--ledger", "pictures"], "give one of them"),
            (["list", "--limit", "0"], "0 is not in the range"),
            (["export", "--ledger", "pictures", "-o", "all.xlsx"], "its extension is none of .jsonl, .csv"),
            (["export", "--ledger", "pictures", "-o", "nowhere/all.csv"], "nowhere/all.csv: No such file or directory"),
        ],
    )
    def test_each_is_named(self, arguments: list[str], words: str, ledger: Path) -> None:
        """In a line or two, with its value."""
        result = run("history", *arguments)
        assert result.exit_code in (1, 2)
        assert words in result.stderr

    def test_a_store_knows_no_states_of_ledgers(self, file: str) -> None:
        """What it knows is listed."""
        with embedded(store=file):
            result = run("history", "list", "--store", file, "--state", "unknown")
        assert result.exit_code == 2
        assert "state: 'unknown' is none that a store knows: accepted, running, done, failed" in result.stderr

    def test_without_the_packages_of_the_server(self, ledger: Path) -> None:
        """A store needs them, and says so; a ledger does not."""
        for arguments, code in ((["list"], 2), (["list", "--ledger", "pictures"], 0)):
            hide = f"import sys; sys.modules['sqlalchemy'] = None; sys.argv[1:] = {['history', *arguments]!r}"
            done = python(f"{hide}; from yandexart_grpc.cli import main; main()")
            assert done.returncode == code, done.stderr
            assert ("pip install 'yandexart-grpc[server]'" in done.stderr) is (code == 2)


def test_a_prompt_cannot_command_the_terminal() -> None:
    """Escapes in it are shown as such."""
    Path("prompts.txt").write_text("a \x1b[2J cat\n")
    assert run("batch", "prompts.txt", "-o", "pictures", "--demo").exit_code == 0
    assert run("history", "list", "--ledger", "pictures").stdout.endswith("  a \\x1b[2J cat\n")
