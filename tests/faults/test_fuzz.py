"""The gRPC door under a hundred thousand requests that no client sends; `tests/test_fuzz.py` is the short form."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_fuzz import EXPECTED, Call, address_of, calls, check_serving, garbage, send, shout

pytestmark = pytest.mark.faults


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`yandexart serve` in a process of its own, which forgets soon, and its address; its log is in `log`."""
    command = [str(Path(sys.executable).with_name("yandexart")), "serve", "--listen", "127.0.0.1:0", "--demo-duration", "fixed:5"]
    command += ["--store", f"sqlite:///{folder}/db", "--keep", "2", "--concurrency", "1", "--queue", "50", "--verbose"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as running,
    ):
        assert running.stdout
        try:
            yield running, running.stdout.readline().decode().split()[-1]
        finally:
            running.terminate()


def memory_of(pid: int) -> int:
    """The bytes that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_hundred_thousand_requests(tmp_path: Path) -> None:
    """The process is the same, no larger than after the first ten thousand, has logged nothing that went wrong, and serves."""
    total, sent, codes = 100_000, 0, Counter[StatusCode]()
    sizes: list[int] = []
    chance = random.Random(2)
    with process(tmp_path) as (running, endpoint):

        @settings(max_examples=total, suppress_health_check=list(HealthCheck), database=None)
        @given(batch=st.lists(calls(), min_size=20, max_size=20))
        def go_on(batch: list[Call]) -> None:
            nonlocal sent
            if sent < total:
                codes.update(loop.run_until_complete(asyncio.wait_for(all_of(batch), 60)))
                sent += len(batch)
                if sent % 1000 == 0:
                    for said in garbage(chance):
                        shout(endpoint, said)
                if sent % 10_000 == 0:
                    sizes.append(memory_of(running.pid))

        async def all_of(batch: list[Call]) -> list[StatusCode]:
            return await asyncio.gather(*(send(channel, call) for call in batch))

        async def connect() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(address_of(endpoint))

        loop = asyncio.new_event_loop()
        channel = loop.run_until_complete(connect())
        try:
            while sent < total:
                go_on()
        finally:
            loop.run_until_complete(channel.close())
            loop.close()
        check_serving(endpoint)
        assert running.poll() is None
    log = (tmp_path / "log").read_text(errors="replace")
    print(codes, [size // 2**20 for size in sizes])  # noqa: T201  # to be read with -rP
    assert set(codes) <= EXPECTED
    assert "ERROR" not in log
    assert "Traceback" not in log
    assert sizes[-1] < sizes[0] + 20 * 2**20
