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

from tests.faults.process import ROOT
from tests.test_fuzz import EXPECTED, METHODS, REQUESTS, Call, address_of, check_serving, garbage, methods_of, send, shout

pytestmark = pytest.mark.faults


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server in a process of its own, whose pictures are small, and its address; what it logs is in `log`."""
    command = [sys.executable, "-m", "tests.faults.counting_server", "--listen", "127.0.0.1:0", "--no-charges"]
    command += ["--ledger", str(folder / "ledger"), "--store", f"sqlite:///{folder}/db"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log) as running,
    ):
        assert running.stdout
        try:
            yield running, running.stdout.readline().decode().split()[-1]
        finally:
            running.terminate()


def drawn(chance: random.Random) -> Call:
    """Bytes to a method: any, or a right request broken in places. Hypothesis, which remembers all it drew, would need hours."""
    request = chance.choice(REQUESTS)
    data = bytearray(request.SerializeToString())
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(data) + 1)
        data[place : place + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
    if chance.random() < 0.3:
        data = bytearray(chance.randbytes(chance.randrange(300)))
    method = chance.choice([*methods_of(request)] if chance.random() < 0.7 else METHODS)
    names = chance.choices(["prefer", "idempotency-key", "authorization", "x", "x-bin"], k=chance.randrange(4))
    metadata: list[tuple[str, str | bytes]] = [
        (name, chance.randbytes(50) if name == "x-bin" else "".join(map(chr, chance.choices(range(0x20, 0x7F), k=30))))
        for name in names
    ]
    return method, bytes(data), metadata


def memory_of(pid: int) -> int:
    """The bytes that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_a_hundred_thousand_requests(tmp_path: Path) -> None:
    """The process is the same, no larger than after the first ten thousand, has logged nothing that went wrong, and serves."""
    chance, codes, sizes = random.Random(2), Counter[StatusCode](), list[int]()
    with process(tmp_path) as (running, endpoint):
        async with grpc.aio.insecure_channel(address_of(endpoint)) as channel:
            for sent in range(50, 100_001, 50):
                codes.update(await asyncio.gather(*(send(channel, drawn(chance)) for _ in range(50))))
                if sent % 1000 == 0:
                    for said in garbage(chance):
                        await asyncio.to_thread(shout, endpoint, said)
                if sent % 10_000 == 0:
                    sizes.append(memory_of(running.pid))
        await asyncio.to_thread(check_serving, endpoint)
        assert running.poll() is None
    log = (tmp_path / "log").read_text(errors="replace")
    print(codes, [size // 2**20 for size in sizes])  # noqa: T201  # to be read with -rP
    assert set(codes) <= EXPECTED
    assert "ERROR" not in log
    assert "Traceback" not in log
    assert sizes[-1] < sizes[0] + 10 * 2**20
