"""Reads, lag and cost of each client toward a server that holds no reads, in real time.

Images take a while (lognormal, median 3 s, σ 0.35) and have 1.6 MB. Every client first makes 64 of them. The raw loop and
yandexcloud ask at once and then every second; the SDK asks at once and then every ten. Quotas are lifted for all: 100 images of
3 s in flight, asked about every second, are twice the reads that a folder may make. Ours is told how patient to be, so that it
spends no more reads than the raw loop. Left alone it would spend them, as nobody else needs them: that is the line `ours, default
patience`.

Lag is from ready, by the server's ledger, to in the caller's hands; both read the same clock.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks import crews
from benchmarks.measure import Contestant, Cost, Measured, Report, Server, obey, serving

RAW, CLOUD, STUDIO = "raw stubs, every 1 s", "yandexcloud", "yandex-ai-studio-sdk"
AIO, SYNC, DEFAULT = "ours, aio", "ours, sync", "ours, default patience"
PEERS, OURS = (RAW, CLOUD, STUDIO), (AIO, SYNC)
LAW, SIZE = "lognormal:3,0.35", 1_600_000
ALONE, FEW, MANY = "1 in flight", "100 in flight", "1,000 in flight"
WARM_UP = {"in_flight": 64, "images": 64}
SINGLES, ROUNDS = 64, 5
"""With 1 in flight, so many clients wait for one image each, side by side, so many times over."""
FEW_IMAGES = 400
"""With 100 in flight; a quarter of it for the SDK, which takes its time."""
PATIENCE, CALM = 0.045, 0.1
"""What ours is told, up to 100 in flight and beyond."""
HALF, FIFTEENTH = 0.5, 1 / 15


def contestant(name: str, target: str, history: str) -> None:
    """Fulfil orders."""
    batches: dict[str, Callable[[], crews.Batch]] = {
        RAW: lambda: crews.tasks(crews.raw, target),
        CLOUD: lambda: crews.threads(crews.cloud, target),
        STUDIO: lambda: crews.tasks(crews.studio, target),
        AIO: lambda: crews.ours_aio(target, history),
        SYNC: lambda: crews.ours_sync(target, history),
    }
    batch = batches[name]()

    def work(order: Measured) -> Measured:
        with Cost() as cost:
            seen = batch(order)
        return {"seen": seen, "cpu": cost.cpu / order["images"], "peak": cost.peak}

    obey(work)


def together(contestants: Mapping[str, Contestant], orders: Mapping[str, Measured]) -> dict[str, Measured]:
    """What each measured, all at the same time."""
    with ThreadPoolExecutor(len(orders)) as pool:
        jobs = {name: pool.submit(contestants[name].run, **order) for name, order in orders.items()}
        return {name: job.result() for name, job in jobs.items()}


def in_turn(contestants: Mapping[str, Contestant], orders: Mapping[str, Measured]) -> dict[str, Measured]:
    """What each measured, one after the other."""
    return {name: contestants[name].run(**order) for name, order in orders.items()}


def judged(samples: dict[str, Measured], server: Server) -> dict[str, Measured]:
    """Each sample, with reads and lag by the ledger."""
    ledger = {operation["id"]: operation for operation in server.report()["operations"]}
    for sample in samples.values():
        lags = sorted(had - ledger[key]["ready"] for key, had in sample["seen"].items())
        sample["reads"] = statistics.fmean(ledger[key]["reads"] for key in sample["seen"])
        sample["lag"], sample["late"] = statistics.fmean(lags), lags[len(lags) * 95 // 100]
    return samples


def tell(report: Report, case: str, samples: dict[str, Measured]) -> None:
    """The rows of one case."""
    for name, sample in samples.items():
        values = {
            "images": len(sample["seen"]),
            "reads": sample["reads"],
            "lag, s": sample["lag"],
            "p95, s": sample["late"],
            "CPU, ms": sample["cpu"] * 1e3,
            "peak, MB": sample["peak"] / 1e6,
        }
        target, met = verdict(case, sample, samples) if name in OURS else ("", None)
        report.row(case, name, values, ratio=sample["lag"] / samples[RAW]["lag"], target=target, met=met)


def verdict(case: str, mine: Measured, samples: dict[str, Measured]) -> tuple[str, bool]:
    """The target in words, and whether it is met."""
    raw, studio = samples[RAW], samples[STUDIO]
    if case == MANY:
        met = all(mine[key] < samples[peer][key] for peer in PEERS for key in ("lag", "cpu", "peak"))
        return "lag, CPU, memory below every peer", met
    met = mine["lag"] <= HALF * raw["lag"] and mine["reads"] <= raw["reads"] and mine["lag"] <= FIFTEENTH * studio["lag"]
    return "≤ 1/2 of raw, no more reads; ≤ 1/15 of the SDK", met


def main() -> None:
    """Run it, and write the table."""
    with (
        Report("lag-live", "Lag, live: lognormal, median 3 s, σ 0.35, images of 1.6 MB, no held reads") as report,
        tempfile.TemporaryDirectory() as folder,
        serving("--bytes", str(SIZE), "--duration", LAW) as server,
        ExitStack() as life,
    ):

        def enter(name: str, kind: str) -> Contestant:
            history = Path(folder) / f"{kind}.json"
            return life.enter_context(Contestant("benchmarks.lag_live", kind, server.target, str(history)))

        contestants = {name: enter(name, name) for name in (*PEERS, *OURS)}
        together(contestants, dict.fromkeys(contestants, WARM_UP))
        contestants[DEFAULT] = enter(DEFAULT, AIO)

        server.reset()
        alone = {"in_flight": SINGLES, "images": SINGLES * ROUNDS, "alone": True}
        orders = {name: alone | ({"patience": PATIENCE} if name in OURS else {}) for name in contestants}
        orders[STUDIO] = {"in_flight": SINGLES, "images": SINGLES * 2}
        tell(report, ALONE, judged(together(contestants, orders), server))
        contestants.pop(DEFAULT).close()

        server.reset()
        few = {"in_flight": 100, "images": FEW_IMAGES, "patience": PATIENCE}
        samples = together(contestants, {RAW: few, AIO: few, STUDIO: few | {"images": 100}})
        samples |= together(contestants, {CLOUD: few, SYNC: few})
        tell(report, FEW, judged({name: samples[name] for name in contestants}, server))

        server.reset()
        many = {"in_flight": 1000, "images": 1000, "patience": CALM}
        tell(report, MANY, judged(in_turn(contestants, dict.fromkeys(contestants, many)), server))


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
