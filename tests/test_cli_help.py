"""What the command line says of itself: its examples run, its manual is current, and shells complete it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from tests.postgres import Postgres
from tests.test_cli import COMMAND, commands, end, python, run, start
from yandexart_grpc import YandexArt
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.server import embedded

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    " ".join(path): re.findall(r"^  (.+)$", (command.epilog or "").rpartition("Examples:\n")[2], re.MULTILINE)
    for path, command in [((), yandexart), *commands()]
}
LINES = list(dict.fromkeys(line for lines in EXAMPLES.values() for line in lines))
SHARED = "postgresql://art@db.internal/art"
NAME = "fbvEXAMPLE"
SERVES = [line for line in LINES if line.startswith("yandexart serve")]


class Place(NamedTuple):
    """Where examples are tried: what they name is there."""

    folder: Path
    endpoint: str
    operation_id: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with prompts, pictures of a batch, and the store of a server that goes on meanwhile."""
    folder = tmp_path_factory.mktemp("place")
    with embedded(duration="fixed:0", store=f"sqlite:///{folder}/orders.db") as server:
        with YandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
            operation_id = art.generate("a red cat").operation_id
        (folder / "prompts.csv").write_text("prompt,seed\na red cat,42\na blue dog,\n")
        batch = ["batch", folder / "prompts.csv", "-o", folder / "pictures", "--demo", "--folder-id", "b1g"]
        subprocess.run([str(COMMAND), *map(str, batch)], check=True, capture_output=True)
        yield Place(folder, server.endpoint, operation_id)


