"""The wheel without the checkout: what each extra is enough for, what it says where it is not, and the tests under it.

Run by `make test-wheel`: it makes an environment for each.
"""

import shutil
import tomllib
from pathlib import Path

import pytest

from tests.environments import ROOT, environment, run, unpack, uv
from tests.postgres import Postgres
from yandexart_grpc.server import Embedded

pytestmark = pytest.mark.slow

GENERATE = """
from yandexart_grpc import YandexArt
with YandexArt(endpoint={endpoint!r}, folder_id="b1g") as art:
    assert art.generate("a red cat").data.startswith(b"\\xff\\xd8")
"""
"""Makes a picture."""

REFUSED = """
from yandexart_grpc import ConfigurationError, YandexArt
try:
    YandexArt({settings})
except ConfigurationError as error:
    print(error)
"""
"""Prints why there is no client."""

KEY = """
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from yandexart_grpc.auth import ServiceAccountKey
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
ServiceAccountKey({"id": "key", "service_account_id": "account", "private_key": key.private_bytes(*form).decode()})
"""
"""Takes the key of a service account."""

BATCH = """
import sys
from yandexart_grpc import YandexArt, batch
rows = batch.read_rows("prompts.txt", folder_id="b1g")
with YandexArt(endpoint=sys.argv[1], folder_id="b1g") as art:
    assert batch.run(art, rows, "pictures", ledger=sys.argv[2]).done == 1
"""
"""Makes a batch whose ledger is in PostgreSQL."""

CHOSEN = ("cli", "client", "http_doors", "image", "openai_door", "readme", "request", "server")
"""The tests that run under the wheel: each room through its front door."""


class Alone:
    """An environment with the wheel and one extra, or none."""

    def __init__(self, wheel: Path, extra: str, folder: Path) -> None:
        self.folder = folder
        self.python = environment(folder, f"{wheel}[{extra}]" if extra else wheel)

    def program(self, code: str, *arguments: str) -> str:
        """What a program prints that ends well and warns of nothing."""
        return run(self.python, "-W", "error", "-c", code, *arguments, folder=self.folder).stdout

    def yandexart(self, *arguments: str, expected: int = 0) -> str:
        """What the command says."""
        ran = run(self.python.with_name("yandexart"), *arguments, folder=self.folder, expected=expected)
        return ran.stderr if expected else ran.stdout


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """An environment with the extra that a test names."""
    return Alone(wheel, request.param, tmp_path_factory.mktemp("alone"))


def only(extra: str) -> pytest.MarkDecorator:
    """Run a test in an environment with this extra and no other."""
    return pytest.mark.parametrize("alone", [extra], indirect=True)


def needs(extra: str) -> str:
    """How a message names the extra that is missing."""
    return f"pip install 'yandexart-grpc[{extra}]'"


@only("")
def test_without_extras_there_are_client_and_stubs(alone: Alone, server: Embedded) -> None:
    """The client makes a picture and reads a file of prompts, the stubs load; whatever else is asked for names its extra."""
    alone.program(GENERATE.format(endpoint=server.endpoint))
    alone.program("from yandexart_grpc.stubs import ImageGenerationRequest; import yandexart_pb")
    alone.program("from yandexart_grpc import batch; batch.read_rows")
    assert needs("server") in alone.program(REFUSED.format(settings="endpoint='demo://'"))
    assert needs("cli") in alone.yandexart("--version", expected=2)


@only("auth")
def test_auth_takes_service_account_keys(alone: Alone) -> None:
    """The key of a service account is read and can sign."""
    alone.program(KEY)


@only("cli")
def test_cli_talks_to_servers(alone: Alone, server: Embedded) -> None:
    """It makes a picture and a batch with a server elsewhere; to serve or to draw, it names what is missing."""
    where = ("--endpoint", server.endpoint, "--folder-id", "b1g")
    alone.yandexart("generate", "a red cat", "--output", "cat.jpeg", *where)
    (alone.folder / "prompts.txt").write_text("a red cat\n")
    alone.yandexart("batch", "prompts.txt", "--output", "pictures", *where)
    assert (alone.folder / "cat.jpeg").exists()
    assert needs("server") in alone.yandexart("generate", "a red cat", "--demo", expected=2)
    assert needs("server") in alone.yandexart("serve", expected=2)
    assert needs("server") in alone.yandexart("quota", "--store", "sqlite:///orders.db", expected=2)
    assert needs("postgres") in alone.yandexart(
        *("batch", "prompts.txt", "--output", "others", "--ledger", "postgresql://localhost/x"), *where, expected=2
    )


@only("server")
def test_server_draws_inside_the_process(alone: Alone) -> None:
    """`demo://` draws; a store in PostgreSQL names what is missing, and so does the command."""
    alone.program(GENERATE.format(endpoint="demo://"))
    settings = "endpoint='demo://', store='postgresql://localhost/x'"
    assert needs("postgres") in alone.program(REFUSED.format(settings=settings))
    assert needs("cli") in alone.yandexart("--version", expected=2)


@only("otel")
def test_otel_brings_the_api(alone: Alone, server: Embedded) -> None:
    """The client tells it of a picture, with no SDK there to listen."""
    alone.program("import opentelemetry.trace\n" + GENERATE.format(endpoint=server.endpoint))


@only("postgres")
def test_postgres_keeps_ledgers(alone: Alone, server: Embedded, postgres: Postgres) -> None:
    """A batch has its ledger in a real PostgreSQL."""
    (alone.folder / "prompts.txt").write_text("a red cat\n")
    alone.program(BATCH, server.endpoint, postgres.database())


@only("all")
def test_all_is_everything(alone: Alone) -> None:
    """The first command of the README makes a picture."""
    alone.yandexart("generate", "a red cat", "--demo", "--output", "cat.jpeg")
    assert (alone.folder / "cat.jpeg").exists()


def test_every_extra_is_tried() -> None:
    """Each extra of pyproject.toml has a test here."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    marks = [getattr(test, "pytestmark", []) for name, test in globals().items() if name.startswith("test_")]
    assert {mark.args[1][0] for test in marks for mark in test} == {"", *extras}


def test_the_tests_pass_under_the_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The tests of the sdist pass where the only code of ours is that of the wheel."""
    sdist, wheel = built
    unpack(sdist, tmp_path / "sdist")
    (source,) = (tmp_path / "sdist").iterdir()
    shutil.rmtree(source / "yandexart_grpc")
    shutil.rmtree(source / "generated")
    python = environment(tmp_path, f"{wheel}[all]")
    uv("pip", "install", "--python", python, "--group", f"{source}/pyproject.toml:test")
    for package in ("yandexart_grpc", "yandexart_pb"):
        loaded = run(python, "-c", f"import {package}; print({package}.__file__)", folder=source).stdout
        assert Path(loaded).is_relative_to(tmp_path / "venv")
    files = [f"tests/test_{name}.py" for name in CHOSEN]
    run(python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow", *files, folder=source, timeout=1800)
