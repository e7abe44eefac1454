"""What tracing adds to the CPU of an image: with the SDK of OpenTelemetry set up, against the same without it.

In the case `waited`, images take their time, as those of the service do, though a tenth of it: many are in flight, and each
is asked about by the plan. In all others they are those of `overhead`, ready at once, so that there is nothing else to pay
for: one `Generate` and one `Get`. In the case `both`, our server is in the same process and hands over a picture of a backend
that has it at once: a client and its server, with all spans of both. Spans go through the SDK's batch processor, as in
production, to an exporter that drops them: what sending costs depends on where to.

One process does both, batch by batch: between two processes, where the images happen to lie in memory alone makes 8 %.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from math import inf

from benchmarks.doors import Instant
from benchmarks.measure import Contestant, Cost, Measured, Report, median, obey, ratio, serving
from benchmarks.overhead import FOLDER, KEY, PROMPT, WARM_UP, ours_aio, ours_sync
from yandexart_grpc import YandexArt
from yandexart_grpc.server import embedded

OFF, ON = "tracing off", "tracing on"
SMALL, LARGE = 10_000, 1_600_000
LAW = "lognormal:1.2,0.35"
BATCHES = {
    ("waited", LARGE): 200,
    ("sync", SMALL): 50,
    ("aio", SMALL): 50,
    ("sync", LARGE): 20,
    ("aio", LARGE): 20,
    ("both", LARGE): 10,
}
"""How many images of each case make a batch."""
TARGET = 1.05
"""For an image as the service makes it: of that size, and waited for."""
ROUNDS = 30
"""Turns of a case. One turn tells the ratio to about 9 %, all of them to 2 %."""


def trace() -> None:
    """Set the SDK up."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.trace import set_tracer_provider

    class Drop(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Drop()))
    set_tracer_provider(provider)


def contestant(kind: str, target: str) -> None:
    """Do batches, with the API in the table of modules or not: by that we know whether it is wanted."""
    trace()
    api = sys.modules["opentelemetry.trace"]
    with ExitStack() as life, asyncio.Runner() as runner:
        if kind == "both":
            target = life.enter_context(embedded(Instant())).endpoint.removeprefix("http://")
        make, amake = ours_sync(target), runner.run(ours_aio(target))
        many = YandexArt(
            endpoint=f"http://{target}", folder_id=FOLDER, credentials=KEY, reads_per_second=inf, submits_per_minute=inf
        )
        life.enter_context(many)

        async def abatch(images: int) -> None:
            for _ in range(images):
                await amake()

        def batch(images: int) -> None:
            if kind == "aio":
                runner.run(abatch(images))
                return
            if kind == "waited":
                assert all(many.map([PROMPT] * images, in_flight=images))
                return
            for _ in range(images):
                make()

        def work(order: Measured) -> Measured:
            sys.modules.pop("opentelemetry.trace", None)
            if order["tracing"]:
                sys.modules["opentelemetry.trace"] = api
            with Cost() as cost:
                batch(order["images"])
            return {"cpu": cost.cpu / order["images"]}

        for tracing in (True, False):
            work({"tracing": tracing, "images": WARM_UP})
        obey(work)


def main() -> None:
    """Run it all."""
    with Report("telemetry", "telemetry: CPU per image with tracing on") as report:
        for (kind, size), images in BATCHES.items():
            samples: dict[str, list[Measured]] = {OFF: [], ON: []}
            takes = ("--duration", LAW) if kind == "waited" else ()
            with (
                serving("--bytes", str(size), *takes) as server,
                Contestant("benchmarks.telemetry", kind, server.target) as process,
            ):
                for number in range(ROUNDS):
                    for name in (OFF, ON)[:: -1 if number % 2 else 1]:
                        server.reset()
                        samples[name].append(process.run(images=images, tracing=name == ON))
            case = f"{kind}, {size / 1e6:g} MB" if size >= 1e6 else f"{kind}, {size / 1e3:g} kB"
            report.row(case, OFF, {"CPU, µs": median(samples[OFF], "cpu") * 1e6})
            times = ratio(samples[ON], samples[OFF], "cpu")
            target = TARGET if kind == "waited" else ""
            report.row(case, ON, {"CPU, µs": median(samples[ON], "cpu") * 1e6}, ratio=times, target=target)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