class TestExamples:
    @pytest.mark.parametrize("path", EXAMPLES)
    def test_every_help_ends_with_examples(self, path: str) -> None:
        """As they are to be typed, of that command or one below it."""
        shown = run(*path.split(), "--help").stdout
        assert EXAMPLES[path]
        assert shown.endswith("\n".join(["  Examples:", *(f"    {line}" for line in EXAMPLES[path]), ""]))
        assert all(f"yandexart {path}".strip() in line for line in EXAMPLES[path])

    @pytest.mark.parametrize("line", [line for line in LINES if line not in SERVES])
    def test_every_example_runs(self, line: str, place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        """As it stands, in a shell, where what it names is there: id, folder and database are real ones."""
        here = tmp_path / "here"
        shutil.copytree(place.folder, here, ignore=shutil.ignore_patterns("orders.db*"))
        (here / "orders.db").symlink_to(place.folder / "orders.db")
        (here / ".config/fish/completions").mkdir(parents=True)
        if " -o pictures" in line or "--images pictures" in line:
            shutil.rmtree(here / "pictures")
        if SHARED in line:
            postgres: Postgres = request.getfixturevalue("postgres")
            url = postgres.database()
            with embedded(store=url):
                line = line.replace(SHARED, shlex.quote(url))
        environment = os.environ | {"YANDEXART_ENDPOINT": place.endpoint, "YC_FOLDER_ID": "b1g", "YC_API_KEY": "AQVN"}
        environment |= {"PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(here)}
        command = ["bash", "-o", "pipefail", "-c", line.replace(NAME, place.operation_id)]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("line", SERVES)
    def test_every_example_of_a_server_serves(
        self, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        """On a free port, until it is told to stop."""
        monkeypatch.setenv("YC_API_KEY", "AQVN")
        if SHARED in line:
            postgres: Postgres = request.getfixturevalue("postgres")
            line = line.replace(SHARED, postgres.database())
        words = [*shlex.split(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", line))[1:], "--listen", "127.0.0.1:0"]
        process = start(*words, cwd=tmp_path)
        assert process.stdout
        assert process.stdout.readline().startswith("serving on http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert end(process)[0] == 0


class TestManual:
    def test_it_says_what_the_code_says(self) -> None:
        """`make manual` would change nothing."""
        checked = subprocess.run(
            [sys.executable, "docs/manual.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")

    def test_a_manual_of_yesterday_is_noticed(self, tmp_path: Path) -> None:
        """The check is one that can fail."""
        for name in ("manual.py", "cli.md"):
            shutil.copy(ROOT / "docs" / name, tmp_path)
        (tmp_path / "cli.md").write_text("# The command line\n")
        command = [sys.executable, str(tmp_path / "manual.py")]
        checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (1, "cli.md is not what the code says: run make manual\n")
        subprocess.run(command, check=True)
        assert (tmp_path / "cli.md").read_text() == (ROOT / "docs/cli.md").read_text()

    def test_every_command_and_option_is_in_it(self) -> None:
        """With its variable, its exit codes and its examples."""
        page = (ROOT / "docs/cli.md").read_text()
        for path, command in commands():
            if isinstance(command, click.Group):
                continue
            (section,) = re.findall(rf"(?s)^## yandexart {' '.join(path)}\n(.+?)(?=^## )", page, re.MULTILINE)
            section += page.partition("## Connections")[2] if "[connections]" in section else ""
            options = [one for one in command.params if isinstance(one, click.Option)]
            assert {name for one in options for name in one.opts} <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section))
            assert {str(one.envvar) for one in options if one.envvar} <= set(re.findall(r"Variable: `(\w+)`", section))
            assert all(line in section for line in EXAMPLES[" ".join(path)])


BASH = """
eval "$(yandexart completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p yandexart | sed 's/.*-F \\([^ ]*\\) .*/\\1/') yandexart
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
"""What bash does at the tab key, for a command line whose last word is being typed."""
CASES = [
    (["hist"], {"history"}),
    (["history", ""], {"list", "search", "show", "export"}),
    (["serve", "--role", ""], {"serve", "work", "both"}),
    (["history", "list", "--state", "sub"], {"submitting", "submitted"}),
    (["generate", "--no-"], {"--no-metadata", "--no-proxy"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
]


class TestCompletion:
    @pytest.mark.parametrize(("words", "expected"), CASES)
    def test_bash_completes(self, words: list[str], expected: set[str]) -> None:
        """Commands, options and choices, by the function that bash calls."""
        script = BASH.format(words=shlex.join(["yandexart", *words]))
        environment = os.environ | {"PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert set(done.stdout.split()) == expected

    @pytest.mark.parametrize("shell", ["zsh", "fish"])
    @pytest.mark.parametrize(("words", "expected"), CASES)
    def test_other_shells_are_answered(self, shell: str, words: list[str], expected: set[str]) -> None:
        """By what their scripts call."""
        typed = shlex.join(["yandexart", *words[:-1]]) + " " + words[-1]
        position = words[-1] if shell == "fish" else str(len(words))
        environment = os.environ | {"_YANDEXART_COMPLETE": f"{shell}_complete", "COMP_WORDS": typed, "COMP_CWORD": position}
        done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert {word for word in expected if re.search(rf"(^|,){word}(\s|$)", done.stdout, re.MULTILINE)} == expected

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_of_each_shell_calls_us(self, shell: str) -> None:
        """Under the name that the command has."""
        result = run("completion", shell)
        assert (result.exit_code, result.stderr) == (0, "")
        assert f"_YANDEXART_COMPLETE={shell}_complete" in result.stdout
        assert run("completion", "cmd").exit_code == 2


def test_help_loads_only_what_it_needs() -> None:
    """Pictures, databases and servers are imported by the commands that need them."""
    script = "import sys, json; from yandexart_grpc.cli.app import yandexart; yandexart(['--help'], standalone_mode=False)"
    done = python(f"{script}; print(json.dumps(sorted(sys.modules)), file=sys.stderr)")
    loaded = set(json.loads(done.stderr))
    assert loaded.isdisjoint({"PIL", "sqlalchemy", "psycopg", "rich.console", "yandexart_grpc.server", "uvicorn", "starlette"})
