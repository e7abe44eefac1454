"""The house: who imports whom, what is public, and that both clients are one."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import yandexart_grpc
from yandexart_grpc import AsyncOperation, AsyncYandexArt, Operation, YandexArt, batch, server, stubs, testing

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "yandexart_grpc"

CORE = ("_budget", "_crowd", "_drive", "_history", "_pace", "_plan", "_step", "_submit", "_tasks", "_token", "_told", "_wait")
SHELL = (
    *("_version", "address", "auth", "channel", "directory", "errors", "failures", "image", "meaning", "operation", "request"),
    *("settings", "stubs"),
)
MAY_IMPORT = {
    "stubs": ("yandexart_pb",),
    "_version": (),
    "meaning": (),
    "errors": (),
    "failures": ("errors", "meaning", "stubs"),
    "request": ("stubs", "errors"),
    "again": ("request",),
    "image": ("stubs", "errors", "failures", "request"),
    "auth": ("auth", "errors", "stubs"),
    "address": (),
    "settings": ("address", "auth", "errors"),
    "channel": ("_version", "address", "auth", "errors", "settings", "stubs", "server"),
    "directory": ("address", "auth", "channel", "errors", "failures", "settings", "stubs"),
    "_plan": (),
    "_step": ("errors", "failures", "auth", "stubs"),
    "_token": ("_step", "auth", "errors", "failures", "stubs"),
    "_budget": ("_step",),
    "_history": ("_plan",),
    "_pace": ("_budget", "_plan", "errors", "failures", "settings"),
    "_submit": ("_pace", "_plan", "_step", "errors", "failures", "stubs"),
    "_wait": ("_pace", "_plan", "_step", "_submit", "errors", "failures", "stubs"),
    "_otel": ("_spans",),
    "_spans": ("_otel", "_version"),
    "_told": ("_otel", "_pace", "_step", "_submit", "_tale", "_wait", "stubs"),
    "_tale": ("_otel", "_pace", "_spans", "_step", "_version", "_wait", "errors", "failures", "stubs"),
    "_drive": ("_step", "errors"),
    "_crowd": ("_drive", "_step", "errors", "stubs"),
    "_tasks": (),
    "operation": (*CORE, *SHELL, "client", "aio"),
    "client": (*CORE, *SHELL),
    "aio": (*CORE, *SHELL),
    "__init__": ("client", "aio", *SHELL),
    "server": ("server", "_otel", "_version", "address", "auth", "stubs", "errors", "failures", "request", "image"),
    "server/doors": (
        *("server/doors", "server/operations", "server/answers", "server/callers"),
        *("_version", "address", "stubs", "errors", "request", "image"),
    ),
    "server/doors/page": (
        *("server/doors", "server/operations", "server/callers", "server/live", "server/store"),
        *("again", "errors", "image", "stubs"),
    ),
    "server/operations": (
        *(
            "server/allowance",
            "server/answers",
            "server/store",
            "server/workers",
            "server/quotas",
            "server/bells",
            "server/callers",
            "server/events",
            "server/gallery",
            "server/limits",
            "server/backends/base",
        ),
        *("_otel", "stubs", "errors", "failures", "request"),
    ),
    "server/events": ("server/store",),
    "server/journal": ("server/events", "server/store", "errors", "stubs"),
    "server/meters": (
        *("server/callers", "server/events", "server/operations", "server/store", "server/workers"),
        *("_otel", "_version", "errors", "failures", "stubs"),
    ),
    "server/figures": ("server/events", "server/store"),
    "server/gallery": (
        *("server/answers", "server/callers", "server/figures", "server/live", "server/store", "server/thumbnails"),
    ),
    "server/live": ("server/events", "server/store", "errors"),
    "server/thumbnails": ("server/store", "errors", "image", "stubs"),
    "server/answers": ("server/store", "stubs", "errors"),
    "server/callers": ("server/limits", "errors"),
    "server/limits": (),
    "server/schema": ("server/allowance", "stubs", "errors", "request"),
    "server/store": (
        *("server/schema", "server/listing", "server/allowance", "server/commits", "server/sqlite", "server/postgres"),
        *("_otel", "address", "stubs", "errors", "request"),
    ),
    "server/listing": ("server/schema", "stubs", "request"),
    "server/allowance": (),
    "server/quotas": ("server/store", "server/allowance", "errors"),
    "server/commits": (),
    "server/sqlite": ("errors",),
    "server/postgres": (),
    "server/workers": (),
    "server/jobs": ("server/postgres", "server/workers"),
    "server/bells": (),
    "server/backends": ("server/backends", "_otel", "stubs", "errors", "meaning", "request", "image"),
    "batch": ("batch", *CORE, "client", "errors", "image", "request", "settings", "stubs"),
    "batch/rows": ("errors", "request"),
    "batch/folder": ("batch/origin", "batch/rows", "errors", "image"),
    "batch/origin": ("request",),
    "batch/ledger": ("batch/folder", "errors"),
    "batch/shared": ("batch/folder", "batch/ledger", "address", "errors"),
    "batch/manifest": ("batch/folder", "batch/ledger"),
    "batch/settle": ("batch/ledger", "batch/rows", "errors", "settings"),
    "server/backends/cloud": ("server/backends/base", "_step", "aio", *SHELL),
    "cli/checks": (
        *("__init__", "_drive", "address", "auth", "client", "errors", "meaning", "settings"),
        "server/backends/images",
    ),
    "testing": ("testing", "_step", "aio", "client", "errors", "request", "settings", "stubs", "server"),
    "testing_fixtures": ("testing", "aio", "client"),
    "cli": (
        "again",
        "cli",
        "__init__",
        "client",
        "aio",
        "batch",
        "address",
        "auth",
        "errors",
        "image",
        "request",
        "settings",
        "server",
    ),
}
"""Who may import whom (design.md, section 2). Of the paths that fit a file the longest holds; a folder stands for all in it."""

PRIVATE = re.compile(
    "|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "registry" + r"\.npmjs", "/" + "work/", "/ro" + "ot/", "/ho" + "me/"])
)
"""Hosts of package registries, and folders of one machine."""


def files() -> Iterator[str]:
    """Every module of the package, as its path without `.py`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports_of(name: str) -> Iterator[str]:
    """What a module imports from us, as paths."""
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            if module.startswith("yandexart_pb"):
                yield "yandexart_pb"
            elif module.startswith("yandexart_grpc"):
                path = PACKAGE.parent / module.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").is_file()
                yield (path if is_module else path.parent).relative_to(PACKAGE).as_posix().replace(".", "__init__")


