"""Rows 1 to 10 of the catalogue: what a client does when the connection, or whoever is at its other end, breaks."""

import asyncio
import secrets
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import repeat
from pathlib import Path

import grpc
import pytest
from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2_grpc import (
    add_ImageGenerationAsyncServiceServicer_to_server,
)
from yandex.cloud.operation.operation_service_pb2_grpc import add_OperationServiceServicer_to_server

from tests.conftest import Face
from tests.faults.conftest import PICTURE, Connect, Local
from tests.faults.counting_server import executions, picture
from tests.faults.process import ROOT, ServerProcess, free_port
from tests.faults.proxy import Proxy
from tests.foreign import Foreign, Held, alone, jpeg
from yandexart_grpc import OperationTimeout, OutcomeUnknown, Unavailable

Proxied = Callable[[str], Proxy]
Serve = Callable[..., Foreign]
Start = Callable[..., ServerProcess]
Make = Callable[..., Local]

SOON = 10.0
"""Seconds that no machine needs for what takes a moment."""


async def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    """Wait until something is so. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # of files and counters, which ring no bell
            await asyncio.sleep(0.005)


# ── nobody there ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_name_is_told_at_once(connect: Connect) -> None:
    """A host that does not exist is an error long before any time is up; it names the address, and nothing was sent."""
    before = time.monotonic()
    with pytest.raises(Unavailable, match=r"no-such-host\.invalid:50051 cannot be reached") as caught:
        await connect(endpoint="http://no-such-host.invalid:50051").generate("a cat")
    assert time.monotonic() - before < SOON
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")


async def test_reads_resume_when_the_server_comes_up_late(connect: Connect, serve: Serve, life: ExitStack) -> None:
    """A wait for an operation outlasts a refused connection: it goes on by itself once somebody listens."""
    server, port = serve(), free_port()
    operation = await connect(endpoint=f"http://127.0.0.1:{port}").operation(server.bought())
    waiting = asyncio.create_task(operation.result())
    await asyncio.sleep(0.05)
    life.enter_context(Proxy(server.listen().removeprefix("http://"), port=port))
    assert (await waiting).data == PICTURE


# ── the connection breaks ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_connection_that_broke_unused_is_replaced_unnoticed(connect: Connect, local: Make, proxied: Proxied) -> None:
    """A submit after the connection was reset makes another connection, and one picture."""
    server = local()
    proxy = proxied(server.endpoint)
    art = connect(endpoint=proxy.endpoint)
    await art.warm_up()
    proxy.reset()
    await art.generate("a cat")
    assert proxy.accepted == 2
    assert executions(server.ledger) == {"a cat": 1}


async def test_a_reset_before_the_request_is_a_clean_failure(connect: Connect, local: Make, proxied: Proxied) -> None:
    """While each connection is reset at accept, a submit fails with nothing ordered; then the same client makes one picture."""
    server = local()
    proxy = proxied(server.endpoint)
    art = connect(endpoint=proxy.endpoint)
    proxy.set(refuse=True)
    with pytest.raises(Unavailable) as caught:
        await art.generate("a cat")
    assert (caught.value.billed, caught.value.resend) == ("no", "safe")
    proxy.set()
    await until_reached(art)
    await art.generate("a cat")
    assert executions(server.ledger) == {"a cat": 1}


async def test_a_server_that_went_away_between_two_submits_is_a_clean_failure(
    connect: Connect, serve: Serve, proxied: Proxied
) -> None:
    """When the connection breaks unused and no other can be made, a submit fails with nothing ordered."""
    server = serve()
    proxy = proxied(server.listen())
    art = connect(endpoint=proxy.endpoint)
    await art.generate("first")
    proxy.set(refuse=True)
    proxy.reset()
    await asyncio.sleep(0.5)  # what is sent before gRPC has seen that may have left
    with pytest.raises((Unavailable, OutcomeUnknown)) as caught:
        await art.submit("second")
    assert len(server.executions) == 1
    assert caught.value.billed == "no"


async def until_reached(art: Face) -> None:
    """Connect, as often as the backoff of the channel makes it necessary."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                await art.warm_up()
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_reset_during_a_submit_is_not_repaired_by_a_second_one(connect: Connect, serve: Serve, proxied: Proxied) -> None:
    """Toward a server that is not ours, a submit whose connection breaks is sent once, and may be billed."""
    held = Held()
    server = serve(generate=[held])
    proxy = proxied(server.listen())
    submitting = asyncio.create_task(connect(endpoint=proxy.endpoint).submit("a cat"))
    await until(held.asked.is_set)
    proxy.reset()
    with pytest.raises(OutcomeUnknown) as caught:
        await submitting
    held.release.set()
    assert (caught.value.billed, caught.value.resend) == ("unknown", "unsafe")
    assert len(server.executions) == 1


