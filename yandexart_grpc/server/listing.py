"""What a store holds, newest first, without its pictures: queries on the tables of `schema`."""

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy import Connection

from yandexart_grpc.request import ImageRequest, folded
from yandexart_grpc.server.schema import OPERATIONS, PROMPTS, Row, State, request_of
from yandexart_grpc.stubs import Status

Kind = Literal["accepted", "running", "done", "failed"]
"""How far an operation is; one that is done has its picture, and one that failed an error."""
Place = tuple[float, str]
"""Where an operation stands in the list: when it was accepted, and its id."""

_COLUMNS = [
    OPERATIONS.c[name]
    for name in ("id", "caller", "request", "state", "created", "started", "ended", "attempts", "charged", "warnings", "error")
]
_FAILED = OPERATIONS.c.error.is_not(None)
_KINDS = {
    "accepted": OPERATIONS.c.state == State.ACCEPTED,
    "running": OPERATIONS.c.state == State.RUNNING,
    "done": (OPERATIONS.c.state == State.DONE) & ~_FAILED,
    "failed": (OPERATIONS.c.state == State.DONE) & _FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An operation without its picture. Times are seconds since the epoch."""

    id: str
    caller: str
    """Who asked for it; empty where no keys are asked for."""
    request: ImageRequest
    state: State
    created: float
    started: float | None
    """When the backend was called last."""
    ended: float | None
    attempts: int
    """How often the backend was called."""
    charged: bool
    """Whether the backend that was called takes money."""
    warnings: tuple[str, ...]
    error: Status | None
    """Why there is no picture, where it failed."""

    @classmethod
    def of(cls, row: Row) -> "Listed":
        """What is listed of an operation."""
        return cls(
            id=row.id,
            caller=row.caller,
            request=row.request,
            state=row.state,
            created=row.created,
            started=row.started,
            ended=row.ended,
            attempts=row.attempts,
            charged=row.charged,
            warnings=row.warnings,
            error=row.outcome if isinstance(row.outcome, Status) else None,
        )

    @property
    def kind(self) -> Kind:
        """How far it is."""
        if self.state is State.DONE:
            return "failed" if self.error is not None else "done"
        return "running" if self.state is State.RUNNING else "accepted"

    @property
    def place(self) -> Place:
        """What `before` takes to go on behind it."""
        return (self.created, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which operations are listed."""

    caller: str | None = None
    """Whose; None for those of everybody."""
    before: Place | None = None
    """Behind which place the list begins."""
    kind: Kind | None = None
    """How far they are; None for all."""
    search: str = ""
    """What stands in the prompt, in any case, or the whole id."""
    since: float | None = None
    """They were accepted, begun or ended after that time; None for all."""
    limit: int = 50
    """How many, at the most."""


def listed(connection: Connection, selection: Selection, now: float) -> list[Listed]:
    """The newest operations of a selection, newest first, without those that have expired."""
    return [_listed(found) for found in connection.execute(query_of(selection, now))]


def query_of(selection: Selection, now: float) -> sql.Select[Any]:
    """The query that `listed` makes."""
    table = OPERATIONS
    here = [sql.or_(table.c.expires.is_(None), table.c.expires > now)]
    if selection.caller is not None:
        here.append(table.c.caller == selection.caller)
    if selection.before is not None:
        here.append(sql.tuple_(table.c.created, table.c.id) < sql.tuple_(*map(sql.literal, selection.before)))
    if selection.kind is not None:
        here.append(_KINDS[selection.kind])
    if (since := selection.since) is not None:
        is_running = (table.c.state == State.RUNNING) & (table.c.started > since)
        here.append(sql.or_(table.c.created > since, table.c.ended > since, is_running))
    query = sql.select(*_COLUMNS)
    if wanted := folded(selection.search.strip()):
        query = query.outerjoin(PROMPTS, PROMPTS.c.operation == table.c.id)
        here.append(sql.or_(PROMPTS.c.words.contains(wanted, autoescape=True), table.c.id == wanted))
    return query.where(*here).order_by(table.c.created.desc(), table.c.id.desc()).limit(selection.limit)


def _listed(found: sql.Row[Any]) -> Listed:
    return Listed(
        id=found.id,
        caller=found.caller,
        request=request_of(found.request),
        state=State(found.state),
        created=found.created,
        started=found.started,
        ended=found.ended,
        attempts=found.attempts,
        charged=found.charged,
        warnings=tuple(found.warnings.splitlines()),
        error=None if found.error is None else Status.FromString(found.error),
    )
