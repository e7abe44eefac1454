"""When to ask next: pure arithmetic, no clock.

The pace grows with the age of the operation: questions stand close together while a late one is a large part of the wait,
and further apart when the operation is old.
"""

from typing import NamedTuple

SHORTEST, LONGEST = 0.1, 1.0
"""Bounds of the pause between two questions, in seconds."""


class Step(NamedTuple):
    """Sleep `after` seconds, then make the call and give it `timeout` seconds for its answer."""

    after: float
    timeout: float


def next_age(age: float) -> float:
    """The age in seconds at which to ask again about an operation that was not done at `age`."""
    return age + min(LONGEST, max(SHORTEST, age / 10))
