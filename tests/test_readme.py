"""The README: every example runs, and every table says what the code does."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import PIL.Image
import pytest

from tests.images_upstream import KEY, ImagesUpstream
from yandexart_grpc import YandexArt
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.errors import TABLE
from yandexart_grpc.server import Embedded, embedded

README = (Path(__file__).parent.parent / "README.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in README.split("\n## ")[1:])
PYTHON = [(title, code) for title, text in SECTIONS.items() for code in re.findall(r"(?s)```python\n(.+?)```", text)]
CURL = re.findall(r"(?s)```sh\n(curl .+?)```", SECTIONS["Over HTTP"])
COMMANDS = re.findall(r"^yandexart generate .+$", README, re.MULTILINE)
BATCHES = re.findall(r"^printf .+ \| yandexart batch .+$", README, re.MULTILINE)


def run(server: Embedded, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run an example as a user would whose environment points to the embedded server."""
    environment = os.environ | {"YANDEXART_ENDPOINT": server.endpoint, "YC_FOLDER_ID": "b1g", "YC_API_KEY": KEY}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ImagesUpstream]:
    """What stands in for Yandex's Images API."""
    with ImagesUpstream() as running:
        yield running


@pytest.mark.parametrize("code", [code for _, code in PYTHON], ids=[title for title, _ in PYTHON])
def test_every_python_example_runs(code: str, server: Embedded, upstream: ImagesUpstream, tmp_path: Path) -> None:
    """Each block runs as it stands, but for folder, key and addresses, which have to be real ones."""
    code = code.replace("b1g…", "b1g").replace("AQVN…", KEY).replace("localhost:50051", server.endpoint.removeprefix("http://"))
    code = code.replace("images://", f"images+http://{upstream.address}")
    done = run(server, tmp_path, sys.executable, "-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, server: Embedded, upstream: ImagesUpstream, tmp_path: Path) -> None:
    """Each command to make a picture makes one."""
    done = run(server, tmp_path, "sh", "-c", command.replace("images://", f"images+http://{upstream.address}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("*.jpeg"))) == 1


@pytest.mark.parametrize("command", BATCHES)
def test_every_batch_runs(command: str, server: Embedded, tmp_path: Path) -> None:
    """Each command that makes a folder of pictures makes one, with a picture of each prompt."""
    done = run(server, tmp_path, "sh", "-c", command)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "pictures").glob("*.jpeg"))) == 2


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "jq"))), reason="curl, jq or bash is not installed")
def test_every_request_over_http_is_answered(tmp_path: Path) -> None:
    """Each runs as it stands, but for the address and the folder: an order, its picture, and one from the OpenAI door."""
    order, read, generate = CURL
    with embedded(duration="fixed:0", http=True) as server:

        def curl(command: str) -> str:
            command = command.replace("http://127.0.0.1:8080", str(server.http)).replace("b1g…", "b1g")
            done = run(server, tmp_path, "bash", "-o", "pipefail", "-c", command)
            assert done.returncode == 0, done.stderr
            return done.stdout

        operation_id = json.loads(curl(order))["id"]
        with YandexArt(endpoint=server.endpoint) as art:
            image = art.operation(operation_id).result()
        curl(f"OPERATION_ID={operation_id}; {read}")
        assert (tmp_path / "image.jpeg").read_bytes() == image.data
        curl(generate)
        with PIL.Image.open(tmp_path / "image.jpeg") as picture:
            assert picture.size == (1344, 768)


def test_there_are_examples_of_everything() -> None:
    """Blocking code, asyncio, stubs, tests and the command line each have one, of about ten lines."""
    assert [title for title, _ in PYTHON] == [
        "In blocking code",
        "Live pictures",
        "Many at once",
        "A file of prompts",
        "In asyncio",
        "Credentials",
        "With the stubs alone",
        "In your tests",
    ]
    assert all(code.count("\n") <= 15 for _, code in PYTHON)
    assert len(COMMANDS) == 3
    assert len(BATCHES) == 1


def test_every_command_and_option_is_documented() -> None:
    """The table of the command line holds exactly the commands and options that there are."""
    table = re.findall(r"^\| `?([a-z]+(?: [a-z]+)?)[ A-Z]*`? \| (.+) \|$", SECTIONS["On the command line"], re.MULTILINE)
    documented = {command: set(re.findall(r"--[a-z-]+", options)) for command, options in table if command != "command"}
    shared = documented.pop("connections")
    for command, cells in table:
        documented[command] = documented.get(command, set()) | (shared if "connections" in cells else set())
    existing = {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in commands(yandexart)
    }
    assert {name: documented.get(name) for name in existing} == existing


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, under its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_the_table_of_errors_is_the_table() -> None:
    """Each error stands in the README with its codes, HTTP statuses and exit code."""
    rows = re.findall(r"^\| `(\w+)` \| .+ \| ([A-Z_, ]+) \| ([\d, ]+) \| (\d+) \|$", README, re.MULTILINE)
    expected = []
    for error in dict.fromkeys(row.error for row in TABLE):
        mine = [row for row in TABLE if row.error is error]
        statuses = dict.fromkeys(str(row.http) for row in mine)
        expected.append((error.__name__, ", ".join(row.code.name for row in mine), ", ".join(statuses), str(mine[0].exit)))
    assert rows == expected
