"""`yandexart generate`: several pictures at once, what is written into them, and how they are shown."""

import base64
import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.foreign import Foreign, Held, alone, failed, jpeg, refused
from tests.test_cli import NOBODY, end, picked_up, plain, printed, read_until, run, start
from yandexart_grpc import Image
from yandexart_grpc.batch.origin import Origin, commented, origin_of
from yandexart_grpc.cli.terminal import Means, Size, drawing, fitting, means_of
from yandexart_grpc.request import LARGEST, ImageRequest
from yandexart_grpc.server import Embedded

PICTURE = jpeg()
PLAIN = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
"""A terminal that has colours and no protocol for pictures."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder, a cloud folder pays, and the terminal of whoever runs the tests is not seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YC_FOLDER_ID", "folder")
    for name in ("TMUX", "STY", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    """A scripted server."""
    server = Foreign(image=PICTURE)
    yield server
    server.close()


class TestSeveral:
    def test_each_has_a_file_a_line_and_the_next_seed(self, server: Embedded, folder: Path) -> None:
        """The seeds are the one that is given, and those after it; the files are numbered in the same order."""
        result = run("generate", "a cat", "-n", "3", "-o", "cat.jpeg", "--seed", "41", "--endpoint", server.endpoint)
        assert (result.exit_code, result.stderr) == (0, "")
        told = re.findall(r"^(cat-\d\.jpeg): 1024x1024, seed (\d+), operation fbv\w+, \d+\.\d s$", result.stdout, re.MULTILINE)
        assert told == [("cat-1.jpeg", "41"), ("cat-2.jpeg", "42"), ("cat-3.jpeg", "43")]
        assert {path.name for path in folder.iterdir()} == {name for name, _ in told}

    def test_without_a_seed_no_two_are_the_same(self, server: Embedded, folder: Path) -> None:
        """Without a name, each has that of its operation; programs get one object."""
        found = printed(run("generate", "a cat", "-n", "3", "--json", "--endpoint", server.endpoint).stdout)
        assert (found["errors"], found["not_ordered"], found["exit"]) == ([], 0, 0)
        assert len({image["seed"] for image in found["images"]}) == 3
        assert {path.name for path in folder.iterdir()} == {
            f"yandexart-{image['operation_id']}.jpeg" for image in found["images"]
        }
        one = printed(run("generate", "a cat", "--json", "--endpoint", server.endpoint).stdout)
        assert one.keys() == found["images"][0].keys()

    def test_one_that_fails_costs_the_others_nothing(self, foreign: Foreign) -> None:
        """They are saved; of the one it is told whether it was paid for, and its exit code is that of the command."""
        foreign.script(failed(13, "broken"))
        result = run("generate", "a cat", "-n", "3", "-o", "cat", "--endpoint", foreign.listen())
        assert result.exit_code == 12
        assert re.fullmatch(
            r"Error: operation fbv0+ failed: INTERNAL: broken\n"
            r"Nothing was paid for it\. Running the command again orders another picture\.\n"
            r"2 of 3 images are saved, and 0 were not ordered\.\n",
            result.stderr,
        )
        assert sorted(path.name for path in Path().iterdir()) == ["cat-2.jpeg", "cat-3.jpeg"]

    def test_the_first_that_cannot_be_ordered_ends_the_ordering(self) -> None:
        """What was ordered before it is saved, and programs are told the error and how many were not ordered."""
        full = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "5000 a day")
        server = Foreign(generate=[alone, full], image=PICTURE)
        try:
            result = run("generate", "a cat", "-n", "4", "-o", "cat", "--json", "--endpoint", server.listen())
        finally:
            server.close()
        found = printed(result.stdout)
        assert (result.exit_code, result.stderr, found["exit"], found["not_ordered"]) == (7, "", 7, 2)
        assert [image["file"] for image in found["images"]] == ["cat-1.jpeg"]
        assert [(error["error"], error["billed"]) for error in found["errors"]] == [("QuotaExceeded", "no")]

    def test_when_the_time_is_up_each_can_be_picked_up(self, foreign: Foreign) -> None:
        """Under its own name, by the command that is printed for it."""
        foreign.script(*repeat(alone, 6))
        result = run("generate", "a cat", "-n", "2", "-o", "cat.jpeg", "--timeout", "1", "--endpoint", foreign.listen())
        assert result.exit_code == 10
        commands = re.findall(r"^Pick it up with: .*$", result.stderr, re.MULTILINE)
        foreign.script()
        for command in commands:
            assert picked_up(command).exit_code == 0
        assert [Path(f"cat-{number}.jpeg").read_bytes() for number in (1, 2)] == [PICTURE, PICTURE]
        assert len(foreign.executions) == 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_after_an_interruption_each_can_be_picked_up(self, number: signal.Signals, foreign: Foreign) -> None:
        """All are ordered before the first is waited for, so all have an id, and nothing is bought twice."""
        held = Held()
        foreign.script(held)
        process = start("generate", "a cat", "-n", "3", "-o", "cat.jpeg", "--endpoint", foreign.listen())
        assert held.asked.wait(30)
        process.send_signal(number)
        code, out, err = end(process)
        held.release.set()
        assert (code, out) == (130, "")
        assert err.endswith("0 of 3 images are saved, and 0 were not ordered.\n")
        commands = re.findall(r"^Pick it up with: .*$", err, re.MULTILINE)
        assert [picked_up(command).exit_code for command in commands] == [0, 0, 0]
        assert sorted(path.name for path in Path().iterdir()) == ["cat-1.jpeg", "cat-2.jpeg", "cat-3.jpeg"]
        assert len(foreign.executions) == 3

    def test_an_interruption_while_ordering_tells_what_is_known(self) -> None:
        """The first has an id, the second may have been bought, the third was not ordered."""
        held = Held()
        server = Foreign(generate=[alone, held], image=PICTURE)
        process = start("generate", "a cat", "-n", "3", "--json", "--endpoint", server.listen())
        assert held.asked.wait(30)
        process.send_signal(signal.SIGINT)
        code, out, _ = end(process)
        held.release.set()
        server.close()
        found = printed(out)
        assert (code, found["exit"], found["images"], found["not_ordered"]) == (130, 130, [], 1)
        assert [(error["operation_id"] is None, error["billed"]) for error in found["errors"]] == [
            (False, "yes"),
            (True, "unknown"),
        ]

    def test_a_file_that_is_there_keeps_all_from_being_ordered(self) -> None:
        """It is found before a connection is tried."""
        Path("cat-2.jpeg").write_text("precious")
        result = run("generate", "a cat", "-n", "3", "-o", "cat.jpeg", "--endpoint", NOBODY)
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "Error: cannot save the image as cat-2.jpeg: it exists already; --force replaces it",
            "0 of 3 images are saved, and 2 were not ordered.",
        ]

    def test_a_seed_that_would_be_too_large_keeps_all_from_being_ordered(self, foreign: Foreign) -> None:
        """The last of them counts."""
        result = run("generate", "a cat", "-n", "2", "--seed", str(LARGEST), "--endpoint", foreign.listen())
        assert result.exit_code == 2
        assert result.stderr.startswith(f"Error: seed: {LARGEST + 1} is not an integer from 1 to {LARGEST}")
        assert foreign.submits == []

    @pytest.mark.parametrize("number", ["0", "101", "many"])
    def test_a_wrong_number_is_a_mistake_in_the_command_line(self, number: str) -> None:
        """It is named with its limit."""
        result = run("generate", "a cat", "-n", number)
        assert result.exit_code == 2
        assert number in result.stderr


class TestOrigin:
    """What a picture says of where it comes from."""

    def test_the_file_tells_what_was_asked_for(self, server: Embedded) -> None:
        """Every attribute, as a comment; --no-metadata leaves it out."""
        arguments = ["generate", "рыжий кот", "--seed", "7", "--aspect-ratio", "16:9", "--json", "--endpoint", server.endpoint]
        found = printed(run(*arguments, "-o", "cat.jpeg").stdout)
        model = "art://folder/yandex-art/latest"
        assert origin_of(Path("cat.jpeg").read_bytes()) == Origin(
            prompt="рыжий кот", seed=7, model=model, aspect_ratio="16:9", operation_id=found["operation_id"]
        )
        run(*arguments, "-o", "bare.jpeg", "--no-metadata")
        assert origin_of(Path("bare.jpeg").read_bytes()) is None
        with PIL.Image.open("cat.jpeg") as told, PIL.Image.open("bare.jpeg") as bare:
            assert told.tobytes() == bare.tobytes()

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, LARGEST), st.booleans())
    def test_what_is_written_is_read(self, prompt: str, seed: int, weighted: bool) -> None:
        """Whatever the prompt holds, and the picture stays one."""
        origin = Origin(prompt=prompt, seed=seed, model="art://b1g/x", aspect_ratio="", operation_id="fbv", weighted=weighted)
        data = commented(PICTURE, origin)
        PIL.Image.open(io.BytesIO(data)).load()
        assert data[:4] == PICTURE[:4]
        assert origin_of(data) == origin

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.dictionaries(
                st.sampled_from(["prompt", "seed", "model", "aspect_ratio", "operation_id", "weighted"]), inner
            ),
        )
    )
    def test_what_others_wrote_is_believed_as_far_as_it_looks_right(self, said: object) -> None:
        """Nothing but texts and numbers of the right form comes out."""
        origin = Origin.read(said)
        assert origin.seed is None or 0 < origin.seed <= LARGEST
        assert re.fullmatch(r"(\d+:\d+)?", origin.aspect_ratio or "")
        for text in (origin.prompt, origin.model, origin.operation_id):
            assert text is None or isinstance(text, str)

    @given(st.binary())
    def test_any_bytes_can_be_asked(self, data: bytes) -> None:
        """What is no JPEG, or half of one, tells nothing."""
        assert origin_of(data) is None
        assert origin_of(PICTURE[: len(data)]) is None

    def test_several_texts_are_told_as_such(self) -> None:
        """The prompt alone would not bring the same picture."""
        request = ImageRequest.build([("a cat", 1), ("rain", -1)], folder_id="b1g", seed=5)
        assert Origin.of(request, "fbv").weighted
        assert not Origin.of(ImageRequest.build("a cat", folder_id="b1g"), None).weighted


class TestMeans:
    @pytest.mark.parametrize(
        ("environ", "means"),
        [
            ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-kitty"}, Means.KITTY),
            ({"TERM": "xterm-kitty"}, Means.KITTY),
            ({"TERM": "xterm-ghostty"}, Means.KITTY),
            ({"TERM_PROGRAM": "ghostty"}, Means.KITTY),
            ({"TERM_PROGRAM": "iTerm.app"}, Means.ITERM2),
            ({"TERM_PROGRAM": "WezTerm"}, Means.ITERM2),
            ({"TERM_PROGRAM": "mintty"}, Means.ITERM2),
            ({"LC_TERMINAL": "iTerm2", "TERM": "xterm-256color"}, Means.ITERM2),
            ({"TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, Means.BLOCKS),
            ({"TERM": "tmux-256color", "LC_TERMINAL": "iTerm2"}, Means.BLOCKS),
            ({"TERM": "screen", "KITTY_WINDOW_ID": "1"}, Means.BLOCKS),
            ({"TERM": "xterm-256color"}, Means.BLOCKS),
            ({}, Means.BLOCKS),
        ],
    )
    def test_the_variables_of_a_terminal_tell_what_it_has(self, environ: Mapping[str, str], means: Means) -> None:
        """A multiplexer between lets neither protocol through."""
        assert means_of(environ) is means

    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 200), st.integers(1, 100))
    def test_a_picture_fits_and_fills_one_side(self, width: int, height: int, columns: int, rows: int) -> None:
        """It is never larger than the room, never nothing, and as large as its form lets it be."""
        size = fitting(width, height, Size(columns, rows))
        assert 1 <= size.columns <= columns
        assert 1 <= size.rows <= rows
        assert size.columns == columns or (size.columns + 1) * height > rows * 2 * width


def picture(width: int, height: int) -> Image:
    """An image of one colour above and another below."""
    drawn = PIL.Image.new("RGB", (width, height), (200, 30, 30))
    drawn.paste((30, 30, 200), (0, height // 2, width, height))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=95)
    about: dict[str, Any] = {"mime_type": "image/jpeg", "model_version": "", "operation_id": "fbv", "seed": None, "prompt": None}
    return Image(data=file.getvalue(), width=width, height=height, **about)


class TestDrawing:
    TERMINAL = os.terminal_size((100, 30))

    def test_kitty_gets_a_png_in_pieces(self) -> None:
        """Each piece is short enough, all but the last say that more comes, and together they are the picture."""
        shown = drawing(picture(1024, 768), {"KITTY_WINDOW_ID": "1"}, self.TERMINAL)
        pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", shown)
        assert re.fullmatch(r"(\x1b_G[^;]*;[^\x1b]*\x1b\\)+\n", shown)
        assert pieces[0][0].startswith("a=T,f=100,q=2,c=72,r=27,")
        assert [keys.rpartition("m=")[2] for keys, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
        assert all(len(data) <= 4096 for _, data in pieces)
        with PIL.Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in pieces)))) as sent:
            assert sent.format == "PNG"
            assert sent.width * 768 == pytest.approx(sent.height * 1024, rel=0.01)

    def test_iterm2_gets_the_file(self) -> None:
        """As it came, with the cells that it may take."""
        image = picture(640, 640)
        shown = drawing(image, {"TERM_PROGRAM": "iTerm.app"}, self.TERMINAL)
        found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);width=54;height=27;preserveAspectRatio=1:(.*)\a\n", shown)
        assert found
        assert int(found[1]) == len(image.data)
        assert base64.b64decode(found[2]) == image.data

    def test_blocks_have_two_pixels_in_a_cell(self) -> None:
        """Of the upper one the colour of the text, of the lower one that of the ground."""
        shown = drawing(picture(8, 8), PLAIN, os.terminal_size((8, 100)))
        lines = shown.splitlines()
        assert [plain(line) for line in lines] == ["▀" * 8] * 4
        cells = [re.findall(r"\x1b\[38;2;(\d+);\d+;(\d+);48;2;(\d+);\d+;(\d+)m▀", line) for line in lines]
        assert all(len(line) == 8 for line in cells)
        upper, lower = cells[0][0], cells[3][0]
        assert int(upper[0]) > int(upper[1])
        assert int(upper[2]) > int(upper[3])
        assert int(lower[0]) < int(lower[1])
        assert int(lower[2]) < int(lower[3])

    def test_a_terminal_of_few_colours_gets_few(self) -> None:
        """256 are named by numbers."""
        shown = drawing(picture(8, 8), {"TERM": "xterm-256color"}, os.terminal_size((8, 100)))
        assert re.search(r"\x1b\[38;5;\d+;48;5;\d+m▀", shown)
        assert "38;2;" not in shown


def on_terminal(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, what the terminal that is stdout got, and stderr, which is a pipe."""
    master, slave = os.openpty()
    process = start(*arguments, stdout=slave, env=os.environ | {"COLUMNS": "20", "LINES": "20"} | environ)
    os.close(slave)
    shown = read_until(master, lambda seen: False)
    os.close(master)
    code, _, err = end(process)
    return code, shown, err


