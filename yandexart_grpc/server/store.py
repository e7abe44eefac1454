"""Where operations are kept. `operations` is the only caller, and the only one that knows what the states mean."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from yandexart_grpc.request import ImageRequest
from yandexart_grpc.stubs import ImageGenerationResponse, Status


class State(IntEnum):
    """How far an operation is; it only ever grows."""

    ACCEPTED = 0
    RUNNING = 1
    DONE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operation."""

    id: str
    request: ImageRequest
    state: State
    created: float
    """Seconds since the epoch."""
    modified: float
    """Seconds since the epoch."""
    outcome: ImageGenerationResponse | Status | None = None
    """The picture or the error, once the state is DONE."""


class Store(Protocol):
    """What a store can do."""

    async def add(self, row: Row) -> None:
        """Keep a new operation."""

    async def get(self, operation_id: str) -> Row | None:
        """The operation as it is now, if there is one."""

    async def advance(self, row: Row, *, before: State) -> bool:
        """Replace the operation by `row` if its state is still `before`, and return whether it was."""


class MemoryStore:
    """Keeps operations as long as the process lives."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    async def add(self, row: Row) -> None:
        """Keep a new operation."""
        self._rows[row.id] = row

    async def get(self, operation_id: str) -> Row | None:
        """The operation as it is now, if there is one."""
        return self._rows.get(operation_id)

    async def advance(self, row: Row, *, before: State) -> bool:
        """Replace the operation by `row` if its state is still `before`, and return whether it was."""
        if self._rows[row.id].state is not before:
            return False
        self._rows[row.id] = row
        return True
