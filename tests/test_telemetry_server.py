"""What a server counts, the page for Prometheus, and the log of operations as JSON."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from grpc import StatusCode

from tests.doors import AUTHORIZATION, Caller, Scripted, ask, error_of, opened, soon
from tests.processes import program
from tests.telemetry import Recorded, recording, said
from yandexart_grpc import ConfigurationError, ContentRefused, YandexArt
from yandexart_grpc.errors import row
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving
from yandexart_grpc.server.store import open_store

PROMPT = "a most confidential cat"


@pytest.fixture
def otel() -> Iterator[Recorded]:
    """What is recorded from now on."""
    with recording() as recorded:
        yield recorded


class TestMeters:
    """What goes to the SDK that the operator has set up."""

    async def test_operations_are_counted(self, otel: Recorded) -> None:
        """Outcomes and durations by class of error, reads and lag of what was handed over."""
        refusal = ContentRefused("no", code=row(ContentRefused).code, details="it may violate the terms of use")
        async with opened(Scripted()) as server, Caller(server.endpoint) as caller:
            made = await caller.submit()
            await caller.ended(made)
            await caller.get(made)
        async with opened(Scripted(refusal)) as server, Caller(server.endpoint) as caller:
            assert error_of(await caller.made())[0] is StatusCode.INVALID_ARGUMENT
        counted = otel.counted()
        outcomes = {point.attributes["yandexart.outcome"]: point.value for point in counted["yandexart.server.outcomes"]}
        assert outcomes == {"image": 1, "ContentRefused": 1}
        durations = {point.attributes.get("error.type"): point.count for point in counted["gen_ai.server.request.duration"]}
        assert durations == {None: 1, "ContentRefused": 1}
        assert sum(point.sum for point in counted["yandexart.server.reads"]) == 2
        assert sum(point.count for point in counted["yandexart.server.lag"]) == 2

    async def test_how_things_stand_is_told_when_it_is_asked(self, otel: Recorded) -> None:
        """What is worked on, what waits, and what a folder may still buy; nothing of a server that has ended."""
        backend = Scripted(charges=True)
        backend.let.clear()
        async with opened(backend, concurrency=1, quota="day=5") as server, Caller(server.endpoint) as caller:
            for _ in range(3):
                await caller.submit()
            await backend.begun.wait()
            await soon(lambda: self.gauges(otel)["yandexart.server.queue"] == [2], 5)
            gauges = self.gauges(otel)
            assert (gauges["yandexart.server.in_flight"], gauges["yandexart.server.queue"]) == ([1], [2])
            backend.let.set()
        assert self.gauges(otel)["yandexart.server.in_flight"] == [0]

    async def test_the_quota_is_looked_after(self, otel: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a look into the store every now and then, however often it is asked."""
        from yandexart_grpc.server import meters

        monkeypatch.setattr(meters, "LOOK", 0.01)
        async with opened(Scripted(charges=True), quota="day=5") as server, Caller(server.endpoint) as caller:
            await caller.made()
            await caller.made()

            def left() -> list[tuple[int, dict[str, Any]]]:
                points = otel.counted().get("yandexart.server.quota.left", [])
                return [(point.value, dict(point.attributes)) for point in points]

            known = [(3, {"yandexart.folder": "folder", "yandexart.quota": "day"})]
            await soon(lambda: left() == known, 5)
            assert left() == known

    @staticmethod
    def gauges(otel: Recorded) -> dict[str, list[int]]:
        """How things stand with the work."""
        counted = otel.counted()
        names = ("yandexart.server.queue", "yandexart.server.in_flight")
        return {name: [point.value for point in counted[name]] for name in names}


