"""A server in a process of its own, always on the same address, that can be stopped, frozen, killed and started again."""

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class ServerProcess:
    """`tests.faults.counting_server` with the given options. Leaving the `with` block ends it, whatever state it is in.

    `on` begins its command, and `address` is where it listens; otherwise that is a port of the loopback.
    """

    def __init__(self, ledger: Path, *options: str, on: Sequence[str] = (), address: str = "") -> None:
        self.ledger = ledger
        self.address = address or f"127.0.0.1:{free_port()}"
        self.endpoint = f"http://{self.address}"
        self._command = [*on, sys.executable, "-m", "tests.faults.counting_server", "--listen", self.address]
        self._command += ["--ledger", str(ledger), *options]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return when it can be reached."""
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        if not self._process.stdout.readline():
            code = self._process.wait()
            self.kill()
            raise AssertionError(f"the server ended with {code} before it could be reached")

    def kill(self) -> None:
        """SIGKILL, if it is there."""
        if process := self._process:
            self._process = None
            process.kill()
            process.communicate()

    def stop(self) -> int:
        """SIGTERM, and return its exit code."""
        process, self._process = self._process, None
        assert process
        process.terminate()
        process.communicate()
        return process.returncode

    def freeze(self) -> None:
        """SIGSTOP: its connections stay, and nothing answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)
