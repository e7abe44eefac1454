"""Draws docs/images/ from what the benchmarks found: `make plots`, after `make bench`.

* `schedule.svg`: when the learned schedule asks, over the law of durations that it has learned from. Drawn from `_plan` itself.
* `lag-reads.svg`: lag against reads of an image: ours with several patiences, what others do, and the optimum (`lag_simulated`).
* `cost-in-flight.svg`: CPU for an image against how many are in flight: ours and raw stubs (`scale`).

The same results make the same files, byte for byte. Colours are of middle brightness on nothing, so that they are seen on a light
page and on a dark one.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.lag_simulated import LEARNED, OURS, PATIENCE, PATIENCES, SIMPLE, TARGETS, TWO_HUMPS, USUAL, Case, Law, warm
from benchmarks.measure import RESULTS
from benchmarks.scale import SIZES
from benchmarks.virtual import MODEL, ROUND_TRIP

IMAGES = Path(__file__).parent.parent / "docs" / "images"
INK, BLUE, ORANGE = "#808080", "#3b8fd0", "#d9822b"
LIKE = {
    "every 1 s": "every 1 s,\nas yandexcloud",
    "every 10 s": "every 10 s, as the\nAI Studio SDK",
    "back-off": "growing pauses,\nas google-api-core",
}
"""Who does what the simple schedules do."""
LINES = {
    ("planned", "sync"): ("ours, asking by the plan", BLUE, "-"),
    ("planned", "aio"): ("the same in asyncio", ORANGE, "-"),
    ("held", "sync"): ("ours, held reads", BLUE, "--"),
    ("held", "aio"): ("the same in asyncio", ORANGE, "--"),
    ("held", "raw stubs"): ("raw stubs, held reads", INK, "--"),
}
"""What is said of each contestant of `scale`, and how it is drawn."""
RARE = 0.005
"""Questions that fewer operations need are not drawn."""

Rows = dict[tuple[str, str], dict[str, float]]
"""The values of a result, by case and contestant."""


def styled() -> AbstractContextManager[None]:
    """How everything looks; fonts are left to the page, and names inside the file depend on nothing else."""
    return mpl.rc_context(
        {
            "axes.edgecolor": INK,
            "axes.grid": True,
            "axes.labelcolor": INK,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "figure.constrained_layout.use": True,
            "font.family": "sans-serif",
            "font.size": 10,
            "grid.alpha": 0.25,
            "grid.color": INK,
            "legend.frameon": False,
            "legend.labelcolor": INK,
            "svg.fonttype": "none",
            "svg.hashsalt": "yandexart-grpc",
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )


def result(name: str) -> tuple[Rows, str]:
    """What a benchmark found, and where. Ends the program where it was not run yet."""
    try:
        found = json.loads((RESULTS / f"{name}.json").read_text())
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is not there yet; run: make bench") from error
    machine = found["machine"]
    where = f"{machine['cores']} cores, Python {machine['python']}, grpcio {machine['versions']['grpcio']}"
    return {(row["case"], row["contestant"]): row["values"] for row in found["rows"]}, where


def questions(law: Law) -> Iterator[tuple[float, float]]:
    """The ages in seconds at which a client asks that has learned the law, and the share of the images that come to each."""
    learned = warm(law, random.Random(1), PATIENCE).pace.law(MODEL)
    age = learned.next_age(0.0, PATIENCE)
    left = 1.0
    while left > RARE:
        yield age, left
        left = 1 - law.cdf(age)
        age = learned.next_age(age, PATIENCE)


def schedule() -> Figure:
    """When ours asks."""
    figure = Figure(figsize=(7, 4))
    for axes, law in zip(figure.subplots(2, 1), (USUAL, TWO_HUMPS), strict=True):
        asked = list(questions(law))
        draw_density(axes, law, asked[-1][0])
        for number, (age, share) in enumerate(asked):
            axes.axvline(age, color=ORANGE, alpha=max(0.15, share), linewidth=1.4, label=None if number else "a question")
        axes.set_title(f"{law.name}, learned from {LEARNED} images, patience {PATIENCE:g} s", loc="left")
        axes.set(yticks=[], ylim=(0, None), xlim=(0, None))
        axes.grid(visible=False)
        axes.legend(loc="upper right")
    axes.set_xlabel("seconds after the order; the paler a line, the fewer images come to that question")
    return figure


def draw_density(axes: Axes, law: Law, end: float) -> None:
    """The density of the durations of a law."""
    ages = [end * step / 150 for step in range(151)]
    density = [law.cdf(age + 0.05) - law.cdf(max(0.0, age - 0.05)) for age in ages]
    axes.fill_between(ages, density, color=BLUE, alpha=0.35, linewidth=0, label="images are ready")


def lag_reads() -> Figure:
    """What a read buys."""
    rows, _ = result("lag-simulated")
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    patiences = sorted({*PATIENCES, *(target.patience for target in TARGETS)})
    ours = [(patience, rows[Case(USUAL, patience).title, OURS]) for patience in patiences]
    simple = {name: rows[Case(USUAL, PATIENCE).title, name] for name in SIMPLE}
    best = sorted((row["reads"], row["least lag, s"]) for row in (*(row for _, row in ours), *simple.values()))
    axes.plot(*zip(*best, strict=True), color=INK, linestyle=":", label="the least there can be, for one who knows the law")
    axes.plot(*points(row for _, row in ours), color=ORANGE, marker="o", label="ours, with a patience in seconds of")
    for patience, row in ours:
        axes.annotate(f"{patience:g}", (row["reads"], row["lag, s"]), (0, 8), textcoords="offset points", color=ORANGE)
    axes.plot(*points(simple.values()), color=BLUE, marker="s", linestyle="none", label="others")
    for name, row in simple.items():
        axes.annotate(LIKE[name], (row["reads"], row["lag, s"]), (8, 0), textcoords="offset points", va="center", color=BLUE)
    axes.set(yscale="log", xlabel=f"reads of an image ({USUAL.name})", ylabel="seconds from ready to received", xlim=(0, 20))
    lags = (0.2, 0.5, 1, 2, 5)
    axes.set_yticks(lags, [f"{lag:g}" for lag in lags])
    axes.set_xticks(range(0, 21, 5))
    axes.minorticks_off()
    axes.set_title(
        f"The real waiting machines on a virtual clock; a read takes {ROUND_TRIP * 1e3:g} ms", loc="left", fontsize="small"
    )
    axes.legend(loc=(0.32, 0.56))
    return figure


def points(rows: Iterable[dict[str, float]]) -> tuple[list[float], list[float]]:
    """Reads and lags."""
    kept = list(rows)
    return [row["reads"] for row in kept], [row["lag, s"] for row in kept]


def cost_in_flight() -> Figure:
    """What an image costs its process."""
    rows, where = result("scale")
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    sizes = [size for size in SIZES if size > 1]  # with one, most of it is what a process does once
    for (mode, kind), (label, colour, style) in LINES.items():
        costs = [rows[f"{mode}, {size:,}", kind]["CPU, µs"] / 1e3 for size in sizes]
        axes.plot(sizes, costs, color=colour, linestyle=style, marker="o", label=label)
    axes.set(xscale="log", xlabel="images in flight", ylabel="CPU for an image, ms", ylim=(0, None))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_title(f"The whole process of a client, images of 10 kB. {where}", loc="left", fontsize="small")
    axes.legend(loc="upper right")
    return figure


PLOTS: dict[str, Callable[[], Figure]] = {"schedule": schedule, "lag-reads": lag_reads, "cost-in-flight": cost_in_flight}


def write(name: str, folder: Path = IMAGES) -> Path:
    """Draw a plot, as an SVG that tells neither when nor with what it was made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    with styled():
        PLOTS[name]().savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    return path


if __name__ == "__main__":
    for plot in PLOTS:
        write(plot)
