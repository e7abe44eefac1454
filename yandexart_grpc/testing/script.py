"""What a test tells its server, and what of it was never asked for."""

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import NamedTuple, Self

from grpc import StatusCode

DURATION = 12.0
"""Seconds that a picture takes where nothing else is said: about as long as the real service."""


class Fault(NamedTuple):
    """How a call, or an operation, fails."""

    code: StatusCode
    details: str
    retry_after: float | None


class Faults:
    """What fails next: as `submits` and `reads` of a server calls, as `pictures` operations."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._left = deque[Fault]()

    def fail(
        self,
        times: int = 1,
        code: str | StatusCode = "UNAVAILABLE",
        *,
        details: str = "scripted",
        retry_after: float | None = None,
    ) -> None:
        """Let the next `times` fail with that code, behind those that were scripted before.

        `retry_after` is after how many seconds the server asks to be called again.
        """
        if times < 1:
            raise ValueError(f"times: {times!r} is not an integer from 1")
        name = code.name if isinstance(code, StatusCode) else code
        if name not in StatusCode.__members__ or name == "OK":
            raise ValueError(f"code: {code!r} is none of {', '.join(one for one in StatusCode.__members__ if one != 'OK')}")
        self._left.extend([Fault(StatusCode[name], details, retry_after)] * times)

    def next(self) -> Fault | None:
        """What is to happen to the one that comes now."""
        return self._left.popleft() if self._left else None

    def unused(self) -> Iterator[str]:
        """What was never asked for."""
        if self._left:
            yield _counted(len(self._left), f"failure of {self._what}", f"failures of {self._what}")


class Script:
    """What a test tells its server, at any time; it holds for what arrives from then on."""

    def __init__(self) -> None:
        self.submits = Faults("submits")
        """Orders: those that are to fail buy nothing."""
        self.reads = Faults("reads")
        """Questions about operations."""
        self.pictures = Faults("pictures")
        """Operations: those that are to fail end with an error, in the order in which they are accepted."""
        self.duration = DURATION
        """Seconds that a picture takes; endless where reads finish it."""
        self.reads_needed: int | None = None
        """At which read an operation is done; None where time decides."""
        self.is_yandex = False
        """Whether the server keeps to what Yandex does."""
        self._refused: dict[str, bool] = {}
        self._lost = 0

    def finish_after(self, seconds: float | None = None, *, reads: int | None = None) -> Self:
        """Let operations be done after so many seconds of the clock, or at that read of theirs: with `reads=3`, at the third."""
        if (seconds is None) == (reads is None):
            raise ValueError("seconds, reads: one of them is needed, and not both")
        if seconds is not None and not 0 <= seconds < inf:
            raise ValueError(f"seconds: {seconds!r} is not a number from 0")
        if reads is not None and reads < 1:
            raise ValueError(f"reads: {reads!r} is not an integer from 1")
        self.duration, self.reads_needed = inf if seconds is None else seconds, reads
        return self

    def refuse(self, prompt: str) -> Self:
        """Let the content rules refuse that prompt."""
        self._refused.setdefault(prompt, False)
        return self

    def lose_next_answer(self) -> Self:
        """Accept the next order, and let its answer be lost: the operation exists, and its caller hears nothing of it."""
        self._lost += 1
        return self

    def like_yandex(self) -> Self:
        """Keep to what Yandex was seen to do (contract/service.md): no idempotency keys, no held reads, nothing but the id of an
        operation until it is done, and a refusal by the content rules as the answer to the order.
        """
        self.is_yandex = True
        return self

    def refuses(self, prompt: str) -> bool:
        """Whether the content rules refuse that prompt."""
        if prompt in self._refused:
            self._refused[prompt] = True
        return prompt in self._refused

    def loses(self) -> bool:
        """Whether the answer that goes out now is lost."""
        lost = self._lost > 0
        self._lost -= lost
        return lost

    def unused(self) -> list[str]:
        """What was scripted and never asked for."""
        found = [text for faults in (self.submits, self.reads, self.pictures) for text in faults.unused()]
        if self._lost:
            found.append(_counted(self._lost, "lost answer", "lost answers"))
        return found + [f"the refusal of {prompt!r}" for prompt, came in self._refused.items() if not came]


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
