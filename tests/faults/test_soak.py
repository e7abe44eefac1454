"""Row 31 of the catalogue: hours of work, with faults all the time, leave nothing behind."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults.counting_server import executions
from tests.faults.process import ROOT, ServerProcess
from tests.faults.proxy import Proxy

SECONDS = float(os.environ.get("YANDEXART_SOAK_SECONDS", "60"))
"""How long; read before the tests forget the environment."""

LONG, FLAT, SETTLING = 600, 0.01, 0.25
"""By how much memory may grow: before the allocators have found their size, one step of theirs is more than a leak."""


class Trouble(threading.Thread):
    """Resets all connections of a proxy, or stalls them for a moment, at random instants, until `over` is set."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(name="trouble")
        self._proxy = proxy
        self._random = Random(1)
        self.over = threading.Event()
        self.made = 0

    def run(self) -> None:
        while not self.over.wait(self._random.uniform(0, 0.6)):
            self.made += 1
            if self._random.random() < 0.7:
                self._proxy.reset()
            else:
                self._proxy.set(stalled=True)
                self.over.wait(0.1)
                self._proxy.set()


def growth(samples: list[tuple[float, int]]) -> float:
    """By which part of itself the lowest memory of the last quarter is above that of the third: faults make peaks."""
    quarter = len(samples) // 4
    third, last = (min(size for _, size in part) for part in (samples[2 * quarter : 3 * quarter], samples[3 * quarter :]))
    return last / third - 1


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_nothing_is_left_behind(start: Callable[..., ServerProcess], proxied: Callable[[str], Proxy], tmp_path: Path) -> None:
    """Mixed work of both clients through resets and stalls: memory stays, all ends, and no prompt is executed twice."""
    server = start("--store", f"sqlite:///{tmp_path / 'store.sqlite'}", "--duration", "0.01")
    proxy = proxied(server.endpoint)
    trouble = Trouble(proxy)
    trouble.start()
    try:
        run = subprocess.run(
            [sys.executable, "-m", "tests.faults.soak", proxy.endpoint, str(SECONDS)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            timeout=SECONDS + 120,
            check=True,
        )
    finally:
        trouble.over.set()
        trouble.join()
    told = json.loads(run.stdout)
    grown = growth(told.pop("memory"))
    print(f"{SECONDS:g} s with {trouble.made} faults: {told}; memory grew by {grown:.2%}")  # noqa: T201  # `make soak` shows it
    assert told["outcomes"]["done"] > 5 * SECONDS
    assert max(executions(server.ledger).values()) == 1
    assert all(told["after"][name] <= told["before"][name] for name in ("threads", "handles", "tasks"))
    assert grown < (FLAT if SECONDS >= LONG else SETTLING)