async def test_a_reset_during_a_submit_is_repaired_by_the_key(connect: Connect, local: Make, proxied: Proxied) -> None:
    """Toward our server, a submit whose answer is lost is sent again with its key, and gives the one operation there is."""
    server = local()
    proxy = proxied(server.endpoint)
    art = connect(endpoint=proxy.endpoint)
    await art.generate("first")  # that the server honours keys is learned from its answers
    proxy.set(mute=True)
    submitting = asyncio.create_task(art.submit("a cat", seed=7))
    await until(lambda: executions(server.ledger)["a cat"])
    proxy.set()
    proxy.reset()
    assert (await (await submitting).result()).data == picture("a cat", 7)
    assert executions(server.ledger)["a cat"] == 1


async def test_reads_are_repeated_through_resets(connect: Connect, local: Make, proxied: Proxied) -> None:
    """A wait whose connections are all reset, again and again, still brings the picture, which is made once."""
    server = local(duration=0.3)
    proxy = proxied(server.endpoint)
    operation = await connect(endpoint=proxy.endpoint).submit("a cat", seed=1)
    waiting = asyncio.create_task(operation.result())
    for _ in range(3):
        proxy.reset()
        await asyncio.sleep(0.05)
    assert (await waiting).data == picture("a cat", 1)
    assert executions(server.ledger) == {"a cat": 1}


