"""The README: every example runs, and every table says what the code does."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.errors import TABLE
from yandexart_grpc.server import Embedded

README = (Path(__file__).parent.parent / "README.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in README.split("\n## ")[1:])
PYTHON = [(title, code) for title, text in SECTIONS.items() for code in re.findall(r"(?s)```python\n(.+?)```", text)]
COMMANDS = re.findall(r"^yandexart generate .+$", README, re.MULTILINE)
BATCHES = re.findall(r"^printf .+ \| yandexart batch .+$", README, re.MULTILINE)


def run(server: Embedded, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run an example as a user would whose environment points to the embedded server."""
    environment = os.environ | {"YANDEXART_ENDPOINT": server.endpoint, "YC_FOLDER_ID": "b1g"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("code", [code for _, code in PYTHON], ids=[title for title, _ in PYTHON])
def test_every_python_example_runs(code: str, server: Embedded, tmp_path: Path) -> None:
    """Each block runs as it stands, but for the folder, which has to be a real one."""
    code = (
        code.replace("b1g…", "b1g").replace("AQVN…", "AQVN").replace("localhost:50051", server.endpoint.removeprefix("http://"))
    )
    done = run(server, tmp_path, sys.executable, "-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, server: Embedded, tmp_path: Path) -> None:
    """Each command to make a picture makes one."""
    done = run(server, tmp_path, "sh", "-c", command)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("*.jpeg"))) == 1


@pytest.mark.parametrize("command", BATCHES)
def test_every_batch_runs(command: str, server: Embedded, tmp_path: Path) -> None:
    """Each command that makes a folder of pictures makes one, with a picture of each prompt."""
    done = run(server, tmp_path, "sh", "-c", command)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "pictures").glob("*.jpeg"))) == 2


def test_there_are_examples_of_everything() -> None:
    """Blocking code, asyncio, stubs, tests and the command line each have one, of about ten lines."""
    assert [title for title, _ in PYTHON] == [
        "In blocking code",
        "Many at once",
        "A file of prompts",
        "In asyncio",
        "Credentials",
        "With the stubs alone",
        "In your tests",
    ]
    assert all(code.count("\n") <= 15 for _, code in PYTHON)
    assert len(COMMANDS) == 2
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
