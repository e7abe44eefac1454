"""The arithmetic of docs/scale.md: what so many pictures a second take, from what was measured of one.

Nothing is measured here, and nothing simulated: `fleet` does the second. `python -m benchmarks.capacity` prints the table, and a
test sees that the page has it.
"""

import math
from collections.abc import Callable, Mapping

from benchmarks.measure import say

PICTURE = 1_600_000
"""Bytes of a picture."""
SERVER_CPU, DATABASE_CPU = 0.0125, 0.012
"""Seconds of CPU that a picture costs its server and PostgreSQL: an order and a held read, 32 at a time, on two cores.
Measured once, by hand; bytes and transactions below are measured again by a test."""
COMMITS = 12
"""Transactions of a picture, when several are under way at once; a picture alone has up to 20."""
IDLE_COMMITS = 6
"""Transactions a second of a server that does nothing: it counts, looks for jobs, and gives a sign of life."""
WAL, ROW = 1_720_000, 1_660_000
"""Bytes of a picture in PostgreSQL's log and in its tables. A JPEG does not shrink."""
READ = 3_200_000
"""Bytes from PostgreSQL for a read on another server than the one that worked: a `bytea` comes as hexadecimal text."""
LASTS = 12 * math.exp(0.35**2 / 2)
"""Seconds that a picture takes in the mean: lognormal, median 12, as `lag_simulated` has it."""
LOOK = 3.0
"""Seconds after which a held read looks again, in case that an announcement was lost."""
CONNECTIONS = 9
"""To PostgreSQL, of each server at the most."""
CONCURRENCY = 1_000
"""Operations that a server works on at a time, where nothing else is said."""
KEEP = 3 * 24 * 3600
"""Seconds for which a picture is kept."""
BUSY = 0.6
"""How much of its core a server is to use: the rest is for bursts, and for what a dead one leaves."""
PER_MINUTE, PER_DAY = 500, 5_000
"""Pictures that Yandex makes for one folder, unless it granted more."""
RATES = (1, 100, 10_000)

Needs = Mapping[str, float]


def needs(rate: float) -> Needs:
    """What `rate` pictures a second take, by name."""
    cores, running = rate * SERVER_CPU, rate * LASTS
    # One more than is needed, and never one alone: any of them may die.
    servers = max(2, math.ceil(cores / BUSY) + 1, math.ceil(running / CONCURRENCY) + 1)
    elsewhere = (servers - 1) / servers
    return {
        "servers": servers,
        "server_cores": cores,
        "running": running,
        "looks": running / LOOK,
        "database_cores": rate * DATABASE_CPU,
        "commits": rate * COMMITS + servers * IDLE_COMMITS,
        "written": rate * (WAL + ROW),
        "read": rate * elsewhere * READ,
        "kept": rate * KEEP * ROW,
        "connections": servers * CONNECTIONS,
        "heard": rate * servers,
        "callers_link": rate * PICTURE,
        "minute_folders": math.ceil(rate * 60 / PER_MINUTE),
        "day_folders": math.ceil(rate * 86_400 / PER_DAY),
    }


def count(value: float) -> str:
    """A number with the digits that matter."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def size(value: float) -> str:
    """Bytes, in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} PB"


LINES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("servers, of one core each", "servers", count),
    ("their cores in use", "server_cores", count),
    ("operations under way, and reads held for them", "running", count),
    ("looks of held reads a second, at PostgreSQL", "looks", count),
    ("cores of PostgreSQL in use", "database_cores", count),
    ("transactions a second", "commits", count),
    ("written by PostgreSQL a second: log and tables", "written", size),
    ("read from PostgreSQL a second, for other servers", "read", size),
    ("kept for three days", "kept", size),
    ("connections to PostgreSQL", "connections", count),
    ("announcements heard a second, by all servers", "heard", count),
    ("sent to callers a second", "callers_link", size),
    ("folders, for 500 pictures a minute each", "minute_folders", count),
    ("folders, for 5,000 pictures a day each, all day", "day_folders", count),
)


def table() -> str:
    """The table of docs/scale.md."""
    all_needs = [needs(rate) for rate in RATES]
    lines = ["| pictures a second | " + " | ".join(f"{rate:,}" for rate in RATES) + " |", "|---|" + "---:|" * len(RATES)]
    lines += [f"| {title} | " + " | ".join(spell(each[name]) for each in all_needs) + " |" for title, name, spell in LINES]
    return "\n".join(lines)


if __name__ == "__main__":
    say(table())