# ── the server goes away politely ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def restless() -> Iterator[tuple[Foreign, str]]:
    """A server that sends every connection away (GOAWAY) after half a second."""
    services = Foreign(reads=repeat(alone))
    options = [("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 500)]
    server = grpc.server(ThreadPoolExecutor(16), options=options)
    add_ImageGenerationAsyncServiceServicer_to_server(services, server)
    add_OperationServiceServicer_to_server(services, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield services, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


async def test_going_away_is_not_seen(connect: Connect, restless: tuple[Foreign, str], proxied: Proxied) -> None:
    """A thousand reads and a hundred submits over connections that the server keeps ending: no error, nothing sent twice."""
    server, endpoint = restless
    proxy = proxied(endpoint)
    art = connect(endpoint=proxy.endpoint, submits_per_minute=1e6)
    operation = await art.operation(server.bought())

    async def read() -> None:
        for number in range(250):
            assert await operation.done() is False
            if number % 10 == 0:
                await art.submit("a cat")

    while proxy.accepted < 3:
        server.reads.clear()
        server.executions.clear()
        await asyncio.gather(*(read() for _ in range(4)))
        assert (len(server.reads), len(server.executions)) == (1000, 100)


# ── the server is there and says nothing ──────────────────────────────────────────────────────────────────────────────


async def test_a_frozen_server_costs_one_call_its_own_time(connect: Connect, start: Start) -> None:
    """Toward a server that is stopped with its connection alive, a call ends by its own deadline; later it answers again."""
    server = start("--duration", "0.2")
    art = connect(endpoint=server.endpoint, rpc_timeout=0.3)
    operation = await art.submit("a cat", seed=1)
    server.freeze()
    before = time.monotonic()
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED") as read:
        await operation.done()
    with pytest.raises(OperationTimeout) as waited:
        await operation.result(timeout=0.5)
    assert time.monotonic() - before < SOON
    assert read.value.operation_id == waited.value.operation_id == operation.id
    server.thaw()
    assert (await operation.result()).data == picture("a cat", 1)


@pytest.mark.faults
@pytest.mark.parametrize("rpc_timeout", [1, 30], ids=["short reads", "long reads"])
async def test_a_stalled_connection_is_replaced(connect: Connect, local: Make, proxied: Proxied, rpc_timeout: float) -> None:
    """A connection that forwards nothing, with TCP alive, is given up by keepalive, and the wait goes on over another one."""
    server = local(duration=1)
    proxy = proxied(server.endpoint)
    operation = await connect(endpoint=proxy.endpoint, rpc_timeout=rpc_timeout, timeout=120).submit("a cat", seed=1)
    proxy.stall()
    assert (await operation.result()).data == picture("a cat", 1)
    assert proxy.accepted > 1


# ── the cable is pulled ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def cable() -> Iterator[tuple[str, Callable[[str], None]]]:
    """The name of a network that is reached as 10.213.7.2 over a cable, and what sets the near end "down" and "up"."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    space = f"faults{secrets.token_hex(3)}"
    here, there = f"{space}a", f"{space}b"
    try:
        ip("netns", "add", space)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        ip("addr", "add", "10.213.7.1/30", "dev", here)
        ip("link", "set", here, "up")
        ip("-n", space, "addr", "add", "10.213.7.2/30", "dev", there)
        ip("-n", space, "link", "set", there, "up")
        ip("-n", space, "link", "set", "lo", "up")
        yield space, lambda state: ip("link", "set", here, state)
        ip("link", "del", here)
    finally:
        ip("netns", "del", space)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The endpoint of a counting server beyond a cable, and what pulls it."""
    with cable() as (space, pull):
        listen = f"10.213.7.2:{free_port()}"
        script = (
            "import asyncio, pathlib, sys\n"
            "from tests.faults.counting_server import CountingBackend\n"
            "from yandexart_grpc.server import ServerSettings, serve\n"
            "backend = CountingBackend(pathlib.Path(sys.argv[2]), charges=True, duration=1)\n"
            "settings = ServerSettings(listen=sys.argv[1], backend=backend, allow_anonymous=True)\n"
            "asyncio.run(serve(settings, lambda address: print(address, flush=True)))\n"
        )
        command = ["ip", "netns", "exec", space, sys.executable, "-c", script, listen, str(tmp_path / "ledger")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout
                assert process.stdout.readline()
                yield f"http://{listen}", pull
            finally:
                process.kill()


async def test_a_pulled_cable_ends_a_read_by_its_deadline(connect: Connect, far: tuple[str, Callable[[str], None]]) -> None:
    """Without a network, a call ends by its own deadline; plugged in again, the wait goes on to the picture."""
    endpoint, pull = far
    art = connect(endpoint=endpoint, rpc_timeout=0.5)
    operation = await art.submit("a cat", seed=1)
    pull("down")
    before = time.monotonic()
    with pytest.raises(Unavailable):
        await operation.done()
    assert time.monotonic() - before < SOON
    pull("up")
    assert (await operation.result()).data == picture("a cat", 1)


# ── the link is slow ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_slow_link_delays_and_breaks_nothing(connect: Connect, serve: Serve, proxied: Proxied) -> None:
    """Over a link of 400 kB/s with 20 ms of lag a chunk, an image of 100 kB arrives whole, from one submit."""
    large = jpeg(size=100_000)
    server = serve(image=large)
    proxy = proxied(server.listen())
    proxy.set(lag=0.02, rate=400_000)
    before = time.monotonic()
    assert (await connect(endpoint=proxy.endpoint).generate("a cat")).data == large
    assert time.monotonic() - before > 0.25  # the link was slow indeed
    assert len(server.executions) == 1


# ── somebody stands in between ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tunnel(local: Make) -> Iterator[tuple[str, list[str]]]:
    """The address of an HTTP proxy, and the hosts that it was asked for; all of them are the counting server."""
    asked: list[str] = []
    server = local()

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().split()[1])
            while self.rfile.readline().strip():
                continue
            host, _, port = server.endpoint.removeprefix("http://").partition(":")
            with socket.create_connection((host, int(port))) as there:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=carry, args=(there, self.connection))
                back.start()
                carry(self.connection, there)
                back.join()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.daemon_threads, proxy.block_on_close = True, False  # the client closes its connection after this
        serving = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}", asked
        proxy.shutdown()
        serving.join()


async def test_a_proxy_of_the_environment_is_used(
    connect: Connect, tunnel: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `https_proxy`, a host that only the proxy can reach gives a picture."""
    address, asked = tunnel
    monkeypatch.setenv("https_proxy", address)
    image = await connect(endpoint="http://pictures.invalid:50051").generate("a cat", seed=1)
    assert image.data == picture("a cat", 1)
    assert set(asked) == {"pictures.invalid:50051"}
