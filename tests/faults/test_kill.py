"""Row 21 of the catalogue: SIGKILL of the server, or of the client, at any instant. Nothing is lost, and nothing bought twice."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.conftest import Face
from tests.faults.conftest import Connect
from tests.faults.counting_server import digest, executions, picture
from tests.faults.process import ROOT, ServerProcess
from tests.foreign import Foreign
from yandexart_grpc import OutcomeUnknown, Unavailable

PATIENCE = 240.0
"""Seconds within which everything has to come to its end."""


# ── the server is killed ──────────────────────────────────────────────────────────────────────────────────────────────


class Killer(threading.Thread):
    """Kills a server at random instants, so many times, and starts it again each time."""

    def __init__(self, server: ServerProcess, kills: int) -> None:
        super().__init__(name="killer")
        self._server = server
        self._kills = kills
        self._random = Random(kills)

    def run(self) -> None:
        for _ in range(self._kills):
            time.sleep(self._random.uniform(0, 0.4))
            self._server.kill()
            self._server.start()


class Customer:
    """Orders one picture after another, each under a key of its own, and keeps how each order ended."""

    def __init__(self, art: Face) -> None:
        self._art = art
        self.ids: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.wrong: list[str] = []

    async def order(self, prompt: str, seed: int) -> None:
        operation = await self._submit(prompt, seed)
        self.ids[prompt] = operation.id
        try:
            image = await operation.result(timeout=PATIENCE)
        except OutcomeUnknown:
            self.unknown.add(prompt)
        else:
            if image.data != picture(prompt, seed):
                self.wrong.append(prompt)

    async def _submit(self, prompt: str, seed: int) -> Any:
        """Ask again, under the same key, as long as the server cannot be reached."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self._art.submit(prompt, seed=seed, idempotency_key=prompt.replace(" ", "-"))
                except (Unavailable, OutcomeUnknown):
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("charges", "kills"),
    [
        pytest.param(True, 2, id="charges-2"),
        pytest.param(True, 50, id="charges-50", marks=pytest.mark.faults),
        pytest.param(False, 20, id="free-20", marks=pytest.mark.faults),
    ],
)
async def test_a_server_may_be_killed_at_any_instant(
    connect: Connect, start: Callable[..., ServerProcess], tmp_path: Path, kills: int, charges: bool
) -> None:
    """Ten orders a kill: each is finished or explicitly unknown, and where a picture costs money none is made twice."""
    store = f"sqlite:///{tmp_path / 'store.sqlite'}"
    server = start("--store", store, "--charges" if charges else "--no-charges", "--duration", "0.03", "--unknown", "fail")
    customer = Customer(connect(endpoint=server.endpoint, submits_per_minute=1e6, timeout=PATIENCE))
    killer, numbers = Killer(server, kills), count(1)

    async def shop() -> None:
        while (number := next(numbers)) <= 10 * kills or killer.is_alive():
            await customer.order(f"cat {number}", number)

    killer.start()
    await asyncio.gather(*(shop() for _ in range(4)))
    killer.join()
    times = executions(server.ledger)
    assert not customer.wrong
    assert len(customer.ids) >= 10 * kills
    assert len(set(customer.ids.values())) == len(customer.ids)
    for prompt, operation_id in customer.ids.items():
        assert await (await customer._art.operation(operation_id)).done(), prompt
    assert customer.ids.keys() - times.keys() <= customer.unknown
    if charges:
        assert max(times.values()) == 1
    else:
        assert not customer.unknown
    assert not times.keys() - customer.ids.keys()


# ── the client is killed ──────────────────────────────────────────────────────────────────────────────────────────────


class Shop:
    """Where pictures are bought: our server, or one that is not ours and knows no keys."""

    def __init__(self, endpoint: str, bought: Callable[[], Counter[str]], *, honours_keys: bool) -> None:
        self.endpoint = endpoint
        self.bought = bought
        self.honours_keys = honours_keys


@pytest.fixture(params=["ours", pytest.param("foreign", marks=pytest.mark.faults)])
def shop(
    request: pytest.FixtureRequest, start: Callable[..., ServerProcess], serve: Callable[..., Foreign], tmp_path: Path
) -> Iterator[Shop]:
    """A shop, which is open all the time."""
    if request.param == "ours":
        server = start("--store", f"sqlite:///{tmp_path / 'store.sqlite'}", "--duration", "0.05")
        yield Shop(server.endpoint, lambda: executions(server.ledger), honours_keys=True)
    else:
        foreign = serve(image=lambda wanted: picture(wanted.messages[0].text, wanted.generation_options.seed))
        yield Shop(
            foreign.listen(), lambda: Counter(call.request.messages[0].text for call in foreign.executions), honours_keys=False
        )


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.faults)])
def test_a_batch_may_be_killed_at_any_instant(shop: Shop, tmp_path: Path, kills: int) -> None:
    """A batch that is killed again and again, and then run to its end, has bought each row once, and each file is whole."""
    rows, out = [f"cat {number}" for number in range(max(30, 6 * kills))], tmp_path / "out"
    (tmp_path / "rows.txt").write_text("\n".join(rows))
    command = [sys.executable, "-m", "yandexart_grpc.cli", "batch", str(tmp_path / "rows.txt"), "-o", str(out)]
    command += ["--in-flight", "4", "--no-metadata", "--endpoint", shop.endpoint]
    environment, random = os.environ | {"YC_FOLDER_ID": "folder"}, Random(kills)
    for _ in range(kills):
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            time.sleep(random.uniform(0.1, 1))
            process.kill()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=False)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    last = {line["key"]: line for line in lines}
    done = [line for line in last.values() if line["state"] == "done"]
    unknown = [line for line in last.values() if line["state"] == "unknown"]
    assert len(done) + len(unknown) == len(last) == len(rows)
    assert sorted(line["prompt"] for line in last.values()) == sorted(rows)
    for line in done:
        saved = (out / line["file"]).read_bytes()
        assert hashlib.sha256(saved).hexdigest() == line["sha256"] == digest(line["prompt"], line["seed"])
    files = {path.name for path in out.iterdir() if path.suffix in (".jpeg", ".jpg")}
    assert files == {line["file"] for line in done}
    assert not list(out.rglob("*.part"))
    assert max(shop.bought().values()) == 1
    assert {line["prompt"] for line in done} <= shop.bought().keys()
    assert not (unknown and shop.honours_keys)
