"""Batches, through their front doors: the command line as a process of its own where it is interrupted or killed, real servers,
and a count of what was bought."""

import io
import itertools
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import tempfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yandex.cloud.operation.operation_pb2 import Operation

from tests.foreign import Answer, Foreign, Held, alone, failed, jpeg, pictured, refused
from tests.test_cli import COMMAND, NOBODY, end, plain, printed, read_until, run, start
from yandexart_grpc import InvalidRequest, Unavailable, YandexArt, YandexArtError, batch, stubs
from yandexart_grpc.batch.folder import file_name
from yandexart_grpc.batch.ledger import Ledger, Record, State
from yandexart_grpc.batch.rows import FIELDS
from yandexart_grpc.batch.settle import Again, settle
from yandexart_grpc.server import Embedded, embedded

PICTURE = jpeg()
PROMPTS = ["a red cat", "a blue dog", "рыжий кот"]
NAME = re.compile(r"[0-9A-Za-z-]{1,40}-[0-9a-f]{16}\.jpeg")

Serve = Callable[..., tuple[Foreign, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder that holds nothing but three prompts, and a cloud folder pays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YC_FOLDER_ID", "folder")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return tmp_path


@pytest.fixture
def foreign() -> Iterator[Serve]:
    """Makes scripted servers, and closes them in the end. What the script says nothing about, they make at once."""
    made: list[Foreign] = []

    def make(generate: Iterable[Answer] = (), reads: Iterable[Answer] = (), image: bytes = PICTURE) -> tuple[Foreign, str]:
        made.append(Foreign(generate=chain(generate, repeat(pictured(image))), reads=reads, image=image))
        return made[-1], made[-1].listen()

    yield make
    for server in made:
        server.close()


def order(endpoint: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the batch of this test, and return its exit code and what it prints to programs."""
    result = run("batch", "prompts.txt", "-o", "out", "--endpoint", endpoint, "--json", *options)
    return result.exit_code, printed(result.stdout or result.stderr)


def going(endpoint: str, *options: str, **settings: Any) -> "subprocess.Popen[str]":
    """The same as a process."""
    return start("batch", "prompts.txt", "-o", "out", "--endpoint", endpoint, *options, **settings)


def manifest() -> dict[str, dict[str, Any]]:
    """The latest line of each prompt. All lines can be read."""
    lines = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    return {line["prompt"]: line for line in lines}


def images() -> list[Path]:
    """The images of the batch."""
    return sorted(Path("out").glob("*.jpeg"))


def rows_of(text: str, form: batch.Form | None = None, **image: Any) -> list[batch.Row]:
    """The rows in a text."""
    return batch.read_rows(io.BytesIO(text.encode()), form=form, **image)


def require_whole(prompts: list[str]) -> None:
    """Each prompt is one image, whose hash the manifest has, and no piece of another file is there."""
    told = manifest()
    assert {prompt: line["state"] for prompt, line in told.items()} == dict.fromkeys(prompts, "done")
    assert [Path("out") / name for name in sorted(line["file"] for line in told.values())] == images()
    assert all(sha256((Path("out") / line["file"]).read_bytes()).hexdigest() == line["sha256"] for line in told.values())
    assert not list(Path("out").glob(".*"))


class TestRows:
    def test_every_form_says_the_same(self, folder: Path) -> None:
        """Text, JSON lines, CSV and TSV, with and without a mark at the start of the file, give equal rows."""
        texts = {
            "a.txt": "a red cat\n\n  a blue dog\r\n",
            "b.jsonl": '{"prompt": "a red cat"}\n{"prompt": ["a blue dog"], "seed": null}\n',
            "c.csv": "\ufeffNote,Prompt,seed\nx,a red cat,\n,,\ny,a blue dog\n",
            "d.tsv": '\ufeffPROMPT\tid\na red cat\t\n"a blue dog"\t\n',
        }
        found = []
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode())
            found.append([(row.key, row.request) for row in batch.read_rows(name)])
        assert found == [found[0]] * 4
        assert [request.prompt for _, request in found[0]] == ["a red cat", "a blue dog"]

    def test_every_field_of_a_row_reaches_its_request(self) -> None:
        """What a row says goes before what is said for all."""
        text = '{"prompt": [["a cat", 1], ["rain", -0.5]], "id": 7, "seed": 5, "aspect_ratio": [2, 3], "model": "other/latest"}\n'
        (first, second) = rows_of(text + '{"prompt": "a dog"}', "jsonl", folder_id="b1g", seed=9, aspect_ratio="16:9")
        assert first.request.messages == (("a cat", 1), ("rain", -0.5))
        assert (first.request.seed, first.request.aspect_ratio, first.request.model_uri) == (5, (2, 3), "art://b1g/other/latest")
        assert (second.request.seed, second.request.aspect_ratio) == (9, (16, 9))
        (third,) = rows_of("id,prompt,seed,aspect_ratio,model\n7, a cat,5,2:3,art://x/y\n", "csv")
        assert (third.request.prompt, third.request.seed, third.request.model_uri) == ("a cat", 5, "art://x/y")

    @given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.randoms(use_true_random=False), st.sampled_from("abcd"))
    def test_order_and_insertions_change_no_key(self, prompts: list[str], random: Any, more: str) -> None:
        """Rows are told apart by content, and equal ones by number; a file that grows keeps the keys and seeds that it had."""
        before = {row.key: row.request for row in rows_of("\n".join(prompts))}
        assert len(before) == len(prompts)
        random.shuffle(prompts)
        assert {row.key: row.request for row in rows_of("\n".join(prompts))} == before
        prompts.insert(random.randrange(len(prompts) + 1), more)
        assert before.items() <= {row.key: row.request for row in rows_of("\n\n".join(prompts))}.items()

    def test_a_key_says_everything_that_is_asked_for(self) -> None:
        """Whatever changes the image, and the id, changes the key; all seeds are in range and differ."""
        rows = [
            *rows_of('{"prompt": "a"}\n{"prompt": "a", "id": "1"}\n{"prompt": "a", "seed": 1}', "jsonl"),
            *rows_of("a", seed=2),
            *rows_of("a", aspect_ratio="2:1"),
            *rows_of("a", model="m"),
            *rows_of("a", folder_id="f"),
        ]
        assert len({row.key for row in rows}) == len(rows)
        drawn = [row.request.seed for row in rows if row.request.seed > 2]
        assert len(set(drawn)) == len(drawn) == 5
        assert all(seed < 2**63 for seed in drawn)

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        """Line, field, value and limit of each row, on a line of its own."""
        text = 'prompt,seed,aspect_ratio,id\n"a\ncat",1,,\na,0,,\na,x,0:1,\na, b,2,,\n,3,,\n' + "y" * 501 + ",,,\nb,,,1\nb,,,1\n"
        with pytest.raises(InvalidRequest) as caught:
            rows_of(text, "csv")
        assert str(caught.value).splitlines() == [
            "rows: 6 of 8 rows cannot be ordered, so nothing was",
            "line 4: seed: 0 would let the service draw one; the least is 1, the largest 9223372036854775807",
            "line 5: seed: 'x' is not an integer from 1 to 9223372036854775807; aspect_ratio: (0, 1) is not two integers "
            "from 1 to 9223372036854775807, such as '16:9'",
            "line 6: 5 cells, where the header has 4",
            "line 7: prompt: None is not a text",
            "line 8: Prompt positive size 501 exceeds limit (500)",
            "line 10: id: that of line 9, which asks for the same",
        ]

    def test_what_is_wrong_with_many_rows_is_told_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the lines, as when the folder that pays is missing."""
        monkeypatch.delenv("YC_FOLDER_ID")
        with pytest.raises(InvalidRequest) as caught:
            batch.check_rows(io.BytesIO(b"a\nb\n\nc\n"), folder_id=None).right()
        first, second = str(caught.value).splitlines()
        assert first.endswith("3 of 3 rows cannot be ordered, so nothing was")
        assert second.startswith("lines 1 to 4: model_uri: 'art:///yandex-art/latest' is not art://<folder_id>/<model>")

    def test_a_quote_in_tsv_is_a_letter(self) -> None:
        """But for cells that are quoted as a whole."""
        text = 'prompt\tid\n"GIGGLE" on a wall\t\na 5" disk\t\n"say ""hi"""\t\n'
        assert [row.request.prompt for row in rows_of(text, "tsv")] == ['"GIGGLE" on a wall', 'a 5" disk', 'say "hi"']

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('{"prompt": "a", "sede": 5, "x": 1}', "'sede', 'x': not among prompt, id, seed, aspect_ratio, model"),
            ('{"prompt": "a"', '\'{"prompt": "a"\' is not JSON: '),
            ('["a"]', "is not an object with a prompt"),
            ('{"seed": 5}', "prompt: None is not a text"),
            ('{"prompt": "a", "id": ""}', "id: '' is neither a text nor an integer"),
            ('{"prompt": "a", "id": true}', "id: True is neither a text nor an integer"),
            ('{"prompt": "a", "seed": 1.5}', "seed: 1.5 is not an integer"),
            ('{"prompt": [["a", 0]]}', "weight: 0 is not a finite number"),
            ('{"prompt": [["a", 1%s]]}' % ("0" * 400), "is not a finite number"),
            ('{"prompt": [["a", 1, 2]]}', "is not a text"),
            (r'{"prompt": "a", "model": "\ud800"}', "is not JSON: 'utf-8' codec can't encode character"),
            ("[" * 100_000, "is not JSON: "),
        ],
    )
    def test_a_wrong_object_is_told(self, line: str, words: str) -> None:
        """With its line, whatever is wrong with it."""
        found = batch.check_rows(io.BytesIO(f'\n{{"prompt": "right"}}\n{line}'.encode()), form="jsonl")
        assert len(found.rows) == 1
        assert found.problems[0].startswith("line 3: ")
        assert words in found.problems[0]

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("a.xlsx", b"a", "a.xlsx: 'xlsx' is none of the forms txt, jsonl, csv, tsv"),
            ("missing.txt", None, "missing.txt: cannot be read: No such file or directory"),
            ("a.txt", "a\nкот".encode("cp1251"), "a.txt: line 2: byte 0xea is not UTF-8"),
            ("a.csv", b"text,seed\na,1\n", "line 1: prompt: not exactly one column of this name in ['text', 'seed']"),
            ("a.csv", b"prompt,Prompt\na,b\n", "line 1: prompt: not exactly one column of this name in ['prompt', 'Prompt']"),
            ("a.csv", b'prompt\n"a\nb\nc', "line 2: cannot be read, nor can what follows: unexpected end of data"),
            ("a.txt", b"\n \n", "a.txt: there is no row in it"),
            ("a.csv", b"prompt\n", "a.csv: there is no row in it"),
        ],
    )
    def test_a_file_that_cannot_be_read(self, name: str, data: bytes | None, words: str) -> None:
        """It is named, and the exit code is that of a wrong request."""
        if data is not None:
            Path(name).write_bytes(data)
        result = run("batch", name, "-o", "out", "--endpoint", NOBODY)
        assert result.exit_code == 2
        assert words in result.stderr
        assert not Path("out").exists()

    @given(st.binary() | st.text().map(str.encode), st.sampled_from(["txt", "jsonl", "csv", "tsv"]), st.booleans())
    def test_nothing_else_comes_of_any_file(self, data: bytes, form: batch.Form, headed: bool) -> None:
        """Whatever bytes a file holds: rows that can be sent, or an error of ours."""
        try:
            found = batch.check_rows(io.BytesIO(b"prompt,id,seed\n" * headed + data), form=form, folder_id="f")
        except YandexArtError:
            return
        for row in found.rows:
            assert row.request.to_proto().SerializeToString()
            assert 0 < row.request.seed < 2**63

    @given(
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
        st.sampled_from(FIELDS),
    )
    @settings(max_examples=50)
    def test_nothing_else_comes_of_any_value(self, value: Any, field: str) -> None:
        """Whatever JSON stands in a field."""
        found = batch.check_rows(io.BytesIO(json.dumps({"prompt": "a"} | {field: value}).encode()), form="jsonl", folder_id="f")
        assert len(found.rows) + found.wrong == 1
        assert all(row.request.to_proto().SerializeToString() for row in found.rows)


