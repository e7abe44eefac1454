"""Many operations at once, held reads, one budget for all, and what a client survives: both clients, real servers."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conftest import Face, collect
from yandexart_grpc import (
    AsyncYandexArt,
    ConfigurationError,
    ContentRefused,
    Image,
    InvalidRequest,
    OperationTimeout,
    Unavailable,
    YandexArt,
    stubs,
)
from yandexart_grpc._plan import Law
from yandexart_grpc.server import Embedded, embedded
from yandexart_grpc.server.backends.demo import draw

Connect = Callable[..., Face]

PICTURE = draw("any", seed=1, width_ratio=1, height_ratio=1)


# ── map ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_map_makes_an_image_of_each_prompt(connect: Connect) -> None:
    """Every prompt is answered once, and each image says which one it answers."""
    prompts = [f"cat {number}" for number in range(20)]
    images = await collect(connect(), "map", prompts, in_flight=8, aspect_ratio="16:9")
    assert sorted(image.index for image in images) == list(range(20))
    assert all(image.prompt == prompts[image.index] for image in images)
    assert {image.width for image in images} == {1344}


async def test_map_yields_what_is_ready_first(connect: Connect) -> None:
    """Results come as they are ready: a refusal, which takes no time, overtakes the pictures before it."""
    with embedded(duration="fixed:0.2") as slow:
        results = await collect(connect(endpoint=slow.endpoint), "map", ["a", "b", "refuse this prompt"], return_exceptions=True)
    assert [type(result) for result in results] == [ContentRefused, Image, Image]
    assert results[0].index == 2


async def test_one_failure_does_not_sink_the_rest(connect: Connect) -> None:
    """With return_exceptions an error is yielded in place of its image, be it found here or by the server."""
    prompts = ["a cat", "", "refuse this prompt", "a dog"]
    results = await collect(connect(), "map", prompts, return_exceptions=True)
    kinds = {result.index: type(result) for result in results}
    assert kinds == {0: Image, 1: InvalidRequest, 2: ContentRefused, 3: Image}


async def test_a_failure_is_raised_after_all_that_was_ordered(connect: Connect) -> None:
    """Without return_exceptions the first failure ends the ordering; what is paid for is handed over before it is raised."""
    taken: list[str] = []

    def prompts() -> Iterator[str]:
        for prompt in ["a cat", "a dog", "", "never ordered", "nor this"]:
            taken.append(prompt)
            yield prompt

    images: list[Image] = []
    with pytest.raises(InvalidRequest, match="prompt: empty") as caught:
        await collect(connect(), "map", prompts(), in_flight=3, into=images)
    assert {image.prompt for image in images} == {"a cat", "a dog"}
    assert taken == ["a cat", "a dog", ""]
    assert caught.value.index == 2


async def test_map_keeps_so_many_in_flight_and_no_more(connect: Connect) -> None:
    """Prompts are taken as places become free."""
    running = peak = 0

    class Counting:
        charges = resumable = False

        async def generate(self, request: object, upstream: object) -> stubs.ImageGenerationResponse:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.2)
            running -= 1
            return stubs.ImageGenerationResponse(image=PICTURE)

        async def close(self) -> None:
            """Nothing is held open."""

    with embedded(Counting()) as counting:
        assert len(await collect(connect(endpoint=counting.endpoint), "map", ["a cat"] * 20, in_flight=4)) == 20
    assert peak == 4


async def test_map_says_what_is_wrong_with_its_own_arguments(connect: Connect) -> None:
    """A wrong setting of the whole is said once, not once for each prompt."""
    with pytest.raises(InvalidRequest, match="in_flight: 0 is not an integer from 1"):
        await collect(connect(), "map", ["a cat"], in_flight=0, return_exceptions=True)
    with pytest.raises(InvalidRequest, match="timeout: -1"):
        await collect(connect(), "map", ["a cat"], timeout=-1, return_exceptions=True)
    assert await collect(connect(), "map", []) == []


async def test_leaving_a_map_early_is_clean(connect: Connect) -> None:
    """Who stops after the first image leaves nothing behind that breaks later; the client goes on working."""
    face = connect()
    images: Any = getattr(face.behind, "map")(["a cat"] * 10, in_flight=5)  # noqa: B009  # of either kind
    if isinstance(face.behind, YandexArt):
        assert (await asyncio.to_thread(next, images)).width == 1024
        images.close()
    else:
        assert (await anext(images)).width == 1024
        await images.aclose()
    assert (await face.generate("a cat")).width == 1024


# ── operations that exist already ─────────────────────────────────────────────────────────────────────────────────────


async def test_as_completed_yields_operations_as_they_end(connect: Connect) -> None:
    """Each comes once it has ended; its result is there at once, be it an image or an error."""
    face = connect()
    operations = [(await face.submit(prompt)).behind for prompt in ("a cat", "refuse this prompt", "a dog")]
    attached = (await face.operation(operations[0].id)).behind
    ended = await collect(face, "as_completed", [*operations, attached])
    assert {operation.id for operation in ended} == {operation.id for operation in operations}
    assert len(ended) == 4
    for operation in ended:
        if operation is operations[1]:
            with pytest.raises(ContentRefused):
                await Face(operation).result()
        else:
            assert (await Face(operation).result()).width == 1024


async def test_wait_all_returns_when_all_have_ended(connect: Connect) -> None:
    """After it, no operation is asked about any more."""
    face = connect()
    operations = [(await face.submit("a cat")).behind for _ in range(3)]
    await face.wait_all(operations)
    assert [await Face(operation).done() for operation in operations] == [True] * 3
    await face.wait_all([])


async def test_waiting_for_many_ends_with_its_time(connect: Connect) -> None:
    """When the time is up for all, that is said, and the operations go on."""
    with embedded(duration="fixed:0.4") as slow:
        face = connect(endpoint=slow.endpoint)
        operations = [(await face.submit("a cat")).behind for _ in range(3)]
        with pytest.raises(OperationTimeout):
            await face.wait_all(operations, timeout=0.05)
        await face.wait_all(operations)
        assert (await Face(operations[0]).result()).width == 1024
        await face.close()


async def test_operations_of_another_client_are_refused(connect: Connect) -> None:
    """An operation is watched by the client that it belongs to."""
    stranger = (await connect().submit("a cat")).behind
    with pytest.raises(ConfigurationError, match="belongs to another client"):
        await connect().wait_all([stranger])


# ── held reads ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Reads:
    """Counts the reads that a server gets, in front of the real one."""

    def __init__(self, target: str) -> None:
        self.count = 0
        self.read = threading.Event()
        self._channel = grpc.insecure_channel(target)
        self._server = grpc.server(ThreadPoolExecutor(32))
        generation, operations = (
            stubs.ImageGenerationAsyncServiceStub(self._channel),
            stubs.OperationServiceStub(self._channel),
        )
        counter = self

        class Generation(stubs.ImageGenerationAsyncServiceServicer):
            def Generate(self, request: Any, context: Any) -> Any:
                answer, call = generation.Generate.with_call(request)
                context.send_initial_metadata(call.initial_metadata())
                return answer

        class Operations(stubs.OperationServiceServicer):
            def Get(self, request: Any, context: Any) -> Any:
                counter.count += 1
                counter.read.set()
                prefer = tuple(pair for pair in context.invocation_metadata() if pair[0] == "prefer")
                answer, call = operations.Get.with_call(request, metadata=prefer)
                context.send_initial_metadata(call.initial_metadata())
                return answer

            def Cancel(self, request: Any, context: Any) -> Any:
                return operations.Cancel(request)

        stubs.add_ImageGenerationAsyncServiceServicer_to_server(Generation(), self._server)
        stubs.add_OperationServiceServicer_to_server(Operations(), self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "Reads":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._channel.close()


async def test_a_held_read_is_the_only_one(connect: Connect) -> None:
    """Toward a server that holds, one read brings the image, for an operation of one's own and for one picked up by id."""
    with embedded(duration="fixed:0.3") as slow, Reads(slow.endpoint.removeprefix("http://")) as reads:
        art = connect(endpoint=reads.endpoint)
        operation = await art.submit("a cat")
        await operation.result()
        assert reads.count == 1
        other = connect(endpoint=reads.endpoint)
        attached = await other.operation((await art.submit("a cat")).id)
        await attached.result()
        assert reads.count == 2
        await art.close()
        await other.close()


