"""What each folder may still buy, as a row that all servers share: one statement takes from it, or takes nothing.

A minute is kept by the generic cell rate algorithm: `due` is when everything taken so far would have flowed in again. A few may
go at once, and the rest at a pace, such that no minute, wherever it begins, holds more than its limit. A day is one of UTC.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Connection, MetaData, Table
from sqlalchemy.dialects.postgresql import insert as insert_into_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_into_sqlite

DAY = 24 * 3600.0
MINUTE = 62.0
"""Seconds over which the limit of a minute is spread: an order may leave later than its turn came, and the next one not."""
AT_ONCE = 20
"""Which part of the limit of a minute may be taken at once, when nothing was taken for long: one in so many."""
UNLIMITED = 10**9

INSERTS: Mapping[str, Callable[[Table], Any]] = {"postgresql": insert_into_postgresql, "sqlite": insert_into_sqlite}
"""`insert` as each database has it, with `on conflict`."""

_QUOTAS = Table(
    "quotas",
    MetaData(),
    Column("folder", sql.String(255), primary_key=True),
    Column("due", sql.Double, nullable=False),
    Column("day", sql.Integer, nullable=False),
    Column("used", sql.Integer, nullable=False),
    Column("minute_limit", sql.Integer, nullable=False),
    Column("day_limit", sql.Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Quota:
    """How many pictures a folder may buy."""

    minute: int = UNLIMITED
    day: int = UNLIMITED

    @classmethod
    def parse(cls, text: str) -> "Quota":
        """The limits in `minute=500,day=5000`, or in one of the two. Raises `ValueError`."""
        if not re.fullmatch(r"(minute|day)=[1-9]\d{0,8}(,(?!\1)(minute|day)=[1-9]\d{0,8})?", text):
            raise ValueError(f"quota: {text!r} is not minute=N, day=N or minute=N,day=N with integers from 1")
        return cls(**{name: int(value) for name, _, value in (part.partition("=") for part in text.split(","))})

    @property
    def burst(self) -> int:
        """How many may go at once."""
        return max(1, self.minute // AT_ONCE)

    @property
    def pace(self) -> float:
        """Seconds from one to the next after that."""
        return MINUTE / (self.minute - self.burst + 1)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an attempt to take one."""

    wait: float = 0.0
    """Seconds until it is worth another attempt; 0 where one was taken."""
    is_over: bool = False
    """Whether that is tomorrow."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a folder's quotas."""

    folder: str
    minute: int | None
    """How many may go at once; None where there is no limit."""
    day: int | None
    """How many until the end of the day; None where there is no limit."""
    ends: float
    """When the day ends, in seconds since the epoch."""


def create(connection: Connection) -> None:
    """Make the table."""
    _QUOTAS.create(connection)


def take(connection: Connection, folder: str, limits: Quota) -> Taken:
    """Take one for the folder, if there is one."""
    row, (now, today) = _QUOTAS.c, _now(connection)
    early = (limits.burst - 1) * limits.pace
    fresh = {"folder": folder, "due": now + limits.pace, "day": today, "used": 1}
    kept = {"minute_limit": limits.minute, "day_limit": limits.day}
    more = {
        "due": sql.case((row.due > now, row.due), else_=now) + limits.pace,
        "used": sql.case((row.day == today, row.used + 1), else_=1),
        "day": today,
    }
    insert = INSERTS[connection.dialect.name](_QUOTAS).values(fresh | kept)
    free = (row.due <= now + early) & ((row.day != today) | (row.used < limits.day))
    taking = insert.on_conflict_do_update(index_elements=[row.folder], set_=more | kept, where=free)
    if connection.execute(taking.returning(row.folder)).first():
        return Taken()
    seen = connection.execute(sql.select(_QUOTAS, now.label("now")).where(row.folder == folder)).one()
    tomorrow = (seen.now // DAY + 1) * DAY
    if seen.day == seen.now // DAY and seen.used >= limits.day:
        return Taken(wait=tomorrow - seen.now, is_over=True)
    return Taken(wait=max(0.001, seen.due - early - seen.now))


def left(connection: Connection) -> list[Left]:
    """What is left for each folder that has bought something."""
    now, _ = _now(connection)
    return [_left(found) for found in connection.execute(sql.select(_QUOTAS, now.label("now")).order_by(_QUOTAS.c.folder))]


def _left(found: sql.Row[Any]) -> Left:
    limits, today = Quota(found.minute_limit, found.day_limit), found.now // DAY
    used = found.used if found.day == today else 0
    behind = max(0.0, found.due - found.now) / limits.pace
    return Left(
        folder=found.folder,
        minute=None if limits.minute == UNLIMITED else max(0, int(limits.burst - behind)),
        day=None if limits.day == UNLIMITED else max(0, limits.day - used),
        ends=(today + 1) * DAY,
    )


def _now(connection: Connection) -> tuple[sql.ColumnElement[float], sql.ColumnElement[int]]:
    """The time, by a clock that all servers share, and the day."""
    if connection.dialect.name == "postgresql":
        now = sql.cast(sql.extract("epoch", sql.func.clock_timestamp()), sql.Double)
        return now, sql.cast(sql.func.floor(now / DAY), sql.Integer)
    here = time.time()
    return sql.literal(here, sql.Double), sql.literal(int(here // DAY), sql.Integer)