class TestPage:
    """`/metrics`."""

    async def test_prometheus_reads_it(self) -> None:
        """In the format of Prometheus, with what was counted and how things stand; no prompt, and nobody's name."""
        async with opened(Scripted(), metrics=True) as server, httpx2.AsyncClient(base_url=str(server.http)) as http:
            async with Caller(server.endpoint) as caller:
                await caller.made(ask(PROMPT))
            answer = await http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        figures = {
            name: float(value)
            for name, value in re.findall(r"^(yandexart\w+|gen_ai\w+)(?:\{.*?\})? (\S+)$", answer.text, re.MULTILINE)
            if not name.endswith("_bucket")
        }
        assert figures["yandexart_server_outcomes_total"] == 1
        assert figures["gen_ai_server_request_duration_seconds_count"] == 1
        assert figures["yandexart_server_lag_seconds_count"] == 1
        assert figures["yandexart_server_reads_sum"] == 1
        assert figures["yandexart_server_queue"] == figures["yandexart_server_in_flight"] == 0
        assert "confidential" not in answer.text

    async def test_nobody_who_did_not_ask_has_it(self) -> None:
        """Without --metrics, the path says how to get it."""
        async with opened(Scripted()) as server, httpx2.AsyncClient(base_url=str(server.http)) as http:
            answer = await http.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (404, StatusCode.NOT_FOUND.value[0])
        assert "--metrics" in answer.json()["message"]

    async def test_where_callers_show_keys_a_scraper_does(self, tmp_path: Path) -> None:
        """It tells of folders and of how much is bought, so whoever may not order may not read it."""
        (tmp_path / "keys").write_text("prometheus AQVN-anna none\n")
        settings: dict[str, Any] = {"metrics": True, "key_file": str(tmp_path / "keys")}
        async with opened(Scripted(), **settings) as server, httpx2.AsyncClient(base_url=str(server.http)) as http:
            assert (await http.get("/metrics")).status_code == 401
            answer = await http.get("/metrics", headers={"authorization": AUTHORIZATION})
        assert answer.status_code == 200
        assert "anna" not in answer.text
        assert "prometheus " not in answer.text

    async def test_it_needs_the_doors_over_http(self) -> None:
        """And says so before anything is served."""
        with pytest.raises(ConfigurationError, match="metrics: they are served over HTTP; give http"):
            async with serving(ServerSettings(metrics=True)):
                pass

    def test_it_needs_the_exporter(self) -> None:
        """Where that is not installed, the error says what to install."""
        script = """
import asyncio, sys
sys.modules["opentelemetry.exporter"] = None
from yandexart_grpc.server import ServerSettings
from yandexart_grpc.server.app import serving
async def main():
    async with serving(ServerSettings(listen="127.0.0.1:0", http="127.0.0.1:0", metrics=True)):
        pass
try:
    asyncio.run(main())
except ValueError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("metrics: needs more packages: pip install opentelemetry-exporter-prometheus (")


class TestLog:
    """`--log-format json`."""

    def test_each_state_is_a_line(self, tmp_path: Path) -> None:
        """Valid JSON, with what belongs to the state, and without the prompt."""
        options = ["--store", "sqlite://", "--demo-duration", "fixed:0", "--log-format", "json"]
        with (tmp_path / "log").open("w") as log, program(*options, stderr=log) as server:
            with YandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
                made = art.generate(PROMPT).operation_id
                with pytest.raises(ContentRefused) as caught:
                    art.generate(f"refuse this prompt: {PROMPT}")
            server.process.terminate()
            assert server.process.wait(30) == 0
        text = (tmp_path / "log").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        failed = caught.value.operation_id
        ends = [(made, "done"), (failed, "failed")]
        expected = [(name, state) for name, end in ends for state in ("accepted", "running", end)]
        assert [(line["operation_id"], line["state"]) for line in lines] == expected
        assert lines[-1]["code"] == "INVALID_ARGUMENT"
        assert {(line["model"], line["caller"], line["level"]) for line in lines} == {("art://b1g/yandex-art/latest", "", "INFO")}
        assert all(line["seconds"] >= 0 and line["time"].startswith("20") for line in lines)
        assert "confidential" not in text

    async def test_a_line_names_the_trace(self, otel: Recorded, caplog: pytest.LogCaptureFixture) -> None:
        """And a cancelled operation is one."""
        caplog.set_level("INFO", "yandexart_grpc.server.operations")
        backend = Scripted()
        backend.let.clear()
        async with opened(backend) as server, Caller(server.endpoint) as caller:
            made = await caller.submit()
            await backend.begun.wait()
            await caller.cancel(made)
        (accept,) = otel.named("accept")
        assert accept.context
        assert said(accept)["yandexart.operation.id"] == made
        fields = [vars(record)["fields"] for record in caplog.records if record.name == "yandexart_grpc.server.operations"]
        assert [line["state"] for line in fields] == ["accepted", "running", "cancelled"]
        assert {line["trace_id"] for line in fields} == {f"{accept.context.trace_id:032x}"}

    def test_what_goes_wrong_is_a_line_too(self) -> None:
        """With its traceback in it."""
        script = """
import logging
from yandexart_grpc.cli.logs import set_up
set_up("json", verbose=False)
try:
    raise ValueError("with\\na line")
except ValueError:
    logging.getLogger("yandexart_grpc.server").exception("it failed: %s", "so")
logging.getLogger("yandexart_grpc.server").info("not told")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        (line,) = map(json.loads, done.stderr.splitlines())
        assert (line["level"], line["logger"], line["message"]) == ("ERROR", "yandexart_grpc.server", "it failed: so")
        assert "ValueError: with\na line" in line["exception"]


async def test_an_older_store_learns_of_traces(store: str) -> None:
    """What the second version of the schema has is kept."""
    async with opened(Scripted(), store=store) as server, Caller(server.endpoint) as caller:
        made = await caller.submit()
        await caller.ended(made)
    async with open_store(store) as kept:
        for statement in ("ALTER TABLE operations DROP COLUMN trace", "UPDATE store SET version = 3"):
            await kept._do(lambda connection, statement=statement: connection.exec_driver_sql(statement))  # type: ignore[misc]
    async with opened(Scripted(), store=store) as server, Caller(server.endpoint) as caller:
        assert (await caller.get(made)).HasField("response")
        await asyncio.gather(caller.made(), caller.made())