class TestShow:
    @pytest.mark.parametrize(
        ("environ", "begins"),
        [
            (PLAIN, "\x1b[38;2;"),
            (PLAIN | {"KITTY_WINDOW_ID": "1"}, "\x1b_Ga=T,"),
            (PLAIN | {"LC_TERMINAL": "iTerm2"}, "\x1b]1337;File=inline=1;"),
            (PLAIN | {"TMUX": "1", "KITTY_WINDOW_ID": "1"}, "\x1b[38;2;"),
        ],
    )
    def test_a_terminal_shows_it_by_what_it_has(self, environ: dict[str, str], begins: str, server: Embedded) -> None:
        """After the line that tells where it is saved."""
        arguments = ["generate", "a cat", "-o", "cat.jpeg", "--show", "--endpoint", server.endpoint]
        code, shown, err = on_terminal(*arguments, **environ)
        assert (code, err) == (0, "")
        line, _, rest = shown.partition("\r\n")
        assert line.startswith("cat.jpeg: 1024x1024")
        assert rest.startswith(begins)
        assert Path("cat.jpeg").exists()

    def test_of_several_each_is_shown(self, server: Embedded) -> None:
        """Below its own line."""
        code, shown, _ = on_terminal(
            "generate", "a cat", "-n", "2", "-o", "cat", "--show", "--endpoint", server.endpoint, **PLAIN, LC_TERMINAL="iTerm2"
        )
        assert code == 0
        assert re.findall(r"cat-\d\.jpeg:|\]1337;File", shown) == ["cat-1.jpeg:", "]1337;File", "cat-2.jpeg:", "]1337;File"]

    @pytest.mark.parametrize("environ", [{"TERM": "dumb"}, PLAIN | {"NO_COLOR": "1"}, PLAIN | {"PYTHONIOENCODING": "ascii"}])
    def test_a_terminal_that_cannot_is_left_alone(self, environ: dict[str, str], server: Embedded) -> None:
        """No escape goes there, the reason is on stderr, and the picture is saved."""
        code, shown, err = on_terminal("generate", "a cat", "-o", "cat.jpeg", "--show", "--endpoint", server.endpoint, **environ)
        assert (code, shown.count("\n")) == (0, 1)
        assert "\x1b" not in shown
        assert re.fullmatch(r"cat\.jpeg is not shown: .+\.\n", err)
        assert Path("cat.jpeg").exists()

    def test_nothing_goes_into_a_pipe(self, server: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not even where the terminal around it could."""
        monkeypatch.setenv("KITTY_WINDOW_ID", "1")
        result = run("generate", "a cat", "-o", "cat.jpeg", "--show", "--endpoint", server.endpoint)
        assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
        assert "\x1b" not in result.stdout
        assert result.stderr == "cat.jpeg is not shown: stdout is not a terminal.\n"
        assert Path("cat.jpeg").exists()

    def test_a_picture_that_cannot_be_decoded_is_saved(self) -> None:
        """Its segments are whole, but its tables are missing: a decoder says so, and that is no failure."""
        server = Foreign(image=PICTURE.replace(b"\xff\xdb", b"\xff\xfe"))
        code, _, err = on_terminal("generate", "a cat", "-o", "cat.jpeg", "--show", "--endpoint", server.listen(), **PLAIN)
        server.close()
        assert code == 0
        assert re.fullmatch(r"cat\.jpeg is not shown: .+\.\n", err)
        assert Path("cat.jpeg").exists()

    def test_it_goes_with_no_json(self) -> None:
        """Nothing is ordered: a picture among what a program reads would break it."""
        result = run("generate", "a cat", "--show", "--json", "--endpoint", NOBODY)
        assert result.exit_code == 2
        assert "give one of them" in result.stderr

    def test_what_is_picked_up_is_shown_too(self, foreign: Foreign) -> None:
        """By `operation wait`."""
        endpoint = foreign.listen()
        code, shown, _ = on_terminal(
            "operation", "wait", foreign.bought(), "-o", "cat.jpeg", "--show", "--endpoint", endpoint, **PLAIN
        )
        assert (code, shown.count("▀")) == (0, 20 * 8)


class TestOpen:
    def test_the_file_is_opened(self, server: Embedded, folder: Path) -> None:
        """By the program of the desktop, which gets its whole path."""
        programs, heard = folder / "bin", folder / "heard"
        programs.mkdir()
        os.mkfifo(heard)
        opener = programs / "xdg-open"
        opener.write_text(f'#!/bin/sh\nprintf %s "$1" > {heard}\n')
        opener.chmod(0o755)
        environ = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
        process = start("generate", "a cat", "-o", "-cat.jpeg", "--open", "--endpoint", server.endpoint, env=environ)
        assert heard.read_text() == f"{folder.resolve()}/-cat.jpeg"
        assert end(process)[0] == 0

    @pytest.mark.skipif(sys.platform != "linux", reason="what opens files elsewhere is always there")
    def test_where_nothing_opens_files_that_is_told(self, server: Embedded, folder: Path) -> None:
        """The picture is saved, so it is no failure."""
        (folder / "empty").mkdir()
        environ = os.environ | {"PATH": str(folder / "empty")}
        code, _, err = end(start("generate", "a cat", "-o", "cat.jpeg", "--open", "--endpoint", server.endpoint, env=environ))
        assert (code, err) == (0, "cat.jpeg is not opened: no program for that was found.\n")
        assert Path("cat.jpeg").exists()


class TestVerbose:
    def test_an_error_tells_the_rest(self, foreign: Foreign) -> None:
        """Code, ids, money and what it came from, a line each, below the two lines that are always told."""
        answer = refused(grpc.StatusCode.PERMISSION_DENIED, "no", metadata=(("x-request-id", "req-1"),))
        server = Foreign(generate=[answer, answer])
        endpoint = server.listen()
        short = run("generate", "a cat", "--endpoint", endpoint)
        assert short.stderr.count("\n") == 2
        long = run("generate", "a cat", "--endpoint", endpoint, "--verbose").stderr
        server.close()
        assert long.startswith(short.stderr)
        rest = dict(re.findall(r"^  (\w+): (.*)$", long, re.MULTILINE))
        assert (rest["code"], rest["request_id"], rest["billed"], rest["resend"]) == ("PERMISSION_DENIED", "req-1", "no", "safe")
        assert re.fullmatch(r"[0-9a-f-]{36}", rest["idempotency_key"])
        assert server.submits[1].metadata["x-client-request-id"] == rest["client_request_id"]
        assert "  caused by _InactiveRpcError: " in long

    def test_what_is_done_is_logged_without_the_prompt(self, server: Embedded) -> None:
        """To stderr; what programs read on stdout is the same."""
        code, out, err = end(start("generate", "a secret cat", "--json", "-v", "--endpoint", server.endpoint))
        assert code == 0
        operation_id = json.loads(out)["operation_id"]
        assert f"INFO yandexart_grpc: operation {operation_id} submitted" in err
        assert "secret" not in err

    @pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
    def test_every_refusal_has_two_lines(self, code: grpc.StatusCode) -> None:
        """What happened, and what to do next."""
        server = Foreign(generate=repeat(refused(code, "no")))
        result = run("generate", "a cat", "--timeout", "0.3", "--endpoint", server.listen())
        server.close()
        first, second = result.stderr.splitlines()
        assert first.startswith("Error: ")
        assert second.endswith(".")
