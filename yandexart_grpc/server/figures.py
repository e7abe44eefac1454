"""The figures of the page: how soon pictures were in the hands of callers, and after how many reads, on this server."""

from collections import deque

from yandexart_grpc.server.events import Observer
from yandexart_grpc.server.store import Row

REMEMBERED = 1_000
"""Pictures of which the figures are kept: the last ones of all callers."""
SHOWN = 60
"""Pictures of a caller that are told of, at the most."""


class Figures(Observer):
    """Remembers the pictures that were handed over last."""

    def __init__(self) -> None:
        self._handed = deque[tuple[str, float, int]](maxlen=REMEMBERED)

    def handed(self, row: Row, lag: float, reads: int) -> None:
        self._handed.append((row.caller, lag, reads))

    def of(self, caller: str) -> tuple[list[float], list[int]]:
        """Lag in seconds, and reads, of the caller's last pictures, oldest first."""
        mine = [(lag, reads) for owner, lag, reads in self._handed if owner == caller][-SHOWN:]
        return [lag for lag, _ in mine], [reads for _, reads in mine]
