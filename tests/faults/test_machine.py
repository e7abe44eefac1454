"""Real clients, the real server and broken connections, at random, beside a model of what must be true all the time.

(a) No prompt is executed more often than it was ordered. (b) Every operation whose id was returned can be found until it
expires. (c) An operation that has ended always ends the same way, by its own picture or by an error. (d) A wait asks within its
budget. (e) The credential is seen nowhere.
"""

import asyncio
import inspect
import logging
import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.faults.counting_server import CountingBackend, executions, picture
from tests.faults.front import Front
from tests.faults.process import free_port
from tests.faults.proxy import Proxy
from yandexart_grpc import (
    AsyncYandexArt,
    NotFound,
    OperationCancelled,
    OutcomeUnknown,
    QuotaExceeded,
    Unavailable,
    YandexArt,
    YandexArtError,
)
from yandexart_grpc.server import embedded

CANARY = "AQVN-canary-that-nobody-may-see"
RATE, BURST = 20.0, 5
"""Questions a second that the client makes, and at once."""


class Heard(logging.Handler):
    """Keeps all that is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Order:
    """What is known of one prompt that was ordered, with its number as its seed."""

    def __init__(self, number: int) -> None:
        self.prompt, self.seed = f"cat {number}", number
        self.handle: Any = None
        self.expired = False
        self.ended: bytes | type[YandexArtError] | None = None


class World(RuleBasedStateMachine):
    """A client, a proxy, a front, a server, its store and its ledger."""

    kind: type[YandexArt | AsyncYandexArt]
    orders = Bundle("orders")

    @initialize(charges=st.booleans(), holds=st.booleans(), duration=st.sampled_from([0.0, 0.02]))
    def start(self, charges: bool, holds: bool, duration: float) -> None:
        self.life, self.server = ExitStack(), ExitStack()
        folder = Path(self.life.enter_context(tempfile.TemporaryDirectory()))
        self.store, self.ledger = folder / "store.sqlite", folder / "ledger"
        self.charges, self.duration, self.listen = charges, duration, f"127.0.0.1:{free_port()}"
        self.life.callback(lambda: self.server.close())
        self.open()
        self.front = self.life.enter_context(Front(self.listen, holds=holds))
        self.proxy = self.life.enter_context(Proxy(self.front.address))
        runner = self.life.enter_context(asyncio.Runner())
        self.run: Callable[[Any], Any] = lambda result: runner.run(result) if inspect.iscoroutine(result) else result
        self.log = Heard()
        logging.getLogger().addHandler(self.log)
        logging.getLogger("yandexart_grpc").setLevel(logging.DEBUG)
        self.life.callback(logging.getLogger("yandexart_grpc").setLevel, logging.NOTSET)
        self.life.callback(logging.getLogger().removeHandler, self.log)
        self.art: Any = self.kind(
            endpoint=self.proxy.endpoint,
            folder_id="folder",
            credentials=CANARY,
            reads_per_second=RATE,
            submits_per_minute=1e6,
            timeout=60,
        )
        self.life.callback(lambda: self.run(self.art.close()))
        self.known: list[Order] = []
        self.looks = 0
        self.began = time.monotonic()

    def open(self) -> None:
        """Start the server on its store and its port."""
        self.server = ExitStack()
        backend = CountingBackend(self.ledger, charges=self.charges, duration=self.duration)
        self.server.enter_context(embedded(backend, listen=self.listen, store=f"sqlite:///{self.store}"))

    def submit(self, order: Order) -> Order:
        """Order it; after an unknown outcome once more, which its key makes the same order."""
        try:
            order.handle = self.run(self.art.submit(order.prompt, seed=order.seed, idempotency_key=f"key-{order.seed}"))
        except (OutcomeUnknown, Unavailable) as error:
            self.check(error, billed="unknown" if isinstance(error, OutcomeUnknown) else "no")
            return self.submit(order)
        return order

    def check(self, error: YandexArtError, *, billed: str | None = None) -> None:
        assert billed in (None, error.billed)
        self.look_for_the_canary(str(error), repr(error), pickle.dumps(error))

    def look_for_the_canary(self, *shown: str | bytes) -> None:
        for text in shown:
            assert CANARY not in (text if isinstance(text, str) else text.decode(errors="replace"))

    def connect(self) -> None:
        """Only over a connection that stands can an order go out whose answer does not come back."""
        while True:
            try:
                self.run(self.art.warm_up())
            except Unavailable:
                time.sleep(0.02)
            else:
                return

    def new(self) -> Order:
        self.known.append(Order(len(self.known) + 1))
        return self.known[-1]

    @rule(target=orders)
    def order(self) -> Order:
        return self.submit(self.new())

    @rule(target=orders)
    def order_and_lose_the_answer(self) -> Order:
        """The server has accepted the order, and then the connection is reset."""
        before = self.front.answered["Generate"]

        def cut() -> None:
            while self.front.answered["Generate"] == before and not done.wait(0.002):
                continue
            self.proxy.set()
            self.proxy.reset()

        done, cutter = threading.Event(), threading.Thread(target=cut)
        self.connect()
        self.proxy.set(mute=True)
        cutter.start()
        try:
            return self.submit(self.new())
        finally:
            done.set()
            cutter.join()

    @rule(order=orders)
    def wait(self, order: Order) -> None:
        try:
            image = self.run(order.handle.result())
        except YandexArtError as error:
            self.check(error)
            self.failed(order, error)
        else:
            assert image.data == picture(order.prompt, order.seed)
            self.ends(order, image.data)

    def failed(self, order: Order, error: YandexArtError) -> None:
        if order.expired:
            assert isinstance(error, NotFound)
        else:
            assert isinstance(error, OperationCancelled | OutcomeUnknown)
            assert error.operation_id == order.handle.id
            self.ends(order, type(error))

    def ends(self, order: Order, ended: bytes | type[YandexArtError]) -> None:
        assert order.ended in (None, ended)
        order.ended = ended

    @rule(order=orders)
    def look(self, order: Order) -> None:
        """By a handle that knows nothing but the id."""
        self.looks += 1
        try:
            assert self.run(self.art.operation(order.handle.id).done()) or order.ended is None
        except NotFound:
            assert order.expired
        except (Unavailable, QuotaExceeded) as error:
            self.check(error)

    @rule(order=orders)
    def cancel(self, order: Order) -> None:
        try:
            if self.run(order.handle.cancel()):
                self.ends(order, OperationCancelled)
        except NotFound:
            assert order.expired
        except Unavailable as error:
            self.check(error)

    @rule(order=orders)
    def expire(self, order: Order) -> None:
        order.expired = True
        order.handle = self.art.operation(order.handle.id)  # one that has not seen its end
        self.front.expired.add(order.handle.id)

    @rule()
    def throttle(self) -> None:
        self.front.throttled = 2

    @rule()
    def reset(self) -> None:
        self.proxy.reset()

    @rule()
    def restart(self) -> None:
        self.server.close()
        self.open()

    @invariant()
    def nothing_is_executed_twice(self) -> None:
        if hasattr(self, "ledger"):
            times = executions(self.ledger)
            assert times.keys() <= {order.prompt for order in self.known}
            assert not self.charges or max(times.values(), default=0) <= 1

    @invariant()
    def the_budget_is_kept(self) -> None:
        if hasattr(self, "front"):
            assert self.front.planned - self.looks <= (time.monotonic() - self.began) * RATE + BURST + 1

    def teardown(self) -> None:
        if not hasattr(self, "art"):
            return
        with self.life:
            self.front.throttled = 0
            for order in self.known:
                if order.handle and not order.expired:
                    self.wait(order)
            self.look_for_the_canary(repr(self.art), "\n".join(self.log.lines), self.store.read_bytes())
            self.look_for_the_canary(*(repr(order.handle) for order in self.known))


SETTINGS = settings(
    phases=[Phase.explicit, Phase.generate], max_examples=4, stateful_step_count=12, suppress_health_check=list(HealthCheck)
)


class BlockingWorld(World):
    kind = YandexArt


class AsyncWorld(World):
    kind = AsyncYandexArt


TestBlockingWorld, TestAsyncWorld = BlockingWorld.TestCase, AsyncWorld.TestCase
TestBlockingWorld.settings = TestAsyncWorld.settings = SETTINGS


@pytest.mark.faults
@pytest.mark.parametrize("world", [BlockingWorld, AsyncWorld])
def test_longer(world: type[World]) -> None:
    """The same with many more examples."""
    run_state_machine_as_test(world, settings=settings(SETTINGS, max_examples=20, stateful_step_count=30))
