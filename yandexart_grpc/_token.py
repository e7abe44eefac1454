"""The renewal rule: when a token is renewed, what it means that it cannot be, and what is done when a server refuses it.

A token is renewed in the path of the call that finds it due, at a tenth of its life or an hour, by one of all who need it. While
the old one holds, the others go on with it, and so does everybody when the renewal fails; without one they wait for the new
one, or share its failure. A call that the server refuses for its token is made once more with a new one: it was refused before
work, so this holds for orders too.
"""

import logging
import threading
from collections.abc import Callable
from copy import copy
from math import inf
from typing import NamedTuple, TypeVar

from grpc import RpcError, StatusCode

from yandexart_grpc._step import Answer, Probe, Renewal, Step, Talk, relayed
from yandexart_grpc.auth import Header, Source, Token
from yandexart_grpc.errors import QuotaExceeded, Unauthenticated, Unavailable, YandexArtError
from yandexart_grpc.failures import failure, from_rpc
from yandexart_grpc.stubs import ImageGenerationRequest

log = logging.getLogger("yandexart_grpc")

Result = TypeVar("Result")

LONGEST_USE = 3600.0
"""Seconds after which a token is renewed however long it lives."""
LEFT = 0.1
"""The part of its life that is left when it is renewed."""
PATIENCE, SHORT_PATIENCE = 10.0, 3.0
"""Seconds for one renewal: without a token that holds, and with one."""
PAUSE, SHORT_PAUSE = 30.0, 1.0
"""Seconds between a renewal that failed and the next: with a token that holds, and without one."""
NAP = 0.05
"""Seconds after which somebody who waits for a renewal looks again, should nobody wake him."""
LEAST = 0.001
"""Seconds for a call for which a token left no time: it fails as one that took too long."""


class Held(NamedTuple):
    """A token in use."""

    authorization: Header
    due: float
    """When to renew it."""
    end: float
    """When it ends; both on the clock of the client, which nobody sets."""

    @classmethod
    def of(cls, token: Token, asked: float) -> "Held":
        """The token that was asked for at that time."""
        life = inf if token.expires_in is None else token.expires_in
        return cls(token.authorization, asked + min(LONGEST_USE, life * (1 - LEFT)), asked + life)


class Tokens:
    """The token that all calls of a client share; safe to share between threads."""

    def __init__(self, source: Source, now: Callable[[], float], plans_changed: Callable[[], None]) -> None:
        """`now` is a monotonic clock; `plans_changed` wakes those who sleep until a renewal has ended."""
        self._source = source
        self._now = now
        self._plans_changed = plans_changed
        self._lock = threading.Lock()
        self._held: Held | None = None
        self._renewing = False
        self._failure: YandexArtError = Unauthenticated("no token yet")
        self._failed = -inf  # when

    def signed(self, steps: Talk[Result]) -> Talk[Result]:
        """The same machine, with each of its calls made with a token that holds."""
        return relayed(steps, self._make)

    def _make(self, step: Step) -> Talk[Answer | None]:
        return (yield step) if step.request is None else (yield from self._call(step))

    def _call(self, step: Step) -> Talk[Answer | None]:
        began = self._now()
        held = yield from self.current(step.timeout)
        try:
            return (yield self._with(step, held, began))
        except RpcError as error:
            if failure(error).code() is not StatusCode.UNAUTHENTICATED or isinstance(step.request, Probe):
                raise
        log.info("the server refused the token; the call is made once more with a new one")
        with self._lock:
            if self._held is held:  # and nobody has renewed it since
                self._held, self._failed = None, -inf
        return (yield self._with(step, (yield from self.current(step.timeout)), began))

    def _with(self, step: Step, held: Held, began: float) -> Step:
        """The step with a token, and the time that this has left for it."""
        left = step.timeout - (self._now() - began)
        if left <= 0 and isinstance(step.request, ImageGenerationRequest):
            raise Unavailable("submitting: the time was up before a token came, and nothing was sent")
        return step._replace(authorization=held.authorization, timeout=max(left, LEAST))

    def current(self, patience: float) -> Talk[Held]:
        """A token that holds, renewed where it is due. Raises the failure where there is none."""
        while True:
            with self._lock:
                now, held = self._now(), self._held
                if held is not None and now < held.end:
                    if now < held.due or self._renewing or now < self._failed + PAUSE:
                        return held
                elif now < self._failed + SHORT_PAUSE:
                    raise copy(self._failure) from self._failure
                else:
                    held = None
                leads, self._renewing = not self._renewing, True
            if leads:
                return (yield from self._renew(held, patience))
            yield Step(NAP)

    def _renew(self, old: Held | None, patience: float) -> Talk[Held]:
        """Fetch a token; the `old` one holds still."""
        asked = self._now()
        try:
            timeout = min(patience, PATIENCE if old is None else SHORT_PATIENCE)
            answer = yield Step(request=Renewal(self._source), timeout=timeout)
            assert answer is not None  # drivers answer every call
            assert answer.token is not None  # and this one with a token
            self._held = Held.of(answer.token, asked)
            return self._held
        except (RpcError, YandexArtError) as error:
            self._failure, self._failed = self._explained(error), self._now()
            if old is None:
                raise copy(self._failure) from error  # of which each call takes its own, to say what it was about
            log.warning("a token that holds for %.0f s more could not be renewed: %s", old.end - self._failed, self._failure)
            return old
        finally:
            self._renewing = False
            self._plans_changed()

    def _explained(self, error: RpcError | YandexArtError) -> YandexArtError:
        if isinstance(error, YandexArtError):
            return error
        known = from_rpc(error, f"exchanging {self._source!r} for a token")
        if isinstance(known, Unavailable | QuotaExceeded):
            return known
        return Unauthenticated(str(known), code=known.code, details=known.details, request_id=known.request_id)