class TestFiles:
    @given(
        st.text(min_size=1, max_size=100) | st.sampled_from(["../../etc/passwd", "CON", "a" * 500, ".", "-o", "a\x00b", "x/y"])
    )
    @settings(max_examples=50)
    def test_a_prompt_gives_a_file_name_of_our_own(self, prompt: str) -> None:
        """Whatever the prompt: one plain name in this folder, with which a file can be made."""
        found = batch.check_rows(io.BytesIO(json.dumps({"prompt": prompt}).encode()), form="jsonl", folder_id="f")
        for row in found.rows:
            name = file_name(row)
            assert NAME.fullmatch(name)
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / name).touch()
                assert os.listdir(folder) == [name]  # noqa: PTH208  # names, as they are

    def test_the_comment_tells_where_an_image_comes_from(self, server: Embedded) -> None:
        """Prompt, seed, model, ratio and id, where any reader of JPEG finds them; the first segments stay the first."""
        assert order(server.endpoint)[0] == 0
        line = manifest()["рыжий кот"]
        with PIL.Image.open(Path("out") / line["file"]) as image:
            image.load()
            about = json.loads(image.info["comment"])
        model = "art://folder/yandex-art/latest"
        known = {"prompt": "рыжий кот", "seed": line["seed"], "operation_id": line["operation_id"]}
        assert about == known | {"model": model, "aspect_ratio": "", "weighted": False}
        assert (Path("out") / line["file"]).read_bytes()[:4] == b"\xff\xd8\xff\xe0"
        require_whole(PROMPTS)

    def test_without_metadata_the_file_is_what_came(self, foreign: Serve) -> None:
        """Not a byte is changed."""
        assert order(foreign()[1], "--no-metadata")[0] == 0
        assert [path.read_bytes() for path in images()] == [PICTURE] * 3

    def test_links_are_replaced_and_not_followed(self, foreign: Serve) -> None:
        """What a name of ours led to keeps its content; pieces that a killed run left are gone; other files stay."""
        Path("out").mkdir()
        Path("precious").write_text("precious")
        names = [file_name(row) for row in batch.read_rows("prompts.txt")]
        (Path("out") / names[0]).symlink_to("../precious")
        (Path("out") / f".{names[1]}.part").write_text("half of an image")
        (Path("out") / ".mine.part").write_text("mine")
        assert order(foreign()[1])[0] == 0
        assert Path("precious").read_text() == "precious"
        assert not images()[0].is_symlink()
        (Path("out") / ".mine.part").unlink()
        require_whole(PROMPTS)

    @pytest.mark.parametrize("there", ["file", "nothing can be made there"])
    def test_a_folder_that_cannot_be_used_costs_nothing(self, there: str, foreign: Serve) -> None:
        """It is told before anything is sent."""
        server, endpoint = foreign()
        Path("file").write_text("precious")
        target = "file/out" if there == "file" else "/proc/nothing/out"
        result = run("batch", "prompts.txt", "-o", target, "--endpoint", endpoint)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {target}: ")
        assert server.executions == []

    def test_a_full_disk_loses_nothing_that_was_paid_for(self, foreign: Serve) -> None:
        """Ordering stops, and with space again the images come by their ids."""
        server, endpoint = foreign(image=jpeg(size=100_000))
        command = ["sh", "-c", 'ulimit -f 100 && exec "$0" "$@"', str(COMMAND)]  # 51,200 bytes, enough for a ledger
        command += ["batch", "prompts.txt", "-o", "out", "--endpoint", endpoint, "--in-flight", "1"]
        done = subprocess.run(command, text=True, capture_output=True, timeout=30, check=False)
        assert done.returncode == 1
        assert re.search(r"^Error: out/.*\.jpeg: File too large$", done.stderr, re.MULTILINE)
        assert len(server.executions) == 1
        assert order(endpoint)[1]["ordered"] == 2
        assert len(server.executions) == 3
        require_whole(PROMPTS)


