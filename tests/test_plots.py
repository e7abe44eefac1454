"""The plots of docs/images/: each is drawn from what its benchmark writes, and what is committed can be shown on any page."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import lag_simulated, measure, optimum, plots, scale

LARGEST = 100_000
"""Bytes that a plot may have."""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that benchmarks write to, with the tables that plots are drawn from: few operations, and costs made up."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    monkeypatch.setattr(lag_simulated, "OPERATIONS", 20)
    monkeypatch.setattr(optimum, "STEPS", 200)
    with measure.Report("lag-simulated", "") as report:
        lag_simulated.schedules(report)
    sample = {"cpu": 0.002, "memory": 5e3, "reads": 3.0, "over": 0.0, "blocked": 0.0, "collector": 0.0}
    with measure.Report("scale", "") as report:
        for mode, kinds in (("planned", scale.KINDS), ("held", (*scale.KINDS, "raw stubs"))):
            for kind in kinds:
                for number in scale.SIZES:
                    scale.tell(report, mode, kind, number, sample, None)
    return tmp_path


def texts(path: Path) -> list[str]:
    """The texts in an SVG."""
    return ["".join(text.itertext()).strip() for text in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_plot_is_drawn_from_what_its_benchmark_writes(name: str, results: Path) -> None:
    """The names of cases and contestants are those of the tables, and the same table gives the same file."""
    first, second = (plots.write(name, results / folder).read_bytes() for folder in ("first", "second"))
    assert first == second
    assert b"<dc:date>" not in first
    assert b"Matplotlib" not in first


@pytest.mark.parametrize("name", plots.PLOTS)
def test_what_is_committed_is_a_small_svg(name: str) -> None:
    """It has its texts as texts, in a colour that is neither black nor white, and no background."""
    path = plots.IMAGES / f"{name}.svg"
    assert path.stat().st_size < LARGEST
    assert [text for text in texts(path) if text]
    said = path.read_text()
    assert f"fill: {plots.INK}" in said
    assert "fill: #ffffff" not in said


def test_the_schedule_asks_where_images_become_ready() -> None:
    """Questions come later and later, fewer images come to each, and most are asked where most images become ready."""
    asked = list(plots.questions(lag_simulated.USUAL))
    ages, shares = zip(*asked, strict=True)
    assert list(ages) == sorted(ages)
    assert list(shares) == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert 0.02 < lag_simulated.USUAL.cdf(ages[0]) < 0.3