def test_a_done_operation_is_not_held(server: Embedded) -> None:
    """A read that may be held is answered at once where there is nothing to wait for; the announcement is made."""
    with grpc.insecure_channel(server.endpoint.removeprefix("http://")) as channel:
        reads = stubs.OperationServiceStub(channel)
        with YandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
            operation = art.submit("a cat")
            operation.result()
        request = stubs.GetOperationRequest(operation_id=operation.id)
        answer, call = reads.Get.with_call(request, metadata=(("prefer", "wait=30"),), timeout=10)
        assert answer.done
        assert ("preference-applied", "wait") in [tuple(pair) for pair in call.initial_metadata()]
        _, plain = reads.Get.with_call(request, timeout=5)
        assert not [pair for pair in plain.initial_metadata() if pair[0] == "preference-applied"]


def test_a_held_read_ends_with_its_time(server: Embedded) -> None:
    """A read is held no longer than was preferred, and answers then that it is not done."""
    with embedded(duration="fixed:60") as slow, YandexArt(endpoint=slow.endpoint, folder_id="b1g") as art:
        operation = art.submit("a cat")
        with grpc.insecure_channel(slow.endpoint.removeprefix("http://")) as channel:
            start = time.monotonic()
            request = stubs.GetOperationRequest(operation_id=operation.id)
            answer = stubs.OperationServiceStub(channel).Get(request, metadata=(("prefer", "wait=1"),), timeout=20)
        assert not answer.done
        assert time.monotonic() - start > 0.9


