"""The fixtures of the test kit in runs of pytest of their own: with each plugin for asyncio and without, in many processes."""

from pathlib import Path

import pytest

from tests import environments
from tests.environments import environment

pytest_plugins = ["pytester"]

ASYNC = """
import asyncio
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

MARK
async def test_held(yandexart_server, async_yandexart_client):
    image = await async_yandexart_client.generate("a red cat")
    assert image.prompt == "a red cat"
    assert yandexart_server.ledger.generations == 1

MARK
async def test_planned(yandexart_server, async_yandexart_client):
    yandexart_server.like_yandex().finish_after(60)
    await asyncio.gather(*(async_yandexart_client.generate(prompt) for prompt in ("a red cat", "a blue dog")))
    assert yandexart_server.ledger.pictures == 2
    assert 60 <= yandexart_server.clock.now() < 62
"""
"""Two tests that await; `MARK` stands for what a plugin wants to see."""

UNUSED = """
import pytest

def test_reads(yandexart_server):
    yandexart_server.reads.fail(2, "UNAVAILABLE")

def test_an_answer(yandexart_server):
    yandexart_server.lose_next_answer()

def test_a_prompt(yandexart_server):
    yandexart_server.refuse("a bad cat")

def test_some(yandexart_server, yandexart_client):
    yandexart_server.submits.fail(3, "RESOURCE_EXHAUSTED")
    yandexart_server.pictures.fail()
    with pytest.raises(Exception):
        yandexart_client.generate("a red cat", timeout=1)

def test_all(yandexart_server, yandexart_client):
    yandexart_server.reads.fail(1, "INTERNAL")
    yandexart_client.generate("a red cat")

def test_that_fails_anyway(yandexart_server):
    yandexart_server.reads.fail(2)
    assert not yandexart_server.endpoint
"""


WITHOUT_ASYNCIO = ["-p", "no:asyncio"]


def awaiting(mark: str) -> str:
    """The tests that await, with that mark."""
    return ASYNC.replace("MARK", mark and f"@pytest.mark.{mark}")


def run(pytester: pytest.Pytester, *options: str, **files: str) -> pytest.RunResult:
    """What pytest says of the tests in these files, in a process of its own where every warning is an error."""
    pytester.makepyfile(**files)
    chosen = () if set(WITHOUT_ASYNCIO) <= set(options) else ("-o", "asyncio_default_fixture_loop_scope=function")
    # What takes longest to load has no part in this.
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", "-p", "no:schemathesis", *chosen, *options)


def test_what_was_scripted_and_never_asked_for_fails_the_test(pytester: pytest.Pytester) -> None:
    """Each by name, unless the test failed before it could ask."""
    ran = run(pytester, test_it=UNUSED)
    ran.assert_outcomes(passed=5, errors=4, failed=1)
    ran.stdout.fnmatch_lines_random(
        [
            "scripted and never asked for: 2 failures of reads",
            "scripted and never asked for: 1 lost answer",
            "scripted and never asked for: the refusal of 'a bad cat'",
            "scripted and never asked for: 2 failures of submits, 1 failure of pictures",
        ]
    )


@pytest.mark.parametrize(
    ("marks", "options"),
    [
        ([""], ["-o", "asyncio_mode=auto"]),
        (["asyncio", "asyncio(loop_scope='session')", "anyio"], ["-o", "asyncio_mode=strict"]),
        (["anyio"], WITHOUT_ASYNCIO),
    ],
    ids=["asyncio, auto", "asyncio, strict", "anyio alone"],
)
def test_every_plugin_for_asyncio_will_do(marks: list[str], options: list[str], pytester: pytest.Pytester) -> None:
    """The client is one of whichever event loop the test runs in, and leaves nothing open."""
    files = {f"test_{number}": awaiting(mark) for number, mark in enumerate(marks)}
    run(pytester, *options, **files).assert_outcomes(passed=2 * len(marks))


def test_without_a_plugin_for_asyncio(pytester: pytest.Pytester) -> None:
    """pytest says what to install of a test that awaits; one that runs a loop itself needs none, nor does one that blocks."""
    code = (
        awaiting("")
        + """
def test_own(yandexart_server, async_yandexart_client):
    asyncio.run(test_held(yandexart_server, async_yandexart_client))

def test_blocking(yandexart_client):
    yandexart_client.generate("a red cat")
"""
    )
    ran = run(pytester, *WITHOUT_ASYNCIO, "-p", "no:anyio", test_it=code)
    ran.assert_outcomes(passed=2, failed=2)
    ran.stdout.fnmatch_lines(["*You need to install a suitable plugin*", "*pytest-asyncio*"])


def test_trio_is_told_that_it_will_not_do(pytester: pytest.Pytester) -> None:
    """gRPC knows asyncio alone."""
    ran = run(pytester, *WITHOUT_ASYNCIO, test_it=awaiting("anyio").replace('"asyncio"', '"trio"'))
    ran.assert_outcomes(errors=2)
    ran.stdout.fnmatch_lines(["async_yandexart_client needs asyncio: let the fixture anyio_backend return 'asyncio'"])


def test_processes_share_nothing(pytester: pytest.Pytester) -> None:
    """With xdist each test has a server of its own."""
    code = """
import pytest

@pytest.mark.parametrize("number", range(6))
def test_alone(number, yandexart_server, yandexart_client):
    yandexart_server.reads.fail(1, "INTERNAL")
    yandexart_client.generate(f"{number}")
    assert yandexart_server.ledger.of(f"{number}") == (1, 1, 2, 1)
    assert yandexart_server.ledger.generations == 1
"""
    run(pytester, "-n", "2", test_it=code).assert_outcomes(passed=6)


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    """As any plugin, by `-p no:yandexart`."""
    ran = run(pytester, "-p", "no:yandexart", test_it="def test_with(yandexart_server): ...\ndef test_without(): ...")
    ran.assert_outcomes(passed=1, errors=1)
    ran.stdout.fnmatch_lines(["*fixture 'yandexart_server' not found"])


def test_nothing_is_loaded_before_a_fixture_is_used(wheel: Path, tmp_path: Path) -> None:
    """Only the module of the fixtures, without gRPC; and where the server is not installed, a fixture says what to install."""
    python = environment(tmp_path, wheel, "pytest")
    (tmp_path / "test_it.py").write_text("""
import sys

def test_loaded():
    loaded = {name for name in sys.modules if name.split(".")[0] in ("yandexart_grpc", "yandexart_pb", "grpc", "google")}
    assert loaded == {"yandexart_grpc", "yandexart_grpc._version", "yandexart_grpc.testing_fixtures"}

def test_used(yandexart_client): ...
""")
    ran = environments.run(python, "-m", "pytest", "-W", "error", "test_it.py", folder=tmp_path, expected=1)
    assert "1 passed, 1 error" in ran.stdout
    assert "yandexart_server needs the server: pip install 'yandexart-grpc[server]'" in ran.stdout