class TestLedger:
    def test_two_batches_in_one_folder(self, foreign: Serve) -> None:
        """The second is told so, and the first goes on."""
        held = Held()
        server, endpoint = foreign(generate=[held])
        process = going(endpoint, "--in-flight", "1")
        assert held.asked.wait(30)
        for options in [[], ["--dry-run"]]:
            code, told = order(endpoint, *options)
            assert (code, told["message"]) == (2, "out: another batch is at work in this folder")
        held.release.set()
        assert end(process)[0] == 0
        assert len(server.executions) == 3

    def test_a_newer_ledger_is_refused(self, server: Embedded) -> None:
        """As is what is no ledger; neither is changed."""
        assert order(server.endpoint)[0] == 0
        with sqlite3.connect("out/ledger.db") as ledger:
            ledger.execute("PRAGMA user_version = 2")
        ledger.close()
        assert "its version is 2, and the newest that is known here is 1" in order(server.endpoint)[1]["message"]
        Path("out/ledger.db").write_bytes(b"precious" * 1000)
        code, told = order(server.endpoint)
        assert (code, told["error"]) == (2, "ConfigurationError")
        assert Path("out/ledger.db").read_bytes() == b"precious" * 1000

    @pytest.mark.parametrize("damage", [b"", b'{"key": "half of a li', b'no json\n{"prompt": 5}\n[]\n\xff\n{"key": '])
    def test_a_manifest_is_mended_from_the_ledger(self, damage: bytes, server: Embedded) -> None:
        """Half of a line is cut off, and what is missing is told again, however much that is."""
        assert order(server.endpoint)[0] == 0
        whole = Path("out/manifest.jsonl").read_bytes().splitlines(keepends=True)
        Path("out/manifest.jsonl").write_bytes(whole[0] + damage)
        assert order(server.endpoint)[1]["ordered"] == 0
        mended = Path("out/manifest.jsonl").read_bytes().splitlines(keepends=True)
        assert Counter(mended) >= Counter(whole)
        assert len(mended) == 3 + damage.count(b"\n")
        Path("out/manifest.jsonl").unlink()
        assert order(server.endpoint)[0] == 0
        assert Counter(Path("out/manifest.jsonl").read_bytes().splitlines(keepends=True)) == Counter(whole)


