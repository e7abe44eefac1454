"""The catalogue names tests that exist, and leaves no row without a test or a reason."""

import ast
import re
from pathlib import Path

from tests.faults.process import ROOT

TEXT = (Path(__file__).parent / "README.md").read_text()
ROWS = dict(re.findall(r"^\| (\d+) \|[^|]*\| (.*) \|$", TEXT, re.MULTILINE))


def test_the_tests_named_exist() -> None:
    """Each `path::name` is a function or a class of that file."""
    named = re.findall(r"`(tests/\w+(?:/\w+)*\.py)::(\w+)`", TEXT)
    assert len(named) > len(ROWS)
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text())
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
        assert name in there, f"{path}::{name}"


def test_each_row_has_a_test_or_a_reason() -> None:
    """The rows are those of the catalogue, each with what shows it or why nothing does."""
    assert list(map(int, ROWS)) == list(range(1, 34))
    assert all("::test_" in shown or shown.startswith("Not shown: ") for shown in ROWS.values())
