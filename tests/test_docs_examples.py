"""The pages of docs/: every block that is code runs as it stands, and what does not would be noticed."""

from pathlib import Path

import pytest

from tests.documents import PAGES, Block, World, examples_of, name_of


@pytest.mark.parametrize("example", [example for page in PAGES for example in examples_of(page)], ids=name_of)
def test_every_example_runs(example: list[Block], world: World, tmp_path: Path) -> None:
    """It ends well, and the pictures that it names are there."""
    world.run(example, tmp_path)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "raise SystemExit(1)"),
        ("python", "import sys\nprint('said', file=sys.stderr)"),
        ("python", "import warnings\nwarnings.warn('said', DeprecationWarning)"),
        ("python", "def test_it():\n    assert False"),
        ("python", "name = 'never-made.jpeg'"),
        ("sh", "false | true"),
        ("sh", "false\ntrue"),
        ("sh", "echo nothing > picture.jpeg"),
    ],
)
def test_what_goes_wrong_is_noticed(language: str, code: str, world: World, tmp_path: Path) -> None:
    """A block that fails, warns, writes to stderr, or does not make the picture that it names, fails the test."""
    with pytest.raises((AssertionError, OSError)):
        world.run([Block("page.md", "Title", 1, language, code)], tmp_path)
