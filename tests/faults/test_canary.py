"""Invariant (e) of the catalogue: whatever fails, a key is in no log, `repr`, exception, pickle or store, a prompt in no log."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.processes import ROOT

KEY, PROMPT = "AQVNcanary0fthekey", "canary0ftheprompt"


class Resets(threading.Thread):
    """Breaks all connections of a proxy again and again, until `over` is set."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(name="resets")
        self._proxy = proxy
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.15):
            self._proxy.reset()


@pytest.mark.parametrize("verbosity", ["error", "debug"])
def test_a_key_is_seen_nowhere(proxied: Callable[[str], Proxy], tmp_path: Path, verbosity: str) -> None:
    """A full run of both clients against a server with keys, through resets, with all logs on and gRPC's as well."""
    (tmp_path / "keys").write_text(f"alice {KEY}\n")
    store, logged = tmp_path / "store.db", tmp_path / "server.log"
    environment = os.environ | {"GRPC_VERBOSITY": verbosity, "YC_API_KEY": KEY, "PROMPT": PROMPT}
    command = [str(Path(sys.executable).with_name("yandexart")), "serve", "--listen", "127.0.0.1:0", "--verbose"]
    command += ["--demo-duration", "fixed:0", "--store", f"sqlite:///{store}", "--key-file", str(tmp_path / "keys")]
    with (
        logged.open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            assert server.stdout
            endpoint = server.stdout.readline().split()[-1]
            resets = Resets(proxied(endpoint))
            resets.start()
            try:
                endpoints = (endpoint, resets._proxy.endpoint, "http://127.0.0.1:1")
                client = [sys.executable, "-m", "tests.faults.canary", *endpoints]
                shown = subprocess.run(client, cwd=ROOT, env=environment, capture_output=True, timeout=240, check=True)
            finally:
                resets.over.set()
                resets.join()
        finally:
            server.terminate()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    for where, content in {"client": shown.stdout, "logs": shown.stderr, "server": logged.read_bytes(), "store": kept}.items():
        assert KEY.encode() not in content, where
    assert b"operation fbv" in shown.stderr
    assert b"Unauthenticated" in shown.stdout
    assert b" done" in logged.read_bytes()
    for where, content in {"logs": shown.stderr, "server": logged.read_bytes()}.items():
        assert PROMPT.encode() not in content, where
    assert PROMPT.encode() in kept  # it is erased with its operation
