"""Hosts of their own on one machine: network namespaces on one switch, and links that lose every packet without telling anybody.

It takes root and Debian's `iproute2`. This machine is a host among them, so that a test is a client on a network.
"""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

NETWORK = "198.18.7"
"""The first three numbers of all addresses: they are kept free for trials of networks (RFC 2544)."""


class Hosts:
    """Hosts by name, each with an address. Leaving the `with` block removes all of it."""

    def __init__(self, *names: str) -> None:
        self._prefix = f"yandexart{os.getpid()}"
        self._switch = self._space("switch")
        self._addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 2)}
        self._life = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as life:
            self._add(life, self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "dev", "bridge", "up")
            for name, address in self._addresses.items():
                self._add(life, self._space(name))
                self._plug_in(name, address, "-n", self._space(name))
            self._plug_in("here", f"{NETWORK}.1")
            life.callback(_ip, "link", "delete", "dev", "yandexart")
            self._life = life.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    def address(self, name: str) -> str:
        """Under which a host is reached."""
        return self._addresses[name]

    def on(self, name: str) -> list[str]:
        """What a command begins with that is to run on a host."""
        return ["ip", "netns", "exec", self._space(name)]

    def cut(self, name: str) -> None:
        """From now on lose each packet from and to a host. Both ends believe that the link is up."""
        _ip("-n", self._switch, "link", "set", "dev", name, "nomaster")

    def mend(self, name: str) -> None:
        """Undo `cut`."""
        _ip("-n", self._switch, "link", "set", "dev", name, "master", "bridge")

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _add(self, life: ExitStack, space: str) -> None:
        _ip("netns", "add", space)
        life.callback(_ip, "netns", "delete", space)

    def _plug_in(self, name: str, address: str, *where: str) -> None:
        """Give a host its end of a link to the switch."""
        _ip(*where, "link", "add", "yandexart", "type", "veth", "peer", "name", name, "netns", self._switch)
        self.mend(name)
        _ip("-n", self._switch, "link", "set", "dev", name, "up")
        _ip(*where, "address", "add", f"{address}/24", "dev", "yandexart")
        for device in ("lo", "yandexart"):
            _ip(*where, "link", "set", "dev", device, "up")


def missing() -> str:
    """Why there can be no such hosts here; nothing where there can."""
    if os.geteuid():
        return "network namespaces take root"
    if not shutil.which("ip"):
        return "network namespaces take iproute2 (apt-get install iproute2)"
    if Path("/sys/class/net/yandexart").exists():
        return "the network of another test is there (ip link delete dev yandexart)"
    try:
        with Hosts("first"):
            return ""
    except subprocess.CalledProcessError as error:
        return f"this machine makes no networks: {' '.join(error.cmd)}: {error.stderr.strip()}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
