"""What all waits of one client share: what was learned about durations, the budgets, and what is known of the server."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import inf

from grpc import RpcError, StatusCode

from yandexart_grpc._budget import Budget
from yandexart_grpc._plan import WINDOW, Law, default_patience
from yandexart_grpc.failures import failure
from yandexart_grpc.settings import Limits

NOTED = 10_000
"""Orders whose names at the server are kept, at the most; there are as many where nobody takes the results."""
READ_BURST, SUBMIT_BURST = 5, 50
"""How many calls may go at once after a quiet time."""
RESENDS_PER_SECOND, RESEND_BURST, RESENDS_PER_SUCCESS = 5.0, 50, 0.1
"""How many orders a process sends again to one server, so that a server that is down is not kept down (as gRFC A6 does). The
trickle lets a process go on in which everybody waits."""


@cache
def _resends(process: int, target: str, now: Callable[[], float]) -> Budget:
    """The budget that all clients of a process share; what came through a fork is another's."""
    return Budget(RESENDS_PER_SECOND, RESEND_BURST, now)


class Pace:
    """The common knowledge of one client; safe to share between threads."""

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float],
        history: Mapping[str, Iterable[float]],
        plans_changed: Callable[[], None],
        target: str = "",
    ) -> None:
        """`now` is a monotonic clock, `history` has durations in seconds by model URI, and `plans_changed` is called when those
        who sleep until a planned time should look again. `target` is the server that takes orders.
        """
        self.target = target
        self.connected = False
        """Whether that server has answered, and nothing since has cast doubt on the connection."""
        self.scope: str | None = None
        """The store in which it keeps idempotency keys, as it announced last."""
        self.now = now
        self.rpc_timeout = limits.rpc_timeout
        self.reads = Budget(limits.reads_per_second, READ_BURST, now)
        self.submits = Budget(limits.submits_per_minute / 60, SUBMIT_BURST, now)
        self.holds: bool | None = None
        """Whether the server holds reads; None until something is known."""
        self._request_ids: dict[str, str] = {}
        self._patience = limits.patience
        self._plans_changed = plans_changed
        self._laws = {model: Law(durations) for model, durations in history.items()}
        self._in_flight = 0
        self._lock = threading.Lock()

    def deadline(self, span: float | None) -> float:
        """When a wait that begins now and may take `span` seconds has to end."""
        return inf if span is None else self.now() + span

    def failed(self, error: RpcError) -> None:
        """Take note of a call that failed: two codes may mean that the connection is gone."""
        if failure(error).code() in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
            self.connected = False

    @property
    def resends(self) -> Budget:
        """The turns of orders that are sent again."""
        return _resends(os.getpid(), self.target, self.now)

    def credit(self) -> None:
        """Count an order that was accepted towards those that may be sent again."""
        self.resends.credit(RESENDS_PER_SUCCESS)

    def note(self, operation_id: str, request_id: str | None) -> None:
        """Keep what the server called the order of an operation, until that is handed over."""
        if request_id is not None:
            with self._lock:
                self._request_ids[operation_id] = request_id
                if len(self._request_ids) > NOTED:
                    del self._request_ids[next(iter(self._request_ids))]

    def noted(self, operation_id: str) -> str | None:
        """What was kept of an operation, which is kept no more."""
        with self._lock:
            return self._request_ids.pop(operation_id, None)

    @property
    def patience(self) -> float:
        """How long a ready image may be expected to lie unseen, in seconds."""
        return self._patience or default_patience(self._in_flight, self.reads.rate)

    def law(self, model: str | None) -> Law:
        """What is known of a model's durations; of an operation that was picked up by id, the model is not known."""
        if model is None:
            return Law()
        return self._laws.get(model) or self._laws.setdefault(model, Law())

    def learn(self, law: Law, duration: float) -> None:
        """Take in the duration of a finished operation, in seconds.

        While little is known a new duration changes much, so those who wait are told to plan anew: after the 1st, 2nd, 4th, ...
        """
        with self._lock:
            law.learn(duration)
        known = law.learned
        if known & (known - 1) == 0:
            self._plans_changed()

    def begin(self, law: Law) -> bool:
        """Count a wait that begins, and return whether the law will learn from it.

        That is decided before anybody knows how long it takes: of a thousand operations that begin together, the last to end
        are the slowest, and a law that took them for all others would ask too late from then on.
        """
        with self._lock:
            self._in_flight += 1
            teaches = law.teachers < WINDOW
            law.teachers += teaches
            return teaches

    def end(self, law: Law, *, teaches: bool) -> None:
        """Count a wait that ends."""
        with self._lock:
            self._in_flight -= 1
            law.teachers -= teaches

    @property
    def history(self) -> dict[str, list[float]]:
        """The durations seen of each model, in seconds, oldest first."""
        with self._lock:
            return {model: list(law.durations) for model, law in self._laws.items() if law.durations}
