"""What all benchmarks share: a server and contestants in processes of their own, turn by turn, and one table at the end.

A contestant is a module started with an argument of its own; it does a batch of work each time it is told to, and answers with
what it measured:

    def contestant(arguments: list[str]) -> None:                   # in the process of the contestant
        obey(lambda order: {"cpu": ...})

    with serving("--bytes", "10000") as server:                     # in the benchmark
        contestants = {name: Contestant("benchmarks.overhead", name, server.target) for name in NAMES}
        samples = take_turns(contestants, rounds=5, images=100)     # {name: [what each batch measured]}
        with Report("overhead", "CPU per image") as report:
            report.row("sync", "ours", {"µs": 250}, ratio=1.1, target=1.15)

Ratios compare what was measured in the same round, and the median of the rounds counts: a machine that is slower for a while is
slower for all.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import grpc

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("grpcio", "protobuf", "yandexart-grpc", "yandexcloud", "yandex-ai-studio-sdk")

Measured = dict[str, Any]
"""What a contestant says about one batch: numbers under names, or whatever JSON can say."""


class Server:
    """A server in a process of its own, and its ledger (see `benchmarks.lean`)."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1)])

    def reset(self, **changes: Any) -> None:
        """Empty the ledger; `duration`, `hold` and `seed` may be changed."""
        self._ask("Reset", changes)

    def report(self) -> Measured:
        """The ledger since then."""
        return self._ask("Report", {})

    def close(self) -> None:
        """Ask no more."""
        self._channel.close()

    def _ask(self, method: str, what: Measured) -> Measured:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/benchmark.Ledger/{method}")
        answer: Measured = json.loads(call(json.dumps(what).encode(), timeout=60))
        return answer


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A lean server for as long as the block takes; `options` are those of `python -m benchmarks.lean`."""
    process = _start("benchmarks.lean", *options)
    try:
        assert process.stdout is not None
        server = Server(f"127.0.0.1:{int(process.stdout.readline())}")
        try:
            yield server
        finally:
            server.close()
    finally:
        _stop(process)


class Contestant:
    """A process that does batches of work. It starts at once; entering a `with` block waits until it has prepared itself."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = _start(module, "contestant", *arguments)

    def run(self, **order: Any) -> Measured:
        """Do one batch, and tell what was measured."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        _stop(self._process)

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Measured:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with code {self._process.wait()}")
        answer: Measured = json.loads(line)
        return answer


def obey(work: Callable[[Measured], Measured]) -> None:
    """In a contestant that has prepared itself: do a batch for each order, until there are no more."""
    say("{}")
    for line in sys.stdin:
        say(json.dumps(work(json.loads(line))))


def take_turns(
    contestants: Mapping[str, Contestant],
    rounds: int,
    before: Callable[[], object] = lambda: None,
    **order: Any,
) -> dict[str, list[Measured]]:
    """Give all contestants the same order, one after the other, round after round, and end them.

    Each second round goes backwards, so that nobody always follows the same one. `before` is called before each turn.
    """
    samples: dict[str, list[Measured]] = {name: [] for name in contestants}
    with ExitStack() as life:
        for contestant in contestants.values():
            life.enter_context(contestant)
        for number in range(rounds):
            for name in list(contestants)[:: -1 if number % 2 else 1]:
                before()
                samples[name].append(contestants[name].run(**order))
    return samples


class Cost:
    """What this process spent in a `with` block: `cpu` and `wall` in seconds. `peak` is its largest memory ever, in bytes."""

    def __enter__(self) -> Self:
        self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu = time.process_time() - self._began[0]
        self.wall = time.perf_counter() - self._began[1]
        self.peak = peak_memory()


def peak_memory() -> int:
    """The largest memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def median(samples: Sequence[Measured], key: str) -> float:
    """The median of what was measured."""
    return statistics.median(float(sample[key]) for sample in samples)


def ratio(samples: Sequence[Measured], baseline: Sequence[Measured], key: str) -> float:
    """How many times the baseline: the median of the ratios within each round."""
    return statistics.median(float(mine[key]) / float(other[key]) for mine, other in zip(samples, baseline, strict=True))


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    case: str
    contestant: str
    values: dict[str, float]
    ratio: float | None
    target: str
    met: bool | None
    """None where there is no target."""


class Report:
    """Collects rows; at the end of the `with` block, prints them and writes `results/<name>.json`."""

    def __init__(self, name: str, title: str) -> None:
        self._name, self._title = name, title
        self._rows: list[Row] = []

    def row(
        self,
        case: str,
        contestant: str,
        values: Mapping[str, float],
        *,
        ratio: float | None = None,
        target: float | str = "",
        met: bool | None = None,
    ) -> None:
        """Add a line. A numeric target is how large the ratio may be; with one in words, say whether it is met."""
        if not isinstance(target, str):
            met, target = ratio is not None and ratio <= target, f"ratio ≤ {target:g}"
        self._rows.append(Row(case, contestant, dict(values), ratio, target, met))

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            say(f"\n{self._title} ({time.monotonic() - self._began:.0f} s)\n\n{_table(self._rows)}")
            RESULTS.mkdir(exist_ok=True)
            content = {"benchmark": self._name, "machine": _machine(), "rows": [asdict(row) for row in self._rows]}
            (RESULTS / f"{self._name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [["case", "contestant", *columns, "ratio", "target", ""]]
    for row in rows:
        numbers = [_number(row.values.get(name)) for name in columns]
        verdict = {None: "", True: "met", False: "NOT MET"}[row.met]
        lines.append([row.case, row.contestant, *numbers, "" if row.ratio is None else f"{row.ratio:.2f}", row.target, verdict])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = range(2, 3 + len(columns))
    return "\n".join(
        "  ".join(
            f"{cell:{'>' if at in right else '<'}{width}}" for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _start(module: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _stop(process: "subprocess.Popen[str]") -> None:
    """End a process by closing its input."""
    with process:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
