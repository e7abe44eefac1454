"""What each folder may still buy and read, as rows that all servers share: one statement takes from it, or takes nothing.

A minute is kept by the generic cell rate algorithm: `due` is when everything taken so far would have flowed in again. A few may
go at once, and the rest at a pace, such that no minute, wherever it begins, holds more than its limit. A day is one of UTC.

Reads go at a pace alone, and each is given its time when it asks: so who asked first goes first, whichever server he is on.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
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
KEPT_BACK = 10
"""Which part of the reads of a second is never given out: one in so many, and one at least. Reads that were given their time may
arrive up to 0.1 s late, beside later ones, and still be no more than the limit.
"""
UNLIMITED = 10**9

INSERTS: Mapping[str, Callable[[Table], Any]] = {"postgresql": insert_into_postgresql, "sqlite": insert_into_sqlite}
"""`insert` as each database has it, with `on conflict`."""

_METADATA = MetaData()
_QUOTAS = Table(
    "quotas",
    _METADATA,
    Column("folder", sql.String(255), primary_key=True),
    Column("due", sql.Double, nullable=False),
    Column("day", sql.Integer, nullable=False),
    Column("used", sql.Integer, nullable=False),
    Column("minute_limit", sql.Integer, nullable=False),
    Column("day_limit", sql.Integer, nullable=False),
)
READS = Table(
    "reads",
    _METADATA,
    Column("folder", sql.String(255), primary_key=True),
    Column("due", sql.Double, nullable=False),
    Column("second_limit", sql.Integer, nullable=False),
)
"""When the next read of a folder may go."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How many pictures a folder may buy, and how often it may ask for them."""

    minute: int = UNLIMITED
    day: int = UNLIMITED
    reads: int = UNLIMITED
    """Reads a second."""

    @classmethod
    def parse(cls, text: str) -> "Quota":
        """The limits in `minute=500,day=5000,reads=50`, or in some of them. Raises `ValueError`."""
        limits, names = dict[str, int](), [one.name for one in fields(cls)]
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name in limits or name not in names or not re.fullmatch(r"[1-9]\d{0,8}", value):
                known = ", ".join(f"{one}=N" for one in names)
                raise ValueError(f"quota: {part!r} in {text!r} is none of {known}, each once, N from 1 to {UNLIMITED - 1}")
            limits[name] = int(value)
        return cls(**limits)

    @property
    def burst(self) -> int:
        """How many may go at once."""
        return max(1, self.minute // AT_ONCE)

    @property
    def pace(self) -> float:
        """Seconds from one to the next after that."""
        return MINUTE / (self.minute - self.burst + 1)

    @property
    def reads_per_second(self) -> float:
        """How many reads are let go."""
        return max(0.5, self.reads - math.ceil(self.reads / KEPT_BACK))


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
    reads: int | None
    """How many reads a second there may be; None where there is no limit."""
    read_in: float | None
    """Seconds until the next one would go; None where there is no limit."""


def create(connection: Connection) -> None:
    """Make the table of what is bought."""
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


def reserve(connection: Connection, folder: str, limits: Quota) -> float:
    """Give the folder's next read its time, and return how many seconds that is away."""
    row, (now, _), pace = READS.c, _now(connection), 1 / limits.reads_per_second
    insert = INSERTS[connection.dialect.name](READS)
    insert = insert.values(folder=folder, due=now + pace, second_limit=limits.reads)
    after = {"due": sql.case((row.due > now, row.due), else_=now) + pace, "second_limit": limits.reads}
    query = insert.on_conflict_do_update(index_elements=[row.folder], set_=after).returning(row.due - pace - now)
    return max(0.0, float(connection.execute(query).scalar_one()))


def left(connection: Connection) -> list[Left]:
    """What is left for each folder that has bought something."""
    now, _ = _now(connection)
    read = (READS.c.due - now).label("read_in")
    query = sql.select(_QUOTAS, READS.c.second_limit, read, now.label("now")).outerjoin(READS, READS.c.folder == _QUOTAS.c.folder)
    return [_left(found) for found in connection.execute(query.order_by(_QUOTAS.c.folder))]


def _left(found: sql.Row[Any]) -> Left:
    limits, today = Quota(found.minute_limit, found.day_limit), found.now // DAY
    used = found.used if found.day == today else 0
    behind = max(0.0, found.due - found.now) / limits.pace
    return Left(
        folder=found.folder,
        minute=None if limits.minute == UNLIMITED else max(0, int(limits.burst - behind)),
        day=None if limits.day == UNLIMITED else max(0, limits.day - used),
        ends=(today + 1) * DAY,
        reads=found.second_limit,
        read_in=None if found.read_in is None else max(0.0, found.read_in),
    )


def _now(connection: Connection) -> tuple[sql.ColumnElement[float], sql.ColumnElement[int]]:
    """The time, by a clock that all servers share, and the day."""
    if connection.dialect.name == "postgresql":
        now = sql.cast(sql.extract("epoch", sql.func.clock_timestamp()), sql.Double)
        return now, sql.cast(sql.func.floor(now / DAY), sql.Integer)
    here = time.time()
    return sql.literal(here, sql.Double), sql.literal(int(here // DAY), sql.Integer)
