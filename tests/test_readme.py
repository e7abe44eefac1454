"""The README: whoever has nothing but this page gets somewhere, for every example runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from tests.documents import ROOT, Block, World, blocks_of, examples_of, name_of


@pytest.mark.parametrize("example", [*examples_of("README.md"), *examples_of("CONTRIBUTING.md")], ids=name_of)
def test_every_example_runs(example: list[Block], world: World, tmp_path: Path) -> None:
    """It ends well, and the pictures that it names are there."""
    world.run(example, tmp_path)


@pytest.mark.slow
def test_from_nothing_to_a_picture(tmp_path: Path) -> None:
    """In a fresh copy, the first command makes a picture; what the page installs, in a place of its own, another."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    told = [block.code for block in blocks_of("README.md") if block.section in ("Two commands", "Install")]
    lines = [line for line in "".join(told).splitlines() if not line.startswith("make test")]
    script = "\n".join([*lines, "yandexart generate 'a red cat' --demo --output again.jpeg"])
    subprocess.run([sys.executable, "-m", "venv", "own"], cwd=tmp_path, check=True)
    environment = os.environ | {"PATH": f"{tmp_path}/own/bin{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, check=True)
    for name in ("cat.jpeg", "again.jpeg"):
        with PIL.Image.open(tmp_path / name) as picture:
            picture.load()
