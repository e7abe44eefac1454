"""What is installed is what was promised: both packages, three dependencies, and nothing of the rooms before they are entered."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

from tests.environments import environment, run, uv

LOAD = """
import json, sys
import grpc, grpc.aio  # grpcio loads whichever of its sisters it finds, health and reflection among them
before = set(sys.modules)
import yandexart_grpc
print(json.dumps(sorted(set(sys.modules) - before)))
"""
"""Prints the modules that `import yandexart_grpc` loads on top of grpcio."""

CORE = {"google", "grpc", "yandexart_grpc", "yandexart_pb"}
"""What the modules of the three dependencies and of the wheel begin with."""
ROOMS = {"yandexart_grpc.cli", "yandexart_grpc.server", "yandexart_grpc.testing"}


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and what it depends on, without extras."""
    return environment(tmp_path_factory.mktemp("environment"), wheel)


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    """The wheel holds `yandexart_grpc` and `yandexart_pb`, both typed, and no tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"yandexart_grpc", "yandexart_pb"}
    assert {"yandexart_grpc/py.typed", "yandexart_pb/py.typed"} <= set(names)


def test_without_extras_there_are_three_dependencies(fresh: Path) -> None:
    """Installing without extras brings the three dependencies, and what grpcio needs itself."""
    installed = {package["name"] for package in json.loads(uv("pip", "list", "--python", fresh, "--format", "json"))}
    assert installed == {"yandexart-grpc", "grpcio", "protobuf", "googleapis-common-protos", "typing-extensions"}


@pytest.mark.parametrize("extras", ["without extras", "with extras"])
def test_the_import_loads_no_room_and_no_extra(extras: str, request: pytest.FixtureRequest) -> None:
    """`import yandexart_grpc` warns of nothing, and loads no room, and of other packages only the three dependencies."""
    python = sys.executable if extras == "with extras" else request.getfixturevalue("fresh")
    loaded = json.loads(run(python, "-W", "error", "-c", LOAD).stdout)
    assert ROOMS.isdisjoint(loaded)
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names <= CORE


def test_the_command_without_its_extra_names_it(fresh: Path) -> None:
    """`yandexart` says in one line which extra it needs."""
    ran = run(fresh.with_name("yandexart"), "--help", expected=2)
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1
    assert "pip install 'yandexart-grpc[cli]'" in ran.stderr


def test_a_service_account_key_without_its_extra_names_it(fresh: Path) -> None:
    """The key of a service account says which extra it needs."""
    code = """
from yandexart_grpc import ConfigurationError
from yandexart_grpc.auth import ServiceAccountKey
try:
    ServiceAccountKey({"id": "key", "service_account_id": "account", "private_key": "pem"})
except ConfigurationError as error:
    print(error)
"""
    assert "pip install 'yandexart-grpc[auth]'" in run(fresh, "-W", "error", "-c", code).stdout


def test_an_embedded_server_without_its_extra_names_it(fresh: Path) -> None:
    """`demo://` says which extra it needs, as a ConfigurationError."""
    code = """
from yandexart_grpc import ConfigurationError, YandexArt
try:
    YandexArt(endpoint="demo://")
except ConfigurationError as error:
    print(error)
"""
    assert "pip install 'yandexart-grpc[server]'" in run(fresh, "-W", "error", "-c", code).stdout