class TestSettle:
    @given(
        st.builds(
            Record,
            key=st.just("k"),
            prompt=st.just("a"),
            seed=st.just(1),
            state=st.sampled_from(list(State)[1:]),
            scope=st.sampled_from([None, "here", "elsewhere"]),
            endpoint=st.sampled_from(["https://host:443", "demo://"]),
            operation_id=st.just("fbv"),
            file=st.sampled_from(["there", "missing"]),
        ),
        st.sampled_from([None, "here"]),
        st.builds(Again, failed=st.booleans(), unknown=st.booleans()),
    )
    def test_nothing_is_bought_twice_unasked(self, known: Record, scope: str | None, again: Again) -> None:
        """An order is sent again under a new key only when that is asked for, and under its old one only where that is known."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "there").touch()
            record = settle(rows_of("a")[0], known, Path(folder), scope, again)
        asked = (known.state is State.FAILED and again.failed) or (
            known.state in (State.UNKNOWN, State.SUBMITTING) and again.unknown
        )
        free = known.endpoint == "demo://"
        if record.state is State.NEW:
            again_by_key = known.state is State.SUBMITTING and scope is not None and scope == known.scope
            assert asked or again_by_key or free
            assert record.attempt == known.attempt or (asked and not again_by_key)
        assert record.state is not State.SUBMITTING
        if known.state is State.SUBMITTED and not free:
            assert record == known
        if known.state is State.DONE and not free:
            assert record == replace(known, state=State.DONE if known.file == "there" else State.SUBMITTED)


class TestAgain:
    def test_what_is_done_is_not_done_again(self, foreign: Serve) -> None:
        """A second run needs no server, and a third orders only what was added."""
        server, endpoint = foreign()
        assert order(endpoint)[1] | {"seconds": 0} == {
            "folder": "out",
            "rows": 3,
            "done": 3,
            "failed": 0,
            "unknown": 0,
            "unfinished": 0,
            "ordered": 3,
            "seconds": 0,
            "stopped_by": None,
            "exit": 0,
        }
        assert order(NOBODY)[1]["ordered"] == 0
        Path("prompts.txt").write_text("\n".join(["new", *reversed(PROMPTS)]))
        assert order(endpoint)[1]["ordered"] == 1
        assert len(server.executions) == 4
        require_whole([*PROMPTS, "new"])

    def test_a_missing_file_is_fetched_by_its_id(self, foreign: Serve) -> None:
        """It is the same image, and nothing is bought."""
        server, endpoint = foreign()
        order(endpoint)
        before = images()[1].read_bytes()
        images()[1].unlink()
        assert order(endpoint)[1]["ordered"] == 0
        assert images()[1].read_bytes() == before
        assert len(server.executions) == 3
        require_whole(PROMPTS)

    @pytest.mark.parametrize(("generate", "reads"), [([alone], [alone]), ([pictured(PICTURE), alone], [])])
    def test_a_killed_run_is_gone_on_with(self, generate: list[Answer], reads: list[Answer], foreign: Serve) -> None:
        """SIGKILL while images are waited for: what was ordered is fetched, the rest is ordered, nothing twice."""
        held = Held()
        server, endpoint = foreign(generate=generate, reads=[*reads, held])
        process = going(endpoint, "--in-flight", "1")
        assert held.asked.wait(30)
        process.kill()
        end(process)
        held.release.set()
        bought = len(server.executions)
        code, told = order(endpoint)
        assert (code, told["ordered"]) == (0, 3 - bought)
        assert len(server.executions) == 3
        require_whole(PROMPTS)

    def test_killed_again_and_again(self, foreign: Serve) -> None:
        """SIGKILL at the 5th, 14th and 23rd order: each image is there, or told to be unknown, and none was ordered twice."""
        reached = threading.Semaphore(0)
        count = itertools.count(1)

        def answer(operation: Operation, context: grpc.ServicerContext) -> None:
            if next(count) in (5, 14, 23):
                reached.release()
            pictured(PICTURE)(operation, context)

        server, endpoint = foreign(generate=repeat(answer))
        prompts = [f"cat {number}" for number in range(40)]
        Path("prompts.txt").write_text("\n".join(prompts))
        for _ in range(3):
            process = going(endpoint, "--in-flight", "4")
            assert reached.acquire(timeout=30)
            process.kill()
            end(process)
        code, told = order(endpoint)
        assert (code, told["done"] + told["unknown"]) == (11 if told["unknown"] else 0, 40)
        assert set(Counter(call.request.SerializeToString() for call in server.executions).values()) == {1}
        assert order(endpoint, "--resubmit-unknown")[0] == 0
        require_whole(prompts)

    def test_an_order_that_was_under_way_when_it_was_killed_is_unknown(self, foreign: Serve) -> None:
        """Nobody knows whether it was bought; it is told, and bought again only when that is asked for."""
        held = Held()
        server, endpoint = foreign(generate=[pictured(PICTURE), held])
        process = going(endpoint, "--in-flight", "1")
        assert held.asked.wait(30)
        process.kill()
        end(process)
        held.release.set()
        code, told = order(endpoint)
        assert (code, told["done"], told["unknown"], told["ordered"]) == (11, 2, 1, 1)
        assert Counter(line["state"] for line in manifest().values()) == {"done": 2, "unknown": 1}
        assert order(endpoint)[1]["ordered"] == 0
        assert order(endpoint, "--resubmit-unknown")[1]["ordered"] == 1
        assert len(server.executions) == 4
        require_whole(PROMPTS)

    def test_a_lost_answer_is_unknown(self, foreign: Serve) -> None:
        """It does not end the batch, and people are told what they can do."""
        server, endpoint = foreign(generate=[refused(grpc.StatusCode.UNAVAILABLE)])
        result = run("batch", "prompts.txt", "-o", "out", "--endpoint", endpoint)
        assert (result.exit_code, result.stdout) == (11, "out: 2 of 3 done, 0 failed, 1 unknown, 0 unfinished\n")
        assert result.stderr == "1 may have been bought, and cannot be fetched. --resubmit-unknown orders them again.\n"
        assert order(endpoint, "--resubmit-unknown")[1]["ordered"] == 1
        assert len(server.executions) == 4
        requests = Counter(call.request.SerializeToString() for call in server.executions)
        assert sorted(requests.values()) == [1, 1, 2]
        require_whole(PROMPTS)

    @pytest.mark.parametrize(
        "script",
        [
            {"generate": [refused(grpc.StatusCode.INVALID_ARGUMENT)]},
            {"generate": [failed(13, "broken")]},
            {"generate": [alone], "reads": [refused(grpc.StatusCode.NOT_FOUND)]},
        ],
    )
    def test_a_failure_stays_one_until_it_is_retried(self, script: dict[str, Any], foreign: Serve) -> None:
        """It ends its row alone; the manifest says why."""
        server, endpoint = foreign(**script)
        code, told = order(endpoint)
        assert (code, told["done"], told["failed"]) == (12, 2, 1)
        (line,) = [line for line in manifest().values() if line["state"] == "failed"]
        assert re.match(r"(InvalidRequest|OperationFailed|NotFound): ", line["error"])
        assert order(endpoint)[0] == 12
        assert len(server.executions) == 3
        assert order(endpoint, "--retry-failed")[1]["ordered"] == 1
        require_whole(PROMPTS)

    def test_a_time_out_leaves_the_image_to_the_next_run(self, foreign: Serve) -> None:
        """It is ordered, and will be fetched."""
        server, endpoint = foreign(generate=[alone] * 3, reads=[alone] * 3)
        code, told = order(endpoint, "--timeout", "1", "--in-flight", "3")
        assert (code, told["unfinished"]) == (10, 3)
        assert order(endpoint)[1]["ordered"] == 0
        assert len(server.executions) == 3
        require_whole(PROMPTS)

    def test_what_concerns_all_rows_ends_the_ordering(self, foreign: Serve) -> None:
        """What is in flight is fetched, and the row that was refused is as if it had never been tried."""
        no = refused(grpc.StatusCode.UNAUTHENTICATED)
        server, endpoint = foreign(generate=[alone, no])
        code, told = order(endpoint, "--in-flight", "2")
        assert (code, told["done"], told["unfinished"], told["stopped_by"]["error"]) == (4, 1, 2, "Unauthenticated")
        assert order(endpoint)[1]["ordered"] == 2
        assert len(server.executions) == 4
        require_whole(PROMPTS)

    def test_with_nobody_there_nothing_is_ordered(self, foreign: Serve) -> None:
        """The exit code is that of the error, and the next run begins anew."""
        code, told = order(NOBODY)
        assert (code, told["unfinished"], told["stopped_by"]["error"]) == (8, 3, "Unavailable")
        assert order(foreign()[1])[1]["ordered"] == 3

    def test_operations_of_another_server_are_not_given_up(self, foreign: Serve) -> None:
        """Another server would say that there are none; so the right one is named, and they stay."""
        server, endpoint = foreign(generate=[alone] * 3, reads=[alone] * 3)
        assert order(endpoint, "--timeout", "1", "--in-flight", "3")[0] == 10
        code, told = order(foreign()[1])
        assert code == 2
        assert told["message"].endswith(f"does not know 3 operations of this batch: they are at {endpoint}")
        assert order(endpoint)[0] == 0
        assert len(server.executions) == 3

    def test_what_a_demo_did_not_finish_is_drawn_again(self) -> None:
        """Its server has ended, and nobody paid."""
        code, told = order("demo://", "--timeout", "0.3")
        assert (code, told["unfinished"]) == (10, 3)
        code, told = order("demo://")
        assert (code, told["ordered"]) == (0, 3)
        require_whole(PROMPTS)

    def test_what_was_drawn_does_not_stand_for_the_real_thing(self, foreign: Serve) -> None:
        """After a trial with --demo, everything is ordered."""
        assert run("batch", "prompts.txt", "-o", "out", "--demo").exit_code == 0
        assert order(foreign()[1])[1]["ordered"] == 3
        assert len(images()) == 6

    def test_a_server_that_knows_the_key_is_asked_again(self) -> None:
        """After a crash before the answer, the same key brings the operation that it has already made."""

        drawn = Counter[str]()

        class Counting:
            charges = resumable = False

            async def generate(self, request: Any, upstream: object) -> stubs.ImageGenerationResponse:
                drawn[request.prompt] += 1
                return stubs.ImageGenerationResponse(image=PICTURE)

            async def close(self) -> None:
                """Nothing is held open."""

        with embedded(Counting()) as server:
            assert order(server.endpoint)[0] == 0
            before = {prompt: line["operation_id"] for prompt, line in manifest().items()}
            with Ledger(Path("out")) as ledger:
                for record in ledger.records().values():
                    ledger.write(replace(record, state=State.SUBMITTING, operation_id=None, file=None, sha256=None))
            for path in images():
                path.unlink()
            assert order(server.endpoint)[0] == 0
        assert {prompt: line["operation_id"] for prompt, line in manifest().items()} == before
        assert drawn == dict.fromkeys(PROMPTS, 1)
        require_whole(PROMPTS)


class TestInterrupts:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_answer_to_an_order_is_waited_for(self, number: signal.Signals, foreign: Serve) -> None:
        """No id is lost: the next run orders what is left, and nothing twice."""
        held = Held()
        server, endpoint = foreign(generate=[alone, held])
        process = going(endpoint, "--in-flight", "2")
        assert held.asked.wait(30)
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        held.release.set()
        code, _, err = end(process)
        assert code == 130
        assert re.search(
            r"^Error: interrupted; \d of 3 images are not finished\nRun the same command again to go on; ", err, re.MULTILINE
        )
        bought = len(server.executions)
        code, told = order(endpoint)
        assert (code, told["ordered"], told["unknown"]) == (0, 3 - bought, 0)
        assert len(server.executions) == 3
        require_whole(PROMPTS)

    def test_images_are_not_waited_for(self, foreign: Serve) -> None:
        """They are made meanwhile, and fetched by the next run."""
        held = Held()
        server, endpoint = foreign(generate=[alone], reads=[held])
        process = going(endpoint, "--in-flight", "1", "--json")
        assert held.asked.wait(30)
        process.send_signal(signal.SIGINT)
        code, out, err = end(process)
        held.release.set()
        assert (code, printed(out)["exit"], printed(err)["exit"]) == (130, 130, 130)
        assert order(endpoint)[1]["ordered"] == 2
        assert len(server.executions) == 3

    def test_the_bar_and_a_second_ctrl_c(self, foreign: Serve) -> None:
        """A terminal shows how far it is and what is waited for; a second Ctrl-C waits for nothing."""
        held = Held()
        _, endpoint = foreign(generate=[held])
        master, slave = os.openpty()
        process = going(endpoint, "--in-flight", "2", stderr=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "200"})
        os.close(slave)
        shown = read_until(master, lambda seen: "2/3" in plain(seen) and "a minute" in plain(seen))
        assert re.search(r"2/3 0:00:\d\d \d+ a minute, 0:00:\d\d left, 0 failed", plain(shown))
        assert held.asked.wait(30)
        process.send_signal(signal.SIGINT)
        shown = read_until(master, lambda seen: "waiting for the answers to orders" in plain(seen))
        process.send_signal(signal.SIGINT)
        shown += read_until(master, lambda seen: False)
        assert end(process)[0] == 130
        held.release.set()
        os.close(master)
        assert "Error: interrupted" in plain(shown)


class TestDryRun:
    def test_it_tells_what_would_be_done_and_does_nothing(self) -> None:
        """Counts, time and quota, without a server, a credential or a folder."""
        result = run("batch", "prompts.txt", "-o", "out", "--dry-run")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == (
            "3 images: 3 new, 0 to wait for, 0 done, 0 failed, 0 unknown\n"
            "about 0.0 minutes; 3 of the 5000 images that a folder may order a day\n"
        )
        assert not Path("out").exists()

    def test_wrong_rows_are_told_beside_it(self) -> None:
        """All of them, to people and to programs; the exit code is 2."""
        Path("prompts.txt").write_text("\n".join(["a", "b" * 501, "c", "d" * 502]))
        result = run("batch", "prompts.txt", "-o", "out", "--dry-run")
        assert result.exit_code == 2
        assert result.stdout.startswith("2 images: 2 new, ")
        assert result.stderr == (
            "Error: prompts.txt: 2 of 4 rows cannot be ordered, so nothing was\n"
            "line 2: Prompt positive size 501 exceeds limit (500)\nline 4: Prompt positive size 502 exceeds limit (500)\n"
        )
        told = printed(run("batch", "prompts.txt", "-o", "out", "--dry-run", "--json").stdout)
        assert (told["new"], len(told["invalid"])) == (2, 2)

    def test_it_knows_the_ledger(self, foreign: Serve) -> None:
        """And what would be bought again."""
        _, endpoint = foreign(generate=[refused(grpc.StatusCode.UNAVAILABLE), refused(grpc.StatusCode.INVALID_ARGUMENT)])
        order(endpoint)
        Path("prompts.txt").write_text("\n".join([*PROMPTS, "new"]))
        plans = [order(NOBODY, "--dry-run", *options)[1] for options in ([], ["--retry-failed", "--resubmit-unknown"])]
        names = "rows", "new", "waiting", "done", "failed", "unknown"
        assert [[told[name] for name in names] for told in plans] == [[4, 1, 0, 1, 1, 1], [4, 3, 0, 1, 0, 0]]
        images()[0].unlink()
        assert order(NOBODY, "--dry-run")[1]["waiting"] == 1

    def test_time_and_quota(self) -> None:
        """500 submits a minute, and 12 seconds an image for each in flight."""
        rows = rows_of("a\n" * 6000)
        assert batch.plan(rows, "out", in_flight=16).minutes == pytest.approx(75)
        assert batch.plan(rows, "out", in_flight=16).days == 2
        assert batch.plan(rows, "out", in_flight=1000).minutes == pytest.approx(12)


class TestFromPython:
    def test_a_summary_is_told_while_it_changes(self, server: Embedded) -> None:
        """Any thread can run a batch, and follow it."""
        seen: list[int] = []
        with YandexArt(endpoint=server.endpoint) as art, ThreadPoolExecutor(1) as threads:
            running = threads.submit(
                batch.run, art, batch.read_rows("prompts.txt"), "out", in_flight=1, on_change=lambda now: seen.append(now.done)
            )
            summary = running.result()
        assert (summary.done, summary.ordered, summary.stopped_by) == (3, 3, None)
        assert seen == sorted(seen)
        assert set(seen) == {0, 1, 2, 3}

    def test_what_ended_it_is_in_the_summary(self) -> None:
        """Nothing is raised for what concerns all rows, because the summary is wanted then too."""
        with YandexArt(endpoint=NOBODY) as art:
            summary = batch.run(art, batch.read_rows("prompts.txt"), "out")
        assert isinstance(summary.stopped_by, Unavailable)
        assert summary.unfinished == 3

    def test_a_server_that_goes_away_ends_the_ordering(self, foreign: Serve) -> None:
        """What was never sent is as if it had never been tried; at most the order that found out is unknown."""
        server, endpoint = foreign()
        rows = rows_of("\n".join(f"cat {number}" for number in range(9)))
        with YandexArt(endpoint=endpoint) as art:
            summary = batch.run(art, rows, "out", in_flight=1, on_change=lambda now: server.close() if now.done == 3 else None)
        assert isinstance(summary.stopped_by, Unavailable)
        assert (summary.done, summary.failed) == (3, 0)
        assert summary.unknown <= 1
        with Ledger(Path("out")) as ledger:
            assert len(ledger.records()) == summary.done + summary.unknown

    def test_an_id_that_cannot_be_written_down_is_told(self, foreign: Serve) -> None:
        """The disk is full when the answer comes: nothing more is ordered, and the error names what was."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)

        def answer(operation: Operation, context: grpc.ServicerContext) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))

        server, endpoint = foreign(generate=[answer])
        rows = batch.read_rows("prompts.txt")
        with YandexArt(endpoint=endpoint) as art:
            try:
                summary = batch.run(art, rows, "out", in_flight=1)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert isinstance(summary.stopped_by, batch.FolderError)
            assert summary.stopped_by.billed == "yes"
            assert f"operation {summary.stopped_by.operation_id}, which was ordered for line 1" in str(summary.stopped_by)
            assert art.operation(str(summary.stopped_by.operation_id)).result().data == PICTURE
            assert batch.run(art, rows, "out").unknown == 1
        assert len(server.executions) == 3

    def test_images_are_not_kept_in_memory(self, foreign: Serve) -> None:
        """Forty images of half a megabyte need no more than a few of them."""
        _, endpoint = foreign(image=jpeg(size=500_000))
        rows = rows_of("a red cat\n" * 40)
        with YandexArt(endpoint=endpoint) as art:
            tracemalloc.start()
            summary = batch.run(art, rows, "out", in_flight=2)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert summary.done == len(images()) == 40
        assert peak < 10_000_000

    @pytest.mark.parametrize(("wrong", "words"), [(0, "in_flight: 0 is not"), (1001, "in_flight: 1001 is more than 1000")])
    def test_wrong_arguments_are_told_before_anything_is_made(self, wrong: int, words: str) -> None:
        """A number out of range, and rows that would buy one image twice."""
        rows = batch.read_rows("prompts.txt")
        with YandexArt(endpoint=NOBODY) as art:
            with pytest.raises(InvalidRequest, match=words):
                batch.run(art, rows, "out", in_flight=wrong)
            with pytest.raises(InvalidRequest, match="rows: two have the same key"):
                batch.run(art, [*rows, rows[0]], "out")
        assert not Path("out").exists()
