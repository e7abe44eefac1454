"""The fenced blocks of the documents, and what runs them as a reader would, against servers of ours.

A `python` block is a program, run in an empty folder, or a file for pytest where it defines a test; a `sh` block is run by bash;
`sql`, `yaml`, `toml` and `json` have to be such; `text` is not run, but its commands have to be ours. Where a server is
started in a section, its blocks run one after the other, in one folder.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import click
import PIL.Image
import pytest
import trustme
import yaml

from tests.images_upstream import KEY, ImagesUpstream
from yandexart_grpc.cli.app import yandexart
from yandexart_grpc.server import embedded

ROOT = Path(__file__).parent.parent
PAGES = tuple(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *PAGES)
"""Everything whose blocks are run."""

PROGRAMS = {"python", "sh"}
DATA: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}
ELSEWHERE = {"bash", "js"}
"""What the page about other languages has. It needs tools that not every machine has, and tests of its own run it."""
LANGUAGES = {*PROGRAMS, *DATA, *ELSEWHERE, "sql", "text"}

FOREIGN = "ignore:Call to deprecated class RetryInterceptor:DeprecationWarning"
"""yandexcloud waits with a class that it has deprecated itself."""
DURATION = "fixed:0.05"
"""How long a picture takes."""
TIME = 300
"""Seconds that a block may take."""
STDOUT, STDERR = ".stdout", ".stderr"
"""What a block says goes into files: what it leaves in the background would keep a pipe open."""
TOOLS = ("bash", "curl", "jq", "openssl")
"""Programs that examples need, and that not every machine has."""
FENCED = r"^(?P<indent> *)```(?P<language>.*)\n(?P<code>(?s:.*?))^(?P=indent)```$"
STARTS = re.compile(r"^yandexart serve (?:[^\\\n]|\\\n)*&$", re.MULTILINE)
GRPC, HTTP = r"(?:127\.0\.0\.1|localhost):50051", r"(?:127\.0\.0\.1|localhost):8080"
"""The addresses of servers in the documents."""


class Block(NamedTuple):
    """A fenced block."""

    document: str
    section: str
    line: int
    language: str
    code: str

    @property
    def starts(self) -> bool:
        """Whether it starts a server, which goes on after it."""
        return self.language == "sh" and STARTS.search(self.code) is not None


def blocks_of(document: str) -> Iterator[Block]:
    """Every block of a document."""
    text, section = (ROOT / document).read_text(), ""
    for found in re.finditer(rf"(?m)^#+ (?P<title>.+)$|{FENCED}", text):
        if found["title"]:
            section = found["title"]
        else:
            line = text.count("\n", 0, found.start()) + 1
            yield Block(document, section, line, found["language"], re.sub(f"(?m)^{found['indent']}", "", found["code"]))


def prose(text: str) -> str:
    """A document without its blocks."""
    return re.sub(f"(?m){FENCED}", "", text)


def examples_of(document: str) -> Iterator[list[Block]]:
    """The blocks that are run, those together that are one session with a server."""
    for _, section in groupby(blocks_of(document), key=lambda block: block.section):
        blocks = [block for block in section if block.language in PROGRAMS]
        if any(block.starts for block in blocks):
            yield blocks
        else:
            yield from ([block] for block in blocks)


def name_of(example: Sequence[Block]) -> str:
    """Where an example stands."""
    return f"{example[0].document}:{example[0].line}"


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of our commands in a text, a line each, without what stands around them."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S* )*(yandexart .+)", line)
        if found:
            yield shlex.split(re.split(r" [|>&]", found[1])[0], comments=True)[1:]


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """What our command line makes of a command. Raises `click.ClickException` where it is none."""
    command: click.Command = yandexart
    while isinstance(command, click.Group):
        name, *words = words
        if name not in command.commands:
            raise click.UsageError(f"no such command: {name}")
        command = command.commands[name]
    return dict(command.make_context(command.name, list(words)).params)


class World(NamedTuple):
    """What stands around examples, and for what they name."""

    images: str
    """`host:port` of what stands in for Yandex's Images API."""
    authority: Path
    """The PEM file of who vouches for servers here, beside `cert.pem` and `key.pem` of one."""

    def run(self, example: Sequence[Block], folder: Path) -> None:
        """Run the blocks of an example one after the other, with a server that draws, and end what they started.

        Raises `AssertionError` where one fails, and `OSError` where a picture that its code names is not made.
        """
        words = {word for block in example for word in re.findall(r"\w+", block.code)} | {"bash"}
        if missing := [tool for tool in TOOLS if tool in words and not shutil.which(tool)]:
            pytest.skip(f"{', '.join(missing)}: not installed")
        with ExitStack() as stack:
            names = {r"b1g…": "b1g", r"AQVN…": KEY, r"t1\.…": "t1.token", r"images://": f"images+http://{self.images}"}
            names[r"--backend images"] = f"--backend images --upstream http://{self.images}"
            server = stack.enter_context(embedded(duration=DURATION, http=True))
            grpc, http = (str(url).partition("://")[2] for url in (server.endpoint, server.http))
            names[r"https://ai\.api\.cloud\.yandex\.net/v1"] = f"http://{http}/v1"
            if any("api.cloud.yandex.net" in block.code for block in example):
                cert, key = (str(self.authority.with_name(name)) for name in ("cert.pem", "key.pem"))
                secure = stack.enter_context(embedded(duration=DURATION, tls_cert=cert, tls_key=key))
                names[r"api\.cloud\.yandex\.net(:443)?"] = secure.endpoint.partition("://")[2]
            if any(block.starts for block in example):
                grpc, http = (stack.enter_context(reserved()) for _ in range(2))
            names |= {GRPC: grpc, HTTP: http}
            for block in example:
                code = block.code
                for written, meant in names.items():
                    code = re.sub(written, meant, code)
                self._run(block, code, server.endpoint, folder, stack)
                if block.starts:
                    wait_for(grpc, folder)

    def _run(self, block: Block, code: str, endpoint: str, folder: Path, stack: ExitStack) -> None:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "YANDEXART_ENDPOINT": endpoint,
            "YC_FOLDER_ID": "b1g",
            "YC_API_KEY": KEY,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.authority),
        }
        stdout, stderr = folder / STDOUT, folder / STDERR
        with stdout.open("w") as out, stderr.open("w") as err:
            process = subprocess.Popen(
                command(block, code, folder), cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True
            )
            stack.callback(end, process)
            status = process.wait(TIME)
        said = stderr.read_text()
        assert status == 0, f"{block.document}:{block.line} ended with {status}:\n{stdout.read_text()}{said}"
        assert block.language != "python" or not said, f"{block.document}:{block.line} wrote to stderr:\n{said}"
        for name in re.findall(r"(?<![\w{}/.-])[\w/-]+\.jpe?g", block.code):
            with PIL.Image.open(folder / name) as picture:
                picture.load()


