"""What tracing adds to the CPU of an image: our client with the SDK of OpenTelemetry set up, against the same without it.

The images are those of `overhead`, ready at once, so that there is nothing else to pay for: one `Generate` and one `Get`.
Spans go through the SDK's batch processor, as in production, to an exporter that drops them: what sending costs depends on
where to.
"""

import sys
from collections.abc import Sequence

from benchmarks import overhead
from benchmarks.measure import Contestant, Report, median, ratio, serving, take_turns

OFF, ON = "tracing off", "tracing on"
TARGET = 1.05
"""At the size of a real image; at 10 kB the ratio is told, and a span is what it is."""
ROUNDS = 21


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


def contestant(kind: str, name: str, target: str) -> None:
    """Do batches, as in `overhead`."""
    if name == ON:
        trace()
    overhead.contestant(kind, overhead.OURS, target)


def main() -> None:
    """Run it all."""
    with Report("telemetry", "telemetry: CPU per image with tracing on") as report:
        for size, images in overhead.BATCHES.items():
            with serving("--bytes", str(size)) as server:
                for kind in ("sync", "aio"):
                    contestants = {name: Contestant("benchmarks.telemetry", kind, name, server.target) for name in (OFF, ON)}
                    samples = take_turns(contestants, ROUNDS, server.reset, images=images)
                    case = f"{kind}, {size / 1e6:g} MB" if size >= 1e6 else f"{kind}, {size / 1e3:g} kB"
                    report.row(case, OFF, {"CPU, µs": median(samples[OFF], "cpu") * 1e6})
                    times = ratio(samples[ON], samples[OFF], "cpu")
                    target = TARGET if size >= 1e6 else ""
                    report.row(case, ON, {"CPU, µs": median(samples[ON], "cpu") * 1e6}, ratio=times, target=target)


if __name__ == "__main__":
    contestant(*sys.argv[2:]) if sys.argv[1:2] == ["contestant"] else main()