def test_a_server_that_stops_releases_its_held_reads() -> None:
    """Held reads do not keep a server from stopping: they are answered at once."""
    with ExitStack() as life:
        with embedded(duration="fixed:60") as slow:
            operation_id = life.enter_context(YandexArt(endpoint=slow.endpoint, folder_id="b1g")).submit("a cat").id
            channel = life.enter_context(grpc.insecure_channel(slow.endpoint.removeprefix("http://")))
            request = stubs.GetOperationRequest(operation_id=operation_id)
            held = stubs.OperationServiceStub(channel).Get.future(request, metadata=(("prefer", "wait=30"),), timeout=10)
            time.sleep(0.05)
        assert not held.result().done


# ── one budget ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Slow(stubs.ImageGenerationAsyncServiceServicer, stubs.OperationServiceServicer):
    """A server that holds nothing and keeps the times of its reads."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.born: dict[str, float] = {}
        self.reads: list[float] = []
        self.lock = threading.Lock()

    def Generate(self, request: Any, context: Any) -> stubs.Operation:
        with self.lock:
            name = f"fbv{len(self.born):017}"
            self.born[name] = time.monotonic()
        return stubs.Operation(id=name)

    def Get(self, request: Any, context: Any) -> stubs.Operation:
        now = time.monotonic()
        with self.lock:
            self.reads.append(now)
        operation = stubs.Operation(id=request.operation_id)
        if now - self.born[request.operation_id] >= self.seconds:
            operation.done = True
            operation.response.Pack(stubs.ImageGenerationResponse(image=PICTURE))
        return operation

    def Cancel(self, request: Any, context: Any) -> stubs.Operation:
        return stubs.Operation(id=request.operation_id)


@pytest.fixture
def slow() -> Iterator[tuple[Slow, str]]:
    """A server that takes a second for a picture, and its address."""
    servicer, server = Slow(1.0), grpc.server(ThreadPoolExecutor(8))
    stubs.add_ImageGenerationAsyncServiceServicer_to_server(servicer, server)
    stubs.add_OperationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


async def test_all_waits_share_one_budget(connect: Connect, slow: tuple[Slow, str]) -> None:
    """A hundred operations in one thread are read within the budget of the client, and all are delivered."""
    servicer, endpoint = slow
    art = connect(endpoint=endpoint, reads_per_second=100, submits_per_minute=float("inf"))
    images = await collect(art, "map", ["a cat"] * 100, in_flight=100)
    assert len(images) == 100
    times = servicer.reads
    for first in range(0, len(times), 7):
        for last in range(first, len(times), 7):
            assert last - first <= 100 * (times[last] - times[first]) + 5 + 50  # and what a busy machine bunches up


def test_map_uses_one_thread(slow: tuple[Slow, str]) -> None:
    """The calling thread watches all operations: their number does not show in the number of threads."""
    _, endpoint = slow
    with YandexArt(endpoint=endpoint, folder_id="b1g", submits_per_minute=float("inf")) as art:
        images = art.map(["a cat"] * 200, in_flight=200)
        next(images)
        # Those of the pool are the server's.
        ours = [thread for thread in threading.enumerate() if not thread.name.startswith("ThreadPoolExecutor")]
        assert len(ours) <= 20
        assert len(list(images)) == 199


async def test_a_short_process_starts_warm(connect: Connect, slow: tuple[Slow, str], tmp_path: Path) -> None:
    """What one client has learned, the next one knows: it asks when an image may be ready, and not when guesses say so."""
    servicer, endpoint = slow
    path = tmp_path / "history.json"
    art = connect(endpoint=endpoint, history=path, submits_per_minute=float("inf"))
    await collect(art, "map", ["a cat"] * 20, in_flight=20)
    await art.close()
    assert path.exists()
    servicer.reads.clear()
    warm = connect(endpoint=endpoint, history=path, patience=0.05)
    image = await warm.generate("a cat")
    # A client that has learned nothing would not yet have asked by then.
    assert servicer.reads[0] - servicer.born[image.operation_id] < Law().next_age(0.0, 0.05)


# ── what a client survives ────────────────────────────────────────────────────────────────────────────────────────────


async def test_warm_up_connects_before_there_is_anything_to_send(connect: Connect) -> None:
    """A server that cannot be reached is found out early, and one that can is connected to."""
    art = connect()
    await art.warm_up()
    assert (await art.generate("a cat")).width == 1024
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        await connect(endpoint="http://127.0.0.1:1").warm_up(timeout=2)


async def test_a_restart_in_the_middle_of_a_wait_loses_nothing(connect: Connect) -> None:
    """The front of the server goes away during a held read and comes back on its port: the image still arrives, once."""
    with embedded(duration="fixed:0.8") as slow:
        front = Reads(slow.endpoint.removeprefix("http://"))
        address = front.endpoint.removeprefix("http://")
        with front:
            art = connect(endpoint=front.endpoint)
            operation = await art.submit("a cat")
            waiting = asyncio.create_task(operation.result(timeout=20))
            await asyncio.to_thread(front.read.wait, 10)
        again = Reads(slow.endpoint.removeprefix("http://"))
        again._server.add_insecure_port(address)
        with again:
            assert (await waiting).operation_id == operation.id
        assert again.count >= 1
        await art.close()


async def test_closing_a_client_cuts_its_waits_with_an_error(connect: Connect) -> None:
    """A wait in another thread or task ends with an error of ours when the client is closed, not as if it were cancelled."""
    with embedded(duration="fixed:60") as slow:
        art = connect(endpoint=slow.endpoint)
        operation = await art.submit("a cat")
        waiting = asyncio.create_task(operation.result())
        await asyncio.sleep(0.05)
        await art.close()
        with pytest.raises((Unavailable, ConfigurationError), match="clos"):
            await waiting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_told_and_can_make_a_client_of_its_own(server: Embedded) -> None:
    """A client that came through a fork says what to do instead of hanging; a new one in the child works."""
    script = f"""