def command(block: Block, code: str, folder: Path) -> list[str]:
    """What runs the code of a block."""
    if block.language == "sh":
        return ["bash", "-euo", "pipefail", "-c", code]
    python = [sys.executable, "-W", "error", "-W", FOREIGN]
    if not re.search(r"^(async )?def test_", code, re.MULTILINE):
        return [*python, "-c", code]
    (folder / "test_example.py").write_text(code)
    spared = (f"-pno:{plugin}" for plugin in ("cacheprovider", "hypothesispytest", "schemathesis", "xdist"))
    loops = "asyncio_default_fixture_loop_scope=function"  # pytest-asyncio warns where it is not said
    return [sys.executable, "-m", "pytest", "-q", "-W", "error", *spared, "-o", loops, "test_example.py"]


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """The surroundings of examples; the folder keeps certificates."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "cert.pem", append=True)
    with ImagesUpstream() as images:
        yield World(images.address, folder / "ca.pem")


@contextmanager
def reserved() -> Iterator[str]:
    """`127.0.0.1:port` that nobody gets who asks for any port, and that one who asks for it may listen at."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*holder.getsockname())


def wait_for(address: str, folder: Path) -> None:
    """Return when a server has said that it can be reached there."""
    until = time.monotonic() + TIME
    while address.rpartition(":")[2] not in (folder / STDOUT).read_text():
        assert time.monotonic() < until, f"nobody listens at {address}: {(folder / STDERR).read_text()}"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End everything that a block started and left running."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
