"""Rows 12 and 14 of the catalogue: a quota on reads, and an answer that is larger than it looks."""

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat

import grpc
import pytest
from yandex.cloud.operation.operation_pb2 import Operation

from tests.conftest import collect
from tests.faults.conftest import Connect
from tests.faults.counting_server import picture
from tests.faults.process import ROOT
from tests.foreign import Foreign, pictured, refused
from yandexart_grpc import Image

RATE, QUOTA = 200, 120
"""Reads a second that the client makes, and that the server takes."""


class Quota:
    """Answers with a picture of the operation's id as long as no more than `QUOTA` reads come a second."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.refused: list[float] = []
        self._window: deque[float] = deque(maxlen=QUOTA // 4)
        self._lock = threading.Lock()

    def __call__(self, operation: Operation, context: grpc.ServicerContext) -> None:
        with self._lock:
            now = time.monotonic()
            self.times.append(now)
            full = len(self._window) == self._window.maxlen and now - self._window[0] < 0.25
            (self.refused if full else self._window).append(now)
        answer = refused(grpc.StatusCode.RESOURCE_EXHAUSTED) if full else pictured(picture(operation.id, 0))
        answer(operation, context)


@pytest.mark.parametrize("operations", [100, pytest.param(1000, marks=pytest.mark.faults)])
async def test_a_quota_on_reads_halves_the_rate_and_loses_nothing(
    connect: Connect, serve: Callable[..., Foreign], operations: int
) -> None:
    """When the server refuses reads the client halves its rate; each operation still gives its own picture, bought once."""
    quota = Quota()
    server = serve(reads=repeat(quota))
    art = connect(endpoint=server.listen(), reads_per_second=RATE, submits_per_minute=1e6, patience=0.01, timeout=120)
    prompts = [f"cat {number}" for number in range(operations)]
    images: list[Image] = await collect(art, "map", prompts, in_flight=operations)
    assert sorted(image.index or 0 for image in images) == list(range(operations))
    assert all(image.prompt == prompts[image.index or 0] for image in images)
    assert all(image.data == picture(image.operation_id, 0) for image in images)
    assert sorted(call.request.messages[0].text for call in server.executions) == sorted(prompts)
    slow = [at for at in quota.times if quota.refused[0] + 0.5 < at]
    span = slow[-1] - slow[0]
    assert len(slow) <= RATE / 2 * span * 1.2 + 50  # the burst, and what was due when it was refused


ASK = """
import asyncio, inspect, sys
import yandexart_grpc

def peak():
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) * 1024

async def main():
    operation = getattr(yandexart_grpc, sys.argv[1])(endpoint=sys.argv[2]).operation("fbv00000000000000000")
    before = peak()
    try:
        image = operation.result(timeout=60)
        await image if inspect.isawaitable(image) else image
    except yandexart_grpc.ConfigurationError as error:
        print(peak() - before, error)

asyncio.run(main())
"""
"""Asks for a picture that is too large, and tells how much memory that took and what was said."""


@pytest.fixture(scope="module")
def bomb() -> Iterator[str]:
    """The endpoint of a server that answers with 300 MiB."""
    with subprocess.Popen([sys.executable, "-m", "tests.faults.bomb", "300"], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
@pytest.mark.parametrize("kind", ["YandexArt", pytest.param("AsyncYandexArt", marks=pytest.mark.faults)])
def test_a_compressed_answer_is_refused_at_the_limit(bomb: str, kind: str) -> None:
    """300 MiB that come as 300 kB are refused by the receive limit, and never take more memory than twice that limit."""
    run = subprocess.run([sys.executable, "-c", ASK, kind, bomb], capture_output=True, text=True, timeout=120, check=True)
    memory, _, said = run.stdout.partition(" ")
    assert "max_message_bytes" in said
    assert int(memory) < 2 * 32 * 2**20
