"""What is left to do for each row, decided from what the ledger knows of it. This is where buying twice is ruled out."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from yandexart_grpc.batch.ledger import Record, State
from yandexart_grpc.batch.rows import Row
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.settings import SUBMITS_PER_MINUTE

IMAGE_SECONDS = 12.0
"""How long an image takes, about."""
IMAGES_PER_DAY = 5000
"""The quota of a folder."""
EPHEMERAL = "demo://"
"""What was ordered there ended with the process that ordered it, and nobody paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What the user asks to buy again."""

    failed: bool = False
    unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do."""

    rows: int
    new: int
    """Images that would be ordered."""
    waiting: int
    """Images that are ordered, and would be waited for or fetched."""
    done: int
    failed: int
    unknown: int
    minutes: float
    """About how long it would take."""
    days: int
    """How many days of the folder's quota the new images need."""
    images_per_day: int = IMAGES_PER_DAY


def settle(row: Row, known: Record | None, folder: Path | None, scope: str | None, again: Again) -> Record:
    """The record of a row as a run has to begin with it.

    Then NEW is ordered, SUBMITTED is waited for, and all others rest. An order whose answer is not known is sent again only
    within the `scope` in which the server said that it knows the idempotency key. What is done has its file in the `folder`,
    and without one it may have it anywhere.
    """
    if known is None:
        return Record(key=row.key, prompt=row.request.prompt, seed=row.request.seed)
    record = known
    has_file = record.state is State.DONE and (folder is None or (folder / str(record.file)).is_file())
    if record.endpoint == EPHEMERAL and record.state in (State.SUBMITTING, State.SUBMITTED, State.DONE) and not has_file:
        return replace(record, state=State.NEW)
    if record.state is State.DONE and not has_file:
        return replace(record, state=State.SUBMITTED)
    if record.state is State.SUBMITTING:
        if scope is not None and scope == record.scope:
            return replace(record, state=State.NEW)
        error = "a run ended before the answer to its order came; the image may have been bought"
        record = replace(record, state=State.UNKNOWN, error=error, billed="unknown")
    if (again.failed and record.state is State.FAILED) or (again.unknown and record.state is State.UNKNOWN):
        return replace(record, state=State.NEW, attempt=record.attempt + 1)
    return record


def require_here(records: Iterable[Record], endpoint: str, scope: str | None) -> None:
    """Raise `ConfigurationError` when operations were ordered elsewhere: this server would say that there are none."""
    away = Counter(
        record.endpoint
        for record in records
        if record.state is State.SUBMITTED and record.endpoint != endpoint and (scope is None or record.scope != scope)
    )
    for where, count in away.items():
        raise ConfigurationError(f"endpoint: {endpoint} does not know {count} operations of this batch: they are at {where}")


def estimate(rows: Iterable[Row], known: dict[str, Record], folder: Path | None, in_flight: int, again: Again) -> Plan:
    """What a run would do, as far as it can be told without asking the server."""
    count = Counter[State]()
    for row in rows:
        before = known.get(row.key)
        record = settle(row, before, folder, before.scope if before else None, again)
        sent = before is not None and before.state is State.SUBMITTING and before.attempt == record.attempt
        count[State.SUBMITTED if sent and record.state is State.NEW and record.endpoint != EPHEMERAL else record.state] += 1
    new, waiting = count[State.NEW], count[State.SUBMITTED]
    return Plan(
        rows=count.total(),
        new=new,
        waiting=waiting,
        done=count[State.DONE],
        failed=count[State.FAILED],
        unknown=count[State.UNKNOWN],
        days=math.ceil(new / IMAGES_PER_DAY),
        minutes=max(new / SUBMITS_PER_MINUTE, (new + waiting) * IMAGE_SECONDS / 60 / in_flight),
    )
