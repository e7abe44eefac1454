"""The README: whoever has nothing but this page gets somewhere, for every example runs."""

from pathlib import Path

import pytest

from tests.documents import Block, World, examples_of, name_of


@pytest.mark.parametrize("example", [*examples_of("README.md"), *examples_of("CONTRIBUTING.md")], ids=name_of)
def test_every_example_runs(example: list[Block], world: World, tmp_path: Path) -> None:
    """It ends well, and the pictures that it names are there."""
    world.run(example, tmp_path)