import os
from yandexart_grpc import ConfigurationError, YandexArt
with YandexArt(endpoint={server.endpoint!r}, folder_id="b1g") as art:
    art.generate("a cat")
    child = os.fork()
    if not child:
        try:
            art.generate("a cat")
        except ConfigurationError as error:
            print(error, flush=True)
        with YandexArt(endpoint={server.endpoint!r}, folder_id="b1g") as own:
            print(own.generate("a cat").width, flush=True)
        os._exit(0)
    print("child ended with", os.waitpid(child, 0)[1], art.generate("a cat").width)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout == (
        "this client was made before the process was forked; make another in the child\n1024\nchild ended with 0 1024\n"
    )


def test_an_interruption_while_a_call_is_started_leaves_a_client_that_closes(server: Embedded) -> None:
    """Ctrl-C as gRPC starts the thread that watches its calls, after which it would wait for ever: the program ends."""
    script = f"""
import signal, sys
from yandexart_grpc import YandexArt
def strike(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "_run_channel_spin_thread":
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)
        print("struck", flush=True)
with YandexArt(endpoint={server.endpoint!r}, folder_id="b1g") as art:
    sys.setprofile(strike)
    print(*art.map(["a cat"]))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "struck\n"
    assert run.stderr.endswith("\nKeyboardInterrupt\n")


async def test_an_image_that_was_handed_over_is_not_kept(server: Embedded) -> None:
    """A handle holds no image once it has given it away: asked again, it asks the server again."""
    async with AsyncYandexArt(endpoint=server.endpoint, folder_id="b1g") as art:
        operation = await art.submit("a cat")
        image = await operation
        again = await operation.result()
        assert again.data == image.data
        assert again.data is not image.data
