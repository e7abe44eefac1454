"""What clients and servers tell OpenTelemetry, with the real SDK: spans, metrics, and the trace that they carry on."""

import ast
import asyncio
import importlib
import itertools
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx2
import pytest

from tests.conftest import Face, collect
from tests.doors import PICTURE, Caller, Scripted, ask, opened
from tests.foreign import Foreign, alone, refused
from tests.images_upstream import KEY, ImagesUpstream
from tests.postgres import Postgres
from tests.telemetry import Recorded, below, carries, recording, said, trace_of
from yandexart_grpc import AsyncYandexArt, ContentRefused, Unavailable, YandexArt, YandexArtError, batch
from yandexart_grpc.server import Embedded, ServerSettings
from yandexart_grpc.server.app import serving

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "yandexart_grpc"
PROMPT = "a most confidential cat"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = {"traceparent": TRACEPARENT}
TRACE, PARENT = int(TRACEPARENT.split("-")[1], 16), int(TRACEPARENT.split("-")[2], 16)
SPANS = ("_otel", "_spans", "_tale", "server/operations", "server/store")
METERS = ("_tale", "server/meters")


@pytest.fixture
def otel() -> Iterator[Recorded]:
    """What is recorded from now on."""
    with recording() as recorded:
        yield recorded


class TestClient:
    """Both clients."""

    async def test_an_image_is_one_span(self, connect: Callable[..., Face], server: Embedded, otel: Recorded) -> None:
        """With the names of the conventions, the operation, how it was waited for, and no word of the prompt."""
        image = await connect().generate(PROMPT, seed=7)
        (span,) = otel.named("generate_content")
        assert (span.name, span.kind.name, span.status.status_code.name) == (
            "generate_content yandex-art/latest",
            "CLIENT",
            "UNSET",
        )
        found = said(span)
        assert 0 <= found.pop("yandexart.lag") < 60
        assert found == {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "yandex",
            "gen_ai.request.model": "yandex-art/latest",
            "gen_ai.request.seed": 7,
            "rpc.method": "yandex.cloud.ai.foundation_models.v1.image_generation.ImageGenerationAsyncService/Generate",
            "rpc.system.name": "grpc",
            "server.address": "127.0.0.1",
            "server.port": int(server.endpoint.rpartition(":")[2]),
            "yandexart.operation.id": image.operation_id,
            "yandexart.reads": 1,
            "yandexart.waiting": "held",
        }
        assert [event.name for event in span.events] == ["submitted"]

    async def test_a_wait_is_part_of_the_trace_of_its_order(self, connect: Callable[..., Face], otel: Recorded) -> None:
        """Also when it is made once more, by another handle."""
        art = connect()
        operation = await art.submit(PROMPT)
        await operation.result()
        assert isinstance(art.behind, YandexArt | AsyncYandexArt)
        await Face(art.behind.operation(operation.id)).result()
        (ordered,), waits = otel.named("generate_content"), otel.named("wait")
        assert [below(wait, ordered) for wait in waits] == [True, True]
        assert said(waits[0])["yandexart.reads"] == 1
        assert "yandexart.reads" not in said(ordered)
        assert {said(span)["yandexart.operation.id"] for span in (ordered, *waits)} == {operation.id}

    async def test_many_are_told_one_by_one(self, connect: Callable[..., Face], otel: Recorded) -> None:
        """Each image of `map` is a span of its own."""
        images = await collect(connect(), "map", [PROMPT] * 5)
        told = {said(span)["yandexart.operation.id"] for span in otel.named("generate_content")}
        assert told == {image.operation_id for image in images}
        assert len(told) == 5

    def test_an_image_belongs_to_the_span_of_whoever_wants_it(self, server: Embedded, otel: Recorded) -> None:
        """It is below the current one, in blocking code and in `map`."""
        from opentelemetry import trace

        with YandexArt(endpoint=server.endpoint, folder_id="b1g") as art, trace.get_tracer("mine").start_as_current_span("mine"):
            art.generate(PROMPT)
            list(art.map([PROMPT]))
        (mine,) = otel.named("mine")
        assert [below(span, mine) for span in otel.named("generate_content")] == [True, True]

    def test_a_row_of_a_batch_is_one_span(self, server: Embedded, otel: Recorded, tmp_path: Path) -> None:
        """From its order to its image."""
        (tmp_path / "prompts.txt").write_text(f"{PROMPT}\nanother\n")
        rows = batch.read_rows(tmp_path / "prompts.txt", folder_id="b1g")
        with YandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
            assert batch.run(art, rows, tmp_path / "pictures").done == 2
        assert [said(span)["yandexart.reads"] for span in otel.named("generate_content")] == [1, 1]
        assert otel.named("wait") == []

    async def test_an_error_is_told_by_its_class(self, connect: Callable[..., Face], otel: Recorded) -> None:
        """That of an operation, and of an order that nobody heard; its words are not told."""
        with pytest.raises(ContentRefused):
            await connect().generate("refuse this prompt")
        with pytest.raises(Unavailable):
            await connect(endpoint="http://127.0.0.1:1").generate(PROMPT)
        spans = otel.named("generate_content")
        assert [said(span)["error.type"] for span in spans] == ["ContentRefused", "Unavailable"]
        assert [(span.status.status_code.name, span.status.description) for span in spans] == [("ERROR", None)] * 2
        assert said(spans[1])["rpc.response.status_code"] == "UNAVAILABLE"
        assert "terms of use" not in otel.text()

    async def test_planned_reads_are_counted(self, connect: Callable[..., Face], otel: Recorded) -> None:
        """Of a server that holds none, and that stamps nothing: no lag is known."""
        foreign = Foreign(reads=[alone, alone], image=PICTURE)
        try:
            await connect(endpoint=foreign.listen(), patience=0.02).generate(PROMPT)
        finally:
            foreign.close()
        (span,) = otel.named("generate_content")
        assert (said(span)["yandexart.reads"], said(span)["yandexart.waiting"]) == (3, "planned")
        assert "yandexart.lag" not in said(span)

    async def test_an_order_that_is_sent_again_says_so(self, connect: Callable[..., Face], otel: Recorded) -> None:
        """After a quota refused it; both carry the same trace."""
        come_again = refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "later", (("grpc-retry-pushback-ms", "1"),))
        foreign = Foreign(generate=[come_again], image=PICTURE)
        try:
            await connect(endpoint=foreign.listen(), patience=0.02).generate(PROMPT)
        finally:
            foreign.close()
        (span,) = otel.named("generate_content")
        assert [event.name for event in span.events] == ["resent", "submitted"]
        assert len(foreign.submits) == 2
        assert [carries(str(call.metadata["traceparent"]), span) for call in (*foreign.submits, *foreign.reads)] == [True] * 3

    async def test_a_wait_that_is_given_up_ends(self, otel: Recorded) -> None:
        """Its task is cancelled: the span is ended, and nothing stays in flight."""
        backend = Scripted()
        backend.let.clear()
        async with opened(backend) as server, AsyncYandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
            making = asyncio.create_task(art.generate(PROMPT))
            await backend.begun.wait()
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making
            (span,) = otel.named("generate_content")
            assert said(span)["error.type"] == "abandoned"
            backend.let.set()

    async def test_what_is_counted(self, connect: Callable[..., Face], otel: Recorded) -> None:
        """Durations, reads, lag and outcomes of images, by class of error; and nothing is in flight in the end."""
        art = connect()
        await art.generate(PROMPT)
        await (await art.submit(PROMPT)).result()
        with pytest.raises(ContentRefused):
            await art.generate("refuse this prompt")
        counted = otel.counted()
        outcomes = {point.attributes["yandexart.outcome"]: point.value for point in counted["yandexart.client.outcomes"]}
        assert outcomes == {"image": 2, "ContentRefused": 1}
        durations = {point.attributes.get("error.type"): point.count for point in counted["gen_ai.client.operation.duration"]}
        assert durations == {None: 2, "ContentRefused": 1}
        assert sum(point.count for point in counted["yandexart.client.reads"]) == 3
        assert sum(point.sum for point in counted["yandexart.client.reads"]) == 3
        assert sum(point.count for point in counted["yandexart.client.lag"]) == 2
        assert {point.value for point in counted["yandexart.client.in_flight"]} == {0}