@pytest.mark.parametrize("name", list(files()))
def test_imports_go_one_way(name: str) -> None:
    """A module imports only what the design lets it import."""
    rule = max((key for key in MAY_IMPORT if f"{name}/".startswith(f"{key}/")), key=len)
    for imported in imports_of(name):
        assert any(f"{imported}/".startswith(f"{allowed}/") for allowed in MAY_IMPORT[rule]), f"{name} imports {imported}"


def test_only_stubs_knows_the_generated_modules() -> None:
    """Generated modules are imported by `stubs` and nobody else."""
    assert [name for name in files() if "yandexart_pb" in imports_of(name)] == ["stubs"]


def test_one_backend_alone_is_a_client() -> None:
    """In the server, the cloud backend imports the client and nobody else does."""
    assert [name for name in files() if name.startswith("server/") and "aio" in imports_of(name)] == ["server/backends/cloud"]


def test_rooms_are_entered_by_one_function() -> None:
    """Outside the rooms, one function of `channel` imports a room, and only when it is called."""

    def room(path: str) -> bool:
        return path.split("/")[0] in ("server", "batch", "cli", "testing", "testing_fixtures")

    assert [name for name in files() if not room(name) and any(map(room, imports_of(name)))] == ["channel"]
    top = ast.parse((PACKAGE / "channel.py").read_text()).body
    assert not [node for node in top if isinstance(node, ast.ImportFrom) and "server" in str(node.module)]


@pytest.mark.parametrize("module", [yandexart_grpc, batch, server, testing])
def test_public_names_are_sorted_and_exist(module: ModuleType) -> None:
    """`__all__` is sorted and complete."""
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_a_public_name_is_loaded_when_it_is_used() -> None:
    """`import yandexart_grpc` loads neither gRPC, nor protobuf, nor a room; an unknown name is an error as everywhere."""
    heavy = "('grpc', 'google', 'sqlite3')"
    script = f"import sys, yandexart_grpc; print([name for name in sys.modules if name.split('.')[0] in {heavy}])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded == "[]\n"
    assert dir(yandexart_grpc) == sorted(yandexart_grpc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Prompts'"):
        getattr(yandexart_grpc, "Prompts")  # noqa: B009  # what a type checker would not allow


def test_every_public_name_is_documented() -> None:
    """Public classes and their public methods have docstrings."""
    public = [getattr(yandexart_grpc, name) for name in yandexart_grpc.__all__]
    for thing in filter(inspect.isclass, public):
        members = [value for name, value in vars(thing).items() if not name.startswith("_") and callable(value)]
        for member in [thing, *members]:
            assert member.__doc__, member


@pytest.mark.parametrize(("blocking", "awaited"), [(YandexArt, AsyncYandexArt), (Operation, AsyncOperation)])
def test_both_clients_have_the_same_face(blocking: type, awaited: type) -> None:
    """Names, parameters, defaults and annotations are the same; only `Async` and `await` differ."""
    faces = [
        {
            name: [
                (p.name, p.kind, p.default, str(p.annotation).replace("aio.Async", "client.").replace("Async", ""))
                for p in inspect.signature(method).parameters.values()
            ]
            for name, method in vars(kind).items()
            if isinstance(method, FunctionType) and (name == "__init__" or not name.startswith("_"))
        }
        for kind in (blocking, awaited)
    ]
    assert faces[0] == faces[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs to know what is tracked")
def test_nothing_names_a_registry_or_this_machine() -> None:
    """No committed file names the host of a package registry or a path of one machine."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        text = (ROOT / name).read_bytes().decode(errors="replace")
        assert not PRIVATE.search(text), f"{name}: {PRIVATE.search(text)}"


def test_the_client_reads_no_wall_clock() -> None:
    """Deadlines and plans are kept on a clock that cannot be set, so that an hour of difference is not noticed.

    Only what is exchanged for tokens is stamped with the time of day, and so are the tokens.
    """
    outside = [name for name in files() if not name.startswith(("server/", "cli/")) and name != "auth/iam"]
    assert not [name for name in outside if re.search(r"\btime\.time\(|\bdatetime\b", (PACKAGE / f"{name}.py").read_text())]


def test_the_services_are_served_under_names_of_the_contract() -> None:
    """A service's path on the wire is made of the names that the contract declares."""
    service = stubs.ImageGenerationRequest.DESCRIPTOR.file.services_by_name["ImageGenerationAsyncService"]
    assert service.full_name == "yandex.cloud.ai.foundation_models.v1.image_generation.ImageGenerationAsyncService"
