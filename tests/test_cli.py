"""The command line, through its front door: in this process where that shows enough, as a process of its own elsewhere."""

import codecs
import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from yandex.cloud.operation.operation_pb2 import Operation

from tests.foreign import Foreign, Held, alone, failed, jpeg, neither, refused
from yandexart_grpc import Image, YandexArt, YandexArtError, __version__, errors
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.cli.target import Target
from yandexart_grpc.server import Embedded, ServerSettings

COMMAND = Path(sys.executable).with_name("yandexart")
PICTURE = jpeg()
FIRST = f"fbv{0:017}"
"""The id of the first operation of a `Foreign` server."""
NOBODY = "http://127.0.0.1:1"
"""An endpoint where nobody listens."""
ERROR_KEYS = {"error", "message", "code", "details", "operation_id", "request_id", "idempotency_key"}
ERROR_KEYS |= {"retry_after", "billed", "resend", "exit", "next"}

Serve = Callable[..., tuple[Foreign, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder, and a cloud folder pays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YC_FOLDER_ID", "folder")
    return tmp_path


@pytest.fixture
def foreign() -> Iterator[Serve]:
    """Makes scripted servers, and closes them in the end."""
    made: list[Foreign] = []

    def make(**script: Any) -> tuple[Foreign, str]:
        made.append(Foreign(**{"image": PICTURE} | script))
        return made[-1], made[-1].listen()

    yield make
    for server in made:
        server.close()


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    """Run a command in this process; nothing but an exit code may come out of it."""
    result = CliRunner().invoke(yandexart, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def printed(text: str) -> dict[str, Any]:
    """The one JSON object that was printed."""
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the installed command as a process."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([COMMAND, *arguments], text=True, **pipes | options)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that must end by now."""
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out, err


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run some Python in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=30, check=False, **options)


def picked_up(err: str) -> Result:
    """What becomes of the command that an error offers."""
    found = re.search(r"^Pick it up with: yandexart (.*)$", err, re.MULTILINE)
    assert found, err
    return run(*shlex.split(found[1]))


def read_until(file: int, enough: Callable[[str], bool]) -> str:
    """What a terminal shows until it is enough, or until its other end is closed."""
    seen, decoder = "", codecs.getincrementaldecoder("utf-8")()
    with contextlib.suppress(OSError):  # Linux says EIO where the other end is closed
        while not enough(seen) and (data := os.read(file, 10_000)):
            seen += decoder.decode(data)
    return seen


def plain(text: str) -> str:
    """The text without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


class TestGenerate:
    def test_the_image_is_saved_and_one_line_tells_where_and_what(self, server: Embedded) -> None:
        """A person reads path, size, seed and id; the file is the image; nothing is said on stderr, which is no terminal."""
        result = run(
            *("generate", "a cat", "-o", "cat.jpeg", "--aspect-ratio", "16:9", "--seed", "42", "--no-metadata"),
            *("--endpoint", server.endpoint),
        )
        assert result.exit_code == 0
        line = re.fullmatch(r"cat\.jpeg: (\d+)x(\d+), seed 42, operation (fbv\w{17}), \d+\.\d s\n", result.stdout)
        assert line
        assert int(line[1]) > int(line[2])
        assert result.stderr == ""
        with YandexArt(endpoint=server.endpoint) as art:
            assert Path("cat.jpeg").read_bytes() == art.operation(line[3]).result().data

    def test_json_is_one_object_that_tells_everything(self, server: Embedded) -> None:
        """A program gets every attribute of the image, in ASCII."""
        result = run("generate", "рыжий кот", "-o", "cat", "--seed", "7", "--json", "--endpoint", server.endpoint)
        assert result.stdout.isascii()
        found = printed(result.stdout)
        assert found.pop("operation_id").startswith("fbv")
        assert found.pop("seconds") >= 0
        assert found == {
            "file": "cat.jpeg",
            "seed": 7,
            "prompt": "рыжий кот",
            "width": 1024,
            "height": 1024,
            "mime_type": "image/jpeg",
            "model_version": "demo",
            "bytes": Path("cat.jpeg").stat().st_size,
            "request_id": None,
        }

    def test_every_option_reaches_the_request(self, foreign: Serve) -> None:
        """Model, ratio, seed, type and folder are what was given."""
        server, endpoint = foreign()
        result = run(
            *("generate", "a cat", "--endpoint", endpoint, "--folder-id", "b1g", "--model", "other/latest"),
            *("--aspect-ratio", "2:3", "--seed", "5", "--mime-type", "image/jpeg"),
        )
        assert result.exit_code == 0
        request = server.executions[0].request
        options = request.generation_options
        assert request.model_uri == "art://b1g/other/latest"
        assert (options.seed, options.mime_type) == (5, "image/jpeg")
        assert (options.aspect_ratio.width_ratio, options.aspect_ratio.height_ratio) == (2, 3)

    def test_the_credential_comes_from_the_environment_only(self, foreign: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is sent, it is not printed, and no option takes it."""
        server, endpoint = foreign(generate=[refused(grpc.StatusCode.UNAUTHENTICATED)])
        monkeypatch.setenv("YC_API_KEY", "AQVNcanary")
        result = run("generate", "a cat", "--endpoint", endpoint, "--json")
        assert "canary" in str(server.executions[0].metadata["authorization"])
        assert result.exit_code == errors.row(errors.Unauthenticated).exit
        assert "canary" not in result.output
        assert run("generate", "a cat", "--credentials", "AQVNcanary").exit_code == 2

    def test_the_prompt_may_come_from_stdin(self, server: Embedded) -> None:
        """`-` reads it, without the line break at its end; bytes that are no text are refused as such."""
        arguments = "generate", "-", "--json", "--endpoint", server.endpoint
        assert printed(run(*arguments, stdin="кот\n".encode()).stdout)["prompt"] == "кот"
        assert printed(run(*arguments, stdin=b"\xff").stderr)["error"] == "InvalidRequest"

    def test_without_a_name_the_file_is_called_by_the_operation(self, server: Embedded, folder: Path) -> None:
        """The default lets nothing be lost and nothing be replaced."""
        found = printed(run("generate", "a cat", "--json", "--endpoint", server.endpoint).stdout)
        assert [path.name for path in folder.iterdir()] == [found["file"]] == [f"yandexart-{found['operation_id']}.jpeg"]

    def test_the_environment_names_the_endpoint(self, server: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
        """YANDEXART_ENDPOINT stands in for --endpoint, and --demo goes before it."""
        monkeypatch.setenv("YANDEXART_ENDPOINT", server.endpoint)
        assert run("generate", "a cat").exit_code == 0
        monkeypatch.setenv("YANDEXART_ENDPOINT", NOBODY)
        assert run("generate", "a cat").exit_code == 8
        assert run("generate", "a cat", "--demo").exit_code == 0

    @pytest.mark.parametrize("option", ["--endpoint", "--operation-endpoint"])
    def test_demo_goes_with_no_other_endpoint(self, option: str) -> None:
        """Two places at once are a mistake in the command line."""
        result = run("generate", "a cat", "--demo", option, NOBODY)
        assert result.exit_code == 2
        assert "--demo is short for --endpoint demo://" in result.stderr

    def test_demo_needs_no_account_and_no_environment(self, folder: Path) -> None:
        """A process with an empty environment draws a picture, and is quiet where there is no terminal."""
        code, out, err = end(start("generate", "a cat", "-o", "cat.jpeg", "--demo", env={}))
        assert (code, err) == (0, "")
        assert out.startswith("cat.jpeg: 1024x1024, ")
        assert (folder / "cat.jpeg").read_bytes().startswith(b"\xff\xd8")


class TestTarget:
    """What can be found wrong with the file is found before anything is sent: here there is nobody to send it to."""

    @pytest.mark.parametrize(
        ("output", "options", "words"),
        [
            ("there.jpeg", [], "there.jpeg: it exists already; --force replaces it"),
            ("there", [], "there.jpeg: it exists already; --force replaces it"),
            ("dangling.jpeg", [], "dangling.jpeg: it exists already; --force replaces it"),
            ("folder", ["--force"], "folder.jpeg: it exists already, and is not a file"),
            ("nowhere/cat.jpeg", [], "nowhere/cat.jpeg: No such file or directory"),
            ("there.jpeg/cat.jpeg", [], "there.jpeg/cat.jpeg: Not a directory"),
            (f"{'x' * 300}.jpeg", [], "File name too long"),
        ],
    )
    def test_a_file_that_cannot_be_written_costs_nothing(self, output: str, options: list[str], words: str, folder: Path) -> None:
        """The answer comes before a connection is tried, and nothing has changed."""
        Path("there.jpeg").write_text("precious")
        Path("dangling.jpeg").symlink_to("nothing")
        Path("folder.jpeg").mkdir()
        before = sorted(folder.iterdir())
        result = run("generate", "a cat", "-o", output, *options, "--endpoint", NOBODY)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: cannot save the image as ")
        assert result.stderr.endswith(f"{words}\n")
        assert Path("there.jpeg").read_text() == "precious"
        assert sorted(folder.iterdir()) == before

    def test_a_folder_is_no_file(self) -> None:
        """Naming a folder is a mistake in the command line."""
        assert run("generate", "a cat", "-o", ".", "--endpoint", NOBODY).exit_code == 2

    def test_force_replaces_the_file_and_not_what_a_link_points_to(self, server: Embedded) -> None:
        """The name gets the image; another file that the name led to keeps its content."""
        Path("precious.jpeg").write_text("precious")
        Path("cat.jpeg").symlink_to("precious.jpeg")
        assert run("generate", "a cat", "-o", "cat.jpeg", "--force", "--endpoint", server.endpoint).exit_code == 0
        assert Path("precious.jpeg").read_text() == "precious"
        assert Path("cat.jpeg").read_bytes().startswith(b"\xff\xd8")

    def test_a_file_that_appears_meanwhile_is_not_replaced(self, foreign: Serve) -> None:
        """The image is paid for by then, so the error says how to fetch it."""

        def meanwhile(operation: Operation, context: grpc.ServicerContext) -> None:
            Path("cat.jpeg").write_text("precious")

        _, endpoint = foreign(reads=[meanwhile])
        result = run("generate", "a cat", "-o", "cat.jpeg", "--endpoint", endpoint)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: cannot save the image as cat.jpeg: File exists\n")
        assert Path("cat.jpeg").read_text() == "precious"
        Path("cat.jpeg").unlink()
        assert picked_up(result.stderr).exit_code == 0
        assert Path("cat.jpeg").read_bytes() == PICTURE

    def test_an_image_that_does_not_fit_on_the_disk_can_be_fetched_again(self, foreign: Serve, folder: Path) -> None:
        """No piece of a file stays, the id is told, and the command that is offered fetches the image."""
        server, endpoint = foreign()
        small = ["sh", "-c", 'ulimit -f 1 && exec "$0" "$@"', str(COMMAND)]
        command = [*small, "generate", "a cat", "-o", "cat.jpeg", "--endpoint", endpoint]
        done = subprocess.run(command, text=True, capture_output=True, timeout=30, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: cannot save the image as cat.jpeg: File too large\n")
        assert list(folder.iterdir()) == []
        assert picked_up(done.stderr).exit_code == 0
        assert Path("cat.jpeg").read_bytes() == PICTURE
        assert len(server.executions) == 1

    @given(st.text(min_size=1))
    def test_an_id_gives_a_file_name_of_our_own(self, operation_id: str) -> None:
        """Whatever a server calls its operation, the file lies in this folder under a short and plain name."""
        image = Image(
            data=b"jpeg", mime_type="", width=1, height=1, model_version="", operation_id=operation_id, seed=None, prompt=None
        )
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            target = Target(None, force=False)
            target.check(operation_id)
            saved = target.save(image)
            assert [saved] == [path.relative_to(folder) for path in Path(folder).iterdir()]
        assert re.fullmatch(r"yandexart-[0-9A-Za-z_-]{1,100}\.jpeg", str(saved))


class TestErrors:
    @pytest.mark.parametrize(
        ("script", "error"),
        [
            ({"generate": [refused(grpc.StatusCode.INVALID_ARGUMENT)]}, errors.InvalidRequest),
            ({"generate": [refused(grpc.StatusCode.INVALID_ARGUMENT, "may violate the terms of use")]}, errors.ContentRefused),
            ({"generate": [refused(grpc.StatusCode.UNAUTHENTICATED)]}, errors.Unauthenticated),
            ({"generate": [refused(grpc.StatusCode.PERMISSION_DENIED)]}, errors.PermissionDenied),
            ({"reads": [refused(grpc.StatusCode.NOT_FOUND)]}, errors.NotFound),
            ({"generate": [refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "5000 a day")]}, errors.QuotaExceeded),
            ({"generate": [refused(grpc.StatusCode.INTERNAL)]}, errors.OutcomeUnknown),
            ({"reads": [failed(13, "broken")]}, errors.OperationFailed),
            ({"reads": [failed(1, "cancelled")]}, errors.OperationCancelled),
            ({"reads": [neither]}, errors.ProtocolError),
        ],
    )
    def test_an_error_leaves_with_the_exit_code_of_the_table(
        self, script: Mapping[str, Any], error: type[YandexArtError], foreign: Serve
    ) -> None:
        """As text it is one line and perhaps the next step; as JSON one object that holds everything; never a traceback."""
        _, endpoint = foreign(**script)
        result = run("generate", "a cat", "--endpoint", endpoint)
        assert (result.exit_code, result.stdout) == (errors.row(error).exit, "")
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") <= 2
        _, endpoint = foreign(**script)
        result = run("generate", "a cat", "--endpoint", endpoint, "--json")
        assert result.stdout == ""
        found = printed(result.stderr)
        assert found.keys() == ERROR_KEYS
        assert (found["error"], found["exit"]) == (error.__name__, result.exit_code)

    def test_nobody_there(self) -> None:
        """It is told at once, with the address, that nothing was sent and that trying again is safe."""
        found = printed(run("generate", "a cat", "--endpoint", NOBODY, "--json").stderr)
        assert (found["error"], found["billed"], found["resend"], found["exit"]) == ("Unavailable", "no", "safe", 8)
        assert "127.0.0.1:1 " in found["message"]
        assert found["next"] == "It is safe to run the command again. `yandexart doctor` tells which step fails."

    @pytest.mark.parametrize(
        "arguments", [["--endpoint", "ftp://x"], ["--timeout", "nan"], ["--seed", "0"], ["--folder-id", "a b"], []]
    )
    def test_wrong_settings_are_named_by_the_client(self, arguments: list[str]) -> None:
        """Without any endpoint or credential too: exit code 2, nothing of Python, and what to set where that is known."""
        result = run("generate", "a cat", *arguments)
        assert result.exit_code == 2
        assert re.fullmatch(r"Error: (endpoint|timeout|seed|folder_id|credentials)\b.*\n(Set YC_API_KEY, .*\n)?", result.stderr)

    def test_a_folder_that_is_missing_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the option and the variable that name one."""
        monkeypatch.delenv("YC_FOLDER_ID")
        result = run("generate", "a cat", "--endpoint", NOBODY)
        assert result.exit_code == 2
        assert result.stderr.endswith("\nGive --folder-id, or set YC_FOLDER_ID.\n")

    def test_a_lost_answer_warns_of_paying_twice(self, foreign: Serve) -> None:
        """Nothing offers to run the command again."""
        _, endpoint = foreign(generate=[refused(grpc.StatusCode.UNAVAILABLE)])
        result = run("generate", "a cat", "--endpoint", endpoint)
        assert result.exit_code == 11
        assert result.stderr.endswith("\nRunning the command again may pay for a second picture.\n")

    def test_a_timeout_offers_the_command_that_picks_the_operation_up(self, foreign: Serve) -> None:
        """With every option that the command needs; it buys nothing and brings the image of the same operation."""
        server, _ = foreign(reads=[alone] * 3)
        elsewhere = server.listen(generation=False)
        result = run(
            *("generate", "a cat", "-o", "a cat.jpeg", "--endpoint", server.listen(operations=False), "--seed", "5"),
            *("--operation-endpoint", elsewhere, "--rpc-timeout", "20", "--timeout", "1", "--force"),
        )
        assert result.exit_code == 10
        assert f"operation wait {FIRST} -o 'a cat.jpeg' --force --endpoint http" in result.stderr
        assert f"--operation-endpoint {elsewhere} --rpc-timeout 20.0\n" in result.stderr
        assert picked_up(result.stderr).exit_code == 0
        assert Path("a cat.jpeg").read_bytes() == PICTURE
        assert len(server.executions) == 1

    def test_a_timeout_of_the_demo_promises_nothing(self) -> None:
        """Its server is gone with the command."""
        result = run("generate", "a cat", "--demo", "--timeout", "0.3")
        assert result.exit_code == 10
        assert result.stderr.endswith(
            "\nIt cannot be picked up: the demo server ended with this command, and its operations with it.\n"
        )

    def test_an_image_above_the_receive_limit_can_be_picked_up(self, foreign: Serve) -> None:
        """The option that is named exists here too."""
        _, endpoint = foreign()
        result = run("generate", "a cat", "--endpoint", endpoint, "--max-message-bytes", "1000", "-o", "cat.jpeg")
        assert result.exit_code == 2
        assert "max_message_bytes" in result.stderr
        command = result.stderr.splitlines()[1].partition(" yandexart ")[2].replace(" 1000", " 1000000")
        assert run(*shlex.split(command)).exit_code == 0

    def test_what_a_server_says_cannot_command_the_terminal(self, foreign: Serve) -> None:
        """Escapes and line breaks are shown as such."""
        _, endpoint = foreign(generate=[refused(grpc.StatusCode.PERMISSION_DENIED, "\x1b[2Jno\nError: yes")])
        result = run("generate", "a cat", "--endpoint", endpoint)
        assert result.stderr.splitlines()[0] == "Error: submitting: PERMISSION_DENIED: \\x1b[2Jno\\nError: yes"


class TestOperation:
    def test_get_tells_the_state_once(self, foreign: Serve) -> None:
        """Not done, done and failed are answers; each has the exit code 0."""
        server, endpoint = foreign(reads=[alone, alone])
        operation_id = server.bought()
        first = run("operation", "get", operation_id, "--endpoint", endpoint)
        assert (first.exit_code, first.stdout) == (0, f"operation {operation_id} is not done\n")
        second = printed(run("operation", "get", operation_id, "--endpoint", endpoint, "--json").stdout)
        assert second == {"operation_id": operation_id, "done": False, "image": None, "error": None}
        third = run("operation", "get", operation_id, "--endpoint", endpoint)
        assert third.stdout == f"operation {operation_id} is done: 64x48, {len(PICTURE)} bytes\n"
        fourth = printed(run("operation", "get", operation_id, "--endpoint", endpoint, "--json").stdout)
        assert (fourth["done"], fourth["image"]["width"], fourth["image"]["bytes"]) == (True, 64, len(PICTURE))

    def test_get_tells_an_error_as_an_answer(self, foreign: Serve) -> None:
        """The operation failed; asking about it did not."""
        server, endpoint = foreign(reads=[failed(13, "broken")] * 2)
        operation_id = server.bought()
        result = run("operation", "get", operation_id, "--endpoint", endpoint)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"OperationFailed: operation {operation_id} failed: INTERNAL: broken\n"
        found = printed(run("operation", "get", operation_id, "--endpoint", endpoint, "--json").stdout)
        assert (found["done"], found["image"], found["error"]["error"]) == (True, None, "OperationFailed")

    def test_wait_saves_the_image(self, foreign: Serve) -> None:
        """Seed and prompt are unknown to whoever did not submit."""
        server, endpoint = foreign(reads=[alone])
        operation_id = server.bought()
        found = printed(run("operation", "wait", operation_id, "--endpoint", endpoint, "--json").stdout)
        assert found["file"] == f"yandexart-{operation_id}.jpeg"
        assert Path(found["file"]).read_bytes() == PICTURE
        assert (found["seed"], found["prompt"], found["width"]) == (None, None, 64)
        again = run("operation", "wait", operation_id, "--endpoint", endpoint)
        assert again.exit_code == 1
        assert "it exists already" in again.stderr

    def test_cancel_tells_whether_it_was_in_time(self, server: Embedded) -> None:
        """Being too late is an answer."""
        with YandexArt(endpoint=server.endpoint, folder_id="folder") as art:
            operation = art.submit("a cat")
            operation.result()
        result = run("operation", "cancel", operation.id, "--endpoint", server.endpoint)
        assert (result.exit_code, result.stdout) == (0, f"operation {operation.id} was not cancelled: it is too late\n")
        found = printed(run("operation", "cancel", operation.id, "--endpoint", server.endpoint, "--json").stdout)
        assert found == {"operation_id": operation.id, "cancelled": False}

    @pytest.mark.parametrize("command", ["get", "wait", "cancel"])
    def test_an_unknown_id(self, command: str, server: Embedded) -> None:
        """It has the exit code of `NotFound`, whoever asks."""
        result = run("operation", command, "fbvnonesuch", "--endpoint", server.endpoint)
        assert (result.exit_code, result.stdout) == (6, "")
        assert result.stderr.splitlines()[1:] == [
            "Give the --endpoint where it was ordered; results are kept for about three days."
        ]


class TestInterrupts:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_while_waiting_the_operation_can_be_picked_up(self, number: signal.Signals, foreign: Serve) -> None:
        """The id and a command are told, which fetches the image, and nothing was bought twice."""
        held = Held()
        server, endpoint = foreign(reads=[held])
        process = start("generate", "a cat", "-o", "cat.jpeg", "--endpoint", endpoint)
        assert held.asked.wait(30)
        process.send_signal(number)
        code, out, err = end(process)
        held.release.set()
        assert (code, out) == (130, "")
        assert err.startswith(f"Error: interrupted while waiting for operation {FIRST}\nPick it up with: ")
        assert picked_up(err).exit_code == 0
        assert Path("cat.jpeg").read_bytes() == PICTURE
        assert len(server.executions) == 1

    def test_while_submitting_the_picture_may_have_been_bought(self, foreign: Serve) -> None:
        """Nobody knows the id, and that is said, to programs too."""
        held = Held()
        _, endpoint = foreign(generate=[held])
        process = start("generate", "a cat", "--endpoint", endpoint, "--json")
        assert held.asked.wait(30)
        process.send_signal(signal.SIGINT)
        code, _, err = end(process)
        held.release.set()
        found = printed(err)
        assert (code, found["exit"], found["error"], found["operation_id"]) == (130, 130, "Interrupted", None)
        assert (found["billed"], found["resend"]) == ("unknown", "unsafe")
        assert "the picture may have been bought" in found["message"]

    def test_before_anything_was_sent(self) -> None:
        """There is nothing to say about pictures."""
        process = start("generate", "-", "--demo", "--json", stdin=subprocess.PIPE)
        assert process.stdin
        process.stdin.write(200_000 * "x")  # more than a pipe holds: once this returns, the process is reading
        process.send_signal(signal.SIGINT)
        code, _, err = end(process)
        assert (code, printed(err)["billed"]) == (130, "no")

    def test_a_question_that_hangs(self, foreign: Serve) -> None:
        """`operation get` is interrupted without a traceback."""
        held = Held()
        server, endpoint = foreign(reads=[held])
        process = start("operation", "get", server.bought(), "--endpoint", endpoint)
        assert held.asked.wait(30)
        process.send_signal(signal.SIGINT)
        assert end(process) == (130, "", "Error: interrupted\n")
        held.release.set()


class TestTerminal:
    def test_progress_is_shown_on_a_terminal_and_goes_away(self, foreign: Serve) -> None:
        """Elapsed time, state and id are on stderr while it waits; at the end the line is erased, and stdout has the result."""
        held = Held()
        _, endpoint = foreign(reads=[held])
        master, slave = os.openpty()
        process = start(
            "generate", "a cat", "-o", "cat.jpeg", "--endpoint", endpoint, stderr=slave, env=os.environ | {"TERM": "xterm"}
        )
        os.close(slave)
        shown = read_until(master, lambda seen: re.search(rf"0:00:\d\d waiting for operation {FIRST}", plain(seen)) is not None)
        held.release.set()
        code, out, _ = end(process)
        shown += read_until(master, lambda seen: False)
        os.close(master)
        assert code == 0
        assert out.startswith("cat.jpeg: 64x48, ")
        assert shown.endswith("\x1b[2K")

    def test_a_terminal_that_lacks_letters(self, server: Embedded, folder: Path) -> None:
        """They are spelled out, instead of an error after the image was paid for."""
        process = start(
            "generate", "a cat", "-o", "кот.jpeg", "--endpoint", server.endpoint, env=os.environ | {"PYTHONIOENCODING": "cp1252"}
        )
        code, out, err = end(process)
        assert (code, err) == (0, "")
        assert out.startswith(r"\u043a\u043e\u0442.jpeg: ")
        assert (folder / "кот.jpeg").exists()

    def test_a_full_disk_behind_stdout_is_an_error(self, server: Embedded) -> None:
        """The image was saved, but the answer is lost; a full disk behind stderr does not change the exit code."""
        with Path("/dev/full").open("w") as full:
            told = end(start("generate", "a cat", "--endpoint", server.endpoint, stdout=full))
            silent = end(start("generate", "a cat", "--endpoint", NOBODY, stderr=full))
        assert (told[0], told[2]) == (1, "Error: cannot print the answer: No space left on device\n")
        assert silent[0] == 8

    def test_a_closed_pipe_ends_quietly_with_the_image_saved(self, server: Embedded, folder: Path) -> None:
        """Nobody reads the answer; there is no traceback, and the image stays."""
        reader, writer = os.pipe()
        os.close(reader)
        process = start("generate", "a cat", "-o", "cat.jpeg", "--endpoint", server.endpoint, stdout=writer)
        os.close(writer)
        code, _, err = end(process)
        assert (code, err) == (1, "")
        assert (folder / "cat.jpeg").exists()


class TestServe:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_says_its_address_serves_and_stops_cleanly(self, number: signal.Signals) -> None:
        """One line on stdout, an image over that address, exit code 0, and nothing on stderr."""
        process = start("serve", "--listen", "127.0.0.1:0", "--demo-duration", "fixed:0")
        assert process.stdout
        line = re.fullmatch(r"serving on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert line
        assert run("generate", "a cat", "--endpoint", line[1]).exit_code == 0
        process.send_signal(number)
        assert end(process) == (0, "", "")

    def test_it_says_its_second_address(self) -> None:
        """On a line of its own, and answers there until it is stopped."""
        process = start("serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--demo-duration", "fixed:0")
        assert process.stdout
        first, second = process.stdout.readline(), process.stdout.readline()
        assert re.fullmatch(r"serving on http://127\.0\.0\.1:\d+\n", first)
        line = re.fullmatch(r"serving on (http://127\.0\.0\.1:\d+) \(HTTP\)\n", second)
        assert line
        with urllib.request.urlopen(f"{line[1]}/v1/models") as answered:
            assert json.load(answered)["object"] == "list"
        process.send_signal(signal.SIGINT)
        assert end(process) == (0, "", "")

    def test_verbose_logs_operations_and_no_prompt(self) -> None:
        """Ids and states go to stderr."""
        process = start("serve", "--listen", "127.0.0.1:0", "--demo-duration", "fixed:0", "--verbose")
        assert process.stdout
        endpoint = process.stdout.readline().split()[-1]
        made = printed(run("generate", "a secret cat", "--endpoint", endpoint, "--json").stdout)
        process.terminate()
        code, _, err = end(process)
        assert code == 0
        assert f"INFO yandexart_grpc.server.operations: operation {made['operation_id']} done" in err
        assert "secret" not in err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--listen", "nowhere"],
            ["--listen", "0.0.0.0:0"],
            ["--backend", "nobody"],
            ["--demo-duration", "sometimes"],
            ["--listen", "127.0.0.1:0", "--tls-cert", "missing.pem"],
            ["--listen", "127.0.0.1:0", "--tls-cert", "missing.pem", "--tls-key", "missing.pem"],
        ],
    )
    def test_wrong_settings_are_one_line(self, arguments: list[str]) -> None:
        """And the exit code of `ConfigurationError`."""
        result = run("serve", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.fullmatch(r"Error: .*\n", result.stderr)

    def test_a_port_in_use_is_told(self, server: Embedded) -> None:
        """With the address, and the exit code of `ConfigurationError`."""
        address = server.endpoint.removeprefix("http://")
        result = run("serve", "--listen", address)
        assert result.exit_code == 2
        assert address in result.stderr

    def test_its_options_are_the_settings_of_the_server(self, tmp_path: Path) -> None:
        """Every setting has an option, with the same default: they are typed twice, because the server is imported late.

        The command alone keeps its operations in a file.
        """
        options = yandexart.commands["serve"].make_context("serve", []).params
        del options["log_format"]
        defaults = {field.name: field.default for field in dataclasses.fields(ServerSettings)}
        assert options.pop("store") == f"sqlite:///{tmp_path}/yandexart/yandexart.db"
        assert defaults.pop("store") == "sqlite://"
        assert defaults == options


def commands(group: click.Group = yandexart, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its name."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


class TestHelp:
    @pytest.mark.parametrize(("path", "command"), list(commands()))
    def test_every_command_and_option_explains_itself(self, path: tuple[str, ...], command: click.Command) -> None:
        """`-h` works everywhere and nothing is left without words."""
        assert run(*path, "-h").exit_code == 0
        assert command.help
        assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []

    def test_the_exit_codes_are_those_of_the_table(self) -> None:
        """Each class of error stands in the help with its code, once."""
        told = re.findall(r"^ +(\d+)  (\w+): ", run("--help").stdout, re.MULTILINE)
        assert sorted(told) == sorted({(str(entry.exit), entry.error.__name__) for entry in errors.TABLE})

    def test_the_version(self) -> None:
        """As an option, and as a module."""
        assert run("--version").stdout.endswith(f" {__version__}\n")
        assert python("import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('yandexart_grpc.cli')").returncode == 0


class TestExtras:
    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_packages_of_the_command_line(self, missing: str) -> None:
        """One line names the extra, and the exit code is 2."""
        done = python(f"import sys; sys.modules[{missing!r}] = None; from yandexart_grpc.cli import main; main()")
        assert done.returncode == 2
        assert re.fullmatch(r".*pip install 'yandexart-grpc\[cli\]'\n", done.stderr)

    @pytest.mark.parametrize("arguments", [["serve"], ["generate", "a cat", "--demo"]])
    def test_without_the_packages_of_the_server(self, arguments: list[str]) -> None:
        """One line names the extra, and the exit code is 2."""
        hide = f"import sys; sys.modules['grpc_health'] = None; sys.argv[1:] = {arguments!r}"
        done = python(f"{hide}; from yandexart_grpc.cli import main; main()")
        assert done.returncode == 2
        assert re.fullmatch(r"Error: .*pip install 'yandexart-grpc\[server\]'.*\n", done.stderr)