class TestTrace:
    """From a client to wherever its picture comes from."""

    async def test_a_server_goes_on_with_the_trace(self, otel: Recorded) -> None:
        """Accept is below the span of the client, work and what is stored with the order below that, the rest below work."""
        async with opened(Scripted()) as server, AsyncYandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
            image = await art.generate(PROMPT)
        (ordered,), (accept,), (work,) = (otel.named(name) for name in ("generate_content", "accept", "work"))
        stored = sorted(otel.named("store"), key=lambda span: span.start_time or 0)
        assert below(accept, ordered)
        assert below(work, accept)
        assert [below(stored[0], accept), *(below(span, work) for span in stored[1:])] == [True] * 3
        assert [said(span)["db.operation.name"] for span in stored] == ["INSERT", "UPDATE", "UPDATE"]
        assert {said(span)["db.system.name"] for span in stored} == {"sqlite"}
        assert {said(span)["yandexart.operation.id"] for span in (accept, work, *stored)} == {image.operation_id}
        assert (accept.kind.name, said(accept)["gen_ai.request.model"]) == ("SERVER", "yandex-art/latest")

    @pytest.mark.parametrize("door", ["grpc", "rest", "openai"])
    async def test_every_door_hears_of_a_trace(self, door: str, otel: Recorded) -> None:
        """In metadata of gRPC, and in headers of HTTP."""
        async with opened(Scripted()) as server, httpx2.AsyncClient(base_url=str(server.http), headers=HEADERS) as http:
            if door == "grpc":
                async with Caller(server.endpoint) as caller:
                    call = caller._generation.Generate(ask(PROMPT), metadata=tuple(HEADERS.items()))
                    await caller.ended((await call).id)
            elif door == "rest":
                order = {"modelUri": "art://b1g/yandex-art/latest", "messages": [{"text": PROMPT}]}
                made = (await http.post("/foundationModels/v1/imageGenerationAsync", json=order)).json()
                await http.get(f"/operations/{made['id']}", headers={"prefer": "wait=20"})
            else:
                order = {"prompt": PROMPT, "model": "yandex-art/latest"}
                answer = await http.post("/v1/images/generations", json=order, headers={"openai-project": "b1g"}, timeout=20)
                assert answer.status_code == 200
        (accept,), (work,) = otel.named("accept"), otel.named("work")
        assert accept.parent
        assert (trace_of(accept), accept.parent.span_id) == (TRACE, PARENT)
        assert below(work, accept)

    async def test_an_order_without_a_trace_begins_one(self, otel: Recorded) -> None:
        """And a refused one is an error of accepting."""
        backend = Scripted()
        backend.let.clear()
        async with opened(backend, queue=1, concurrency=1) as server, Caller(server.endpoint) as caller:
            await caller.submit()
            await backend.begun.wait()
            await caller.submit()
            with pytest.raises(grpc.RpcError):
                await caller.submit()
        accepted = otel.named("accept")
        assert [(span.parent, said(span).get("error.type")) for span in accepted] == [
            (None, None),
            (None, None),
            (None, "QuotaExceeded"),
        ]

    async def test_an_error_of_the_backend_is_one_of_the_work(self, otel: Recorded) -> None:
        """By its class, as the caller sees it."""
        from yandexart_grpc.errors import OutcomeUnknown

        async with opened(Scripted(OutcomeUnknown(PROMPT))) as server, Caller(server.endpoint) as caller:
            await caller.made()
        (work,) = otel.named("work")
        assert said(work)["error.type"] == "OutcomeUnknown"
        assert PROMPT not in otel.text()

    async def test_one_trace_through_a_cloud_backend(self, otel: Recorded) -> None:
        """From a client over a server to the server at which that orders: each is below the one before."""
        async with (
            opened(Scripted()) as upstream,
            serving(ServerSettings(listen="127.0.0.1:0", backend="cloud", upstream=upstream.endpoint)) as server,
            AsyncYandexArt(endpoint=server.endpoint, folder_id="b1g") as art,
        ):
            await art.generate(PROMPT)
        accepts = sorted(otel.named("accept"), key=lambda span: span.start_time or 0)
        works = sorted(otel.named("work"), key=lambda span: span.start_time or 0)
        mine, ordered = sorted(otel.named("generate_content"), key=lambda span: span.start_time or 0)
        chain = [mine, accepts[0], works[0], ordered, accepts[1], works[1]]
        assert [below(span, parent) for parent, span in itertools.pairwise(chain)] == [True] * 5
        (wait,) = otel.named("wait")
        assert below(wait, ordered)
        assert {trace_of(span) for span in otel.spans} == {trace_of(mine)}

    async def test_the_images_api_hears_of_it(self, otel: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its orders carry the span of the work."""
        monkeypatch.setenv("YC_API_KEY", KEY)
        with ImagesUpstream() as upstream:
            settings = ServerSettings(
                listen="127.0.0.1:0", backend="images", upstream=f"http://{upstream.address}", upstream_credentials="server"
            )
            async with serving(settings) as server, Caller(server.endpoint) as caller:
                assert (await caller.made()).HasField("response")
            (asked,) = upstream.asked
        (work,) = otel.named("work")
        assert carries(asked["traceparent"], work)

    async def test_work_on_another_machine_is_part_of_the_trace(self, postgres: Postgres, otel: Recorded) -> None:
        """One server takes orders and another works on them: what links them stands in the store."""
        backend, url = Scripted(), postgres.database()
        async with (
            opened(Scripted(), store=url, role="serve") as server,
            opened(backend, store=url, role="work"),
            AsyncYandexArt(endpoint=server.endpoint, folder_id="b1g") as art,
        ):
            await art.generate(PROMPT)
        (ordered,), (accept,), (work,) = (otel.named(name) for name in ("generate_content", "accept", "work"))
        assert backend.asked
        assert below(accept, ordered)
        assert below(work, accept)
        assert {said(span)["db.system.name"] for span in otel.named("store")} == {"postgresql"}

    async def test_work_after_a_restart_is_part_of_the_trace(self, file: str, otel: Recorded) -> None:
        """The store remembers it."""
        backend = Scripted()
        backend.let.clear()
        async with opened(backend, store=file) as server, Caller(server.endpoint) as caller:
            made = await caller.submit()
            await backend.begun.wait()
        async with opened(Scripted(), store=file) as server, Caller(server.endpoint) as caller:
            await caller.ended(made)
        (accept,), works = otel.named("accept"), otel.named("work")
        assert [below(work, accept) for work in works] == [True, True]


class TestSecrets:
    """What is never told."""

    async def test_no_prompt_and_no_key_is_exported(self, otel: Recorded, tmp_path: Path) -> None:
        """Of clients, servers and failures, in spans and metrics: neither the prompt nor the key nor who called."""
        (tmp_path / "keys").write_text("confidant AQVN-confidential b1g\n")
        settings = ServerSettings(listen="127.0.0.1:0", key_file=str(tmp_path / "keys"), duration="fixed:0")
        async with (
            serving(settings) as server,
            AsyncYandexArt(endpoint=server.endpoint, folder_id="b1g", credentials="AQVN-confidential") as art,
        ):
            await art.generate([PROMPT, ("confidential hats", -1)])
            for failing in (f"refuse this prompt: {PROMPT}", "confidential" * 50):
                with pytest.raises(YandexArtError):
                    await art.generate(failing)
        text = otel.text()
        assert "ContentRefused" in text
        assert "yandexart.operation.id" in text
        assert not re.search("confid|AQVN|b1g", text)

    def test_prompts_are_told_where_somebody_asks(self) -> None:
        """By the variable that all instrumentations for GenAI have."""
        script = f"""
import json
from tests.telemetry import recording
from yandexart_grpc import YandexArt
with recording() as otel, YandexArt(endpoint="demo://") as art:
    art.generate([{PROMPT!r}, ("rain", -1)])
    (span,) = otel.named("generate_content")
print(json.loads(span.attributes["gen_ai.input.messages"]))
"""
        for value in ("true", "SPAN_ONLY"):
            done = python(script, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=value)
            parts = [{"type": "text", "content": PROMPT, "weight": 1.0}, {"type": "text", "content": "rain", "weight": -1.0}]
            assert ast.literal_eval(done.stdout) == [{"role": "user", "parts": parts}], done.stderr


class TestAbsence:
    """Without OpenTelemetry."""

    def test_nothing_needs_it(self) -> None:
        """Client, server and doors work where it cannot be imported."""
        script = f"""
import sys
sys.modules["opentelemetry"] = None
from yandexart_grpc import YandexArt
from yandexart_grpc.server import embedded
with embedded(duration="fixed:0", http=True) as server, YandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
    assert art.generate({PROMPT!r}).width == 1024
    assert art.submit({PROMPT!r}).result().width == 1024
    assert len(list(art.map([{PROMPT!r}]))) == 1
"""
        assert python(script).returncode == 0

    def test_it_is_not_loaded_by_us(self) -> None:
        """Where it is installed and nobody has loaded it, making an image does not."""
        script = f"""
import sys
from yandexart_grpc import YandexArt
with YandexArt(endpoint="demo://") as art:
    art.generate({PROMPT!r})
print([name for name in sys.modules if name.startswith(("opentelemetry", "yandexart_grpc._tale", "yandexart_grpc._spans"))])
"""
        assert python(script).stdout == "[]\n"

    def test_one_that_is_too_old_is_told_nothing(self) -> None:
        """A program that has an old one for something else gets its image, and a word in its log."""
        script = f"""
import opentelemetry.trace, opentelemetry.version
opentelemetry.version.__version__ = "1.29.9"
import logging, sys
logging.basicConfig()
from yandexart_grpc import YandexArt
with YandexArt(endpoint="demo://") as art:
    art.generate({PROMPT!r})
assert "yandexart_grpc._tale" not in sys.modules
"""
        done = python(script)
        assert (done.returncode, done.stderr.count("OpenTelemetry 1.29.9 is told nothing: that takes 1.30 or newer")) == (0, 1)


class TestNames:
    """What things are called."""

    def test_names_are_those_of_the_conventions(self) -> None:
        """Every attribute and metric that is not our own is one that the semantic conventions know, and not by an old name."""
        known = set(conventional("attributes")) | set(conventional("metrics"))
        foreign = {name for name in names(SPANS) | names(METERS) if not name.startswith("yandexart.")}
        assert foreign <= known
        assert "rpc.method" in foreign

    def test_the_page_has_every_name(self) -> None:
        """The tables of docs/telemetry.md are what the code tells, and nothing else."""
        page = (ROOT / "docs" / "telemetry.md").read_text()
        told = set(re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \|", page, re.MULTILINE))
        assert told == names(SPANS) | names(METERS)


HEADERS = {"traceparent": TRACEPARENT}


def CLOUD(upstream: str) -> ServerSettings:
    """A server that orders there."""
    return ServerSettings(listen="127.0.0.1:0", backend="cloud", upstream=upstream)


def names(modules: tuple[str, ...]) -> set[str]:
    """Every name of an attribute or a metric that stands in these modules."""
    found = set()
    for module in modules:
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.Constant) and re.fullmatch(
                r"(gen_ai|rpc|db|server|error|yandexart)(\.[a-z_]+)+", str(node.value)
            ):
                found.add(str(node.value))
    return found


def conventional(kind: str) -> Iterator[str]:
    """Every name in the packages of the conventions, stable and not."""
    for package in (f"opentelemetry.semconv.{kind}", f"opentelemetry.semconv._incubating.{kind}"):
        folder = importlib.import_module(package)
        for module in pkgutil.iter_modules(folder.__path__, f"{package}."):
            for node in ast.parse(Path(str(importlib.util.find_spec(module.name).origin)).read_text()).body:  # type: ignore[union-attr]
                if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
                    yield str(node.value.value)


def python(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
