"""What reached a server, to assert on."""

from collections import Counter
from typing import Literal, NamedTuple

What = Literal["submits", "generations", "reads", "pictures"]


class Counts(NamedTuple):
    """What reached the server of one prompt."""

    submits: int
    """Orders that arrived, those among them that were refused or sent again."""
    generations: int
    """Orders that became operations, without those that the content rules refuse: what you would pay for."""
    reads: int
    """Questions about operations, those among them that failed."""
    pictures: int
    """Operations whose picture was handed over."""


class Ledger:
    """Counts what reaches a server, before it is answered. The names are those of `Counts`, for all prompts together."""

    def __init__(self) -> None:
        self._counts: dict[What, Counter[str]] = {
            "submits": Counter(),
            "generations": Counter(),
            "reads": Counter(),
            "pictures": Counter(),
        }

    @property
    def submits(self) -> int:
        """Orders that arrived."""
        return self._counts["submits"].total()

    @property
    def generations(self) -> int:
        """Orders that became operations."""
        return self._counts["generations"].total()

    @property
    def reads(self) -> int:
        """Questions about operations."""
        return self._counts["reads"].total()

    @property
    def pictures(self) -> int:
        """Operations whose picture was handed over."""
        return self._counts["pictures"].total()

    def of(self, prompt: str) -> Counts:
        """What reached the server of that prompt."""
        return Counts(*(counts[prompt] for counts in self._counts.values()))

    def count(self, what: What, prompt: str) -> None:
        """Count one more."""
        self._counts[what][prompt] += 1

    def __repr__(self) -> str:
        return f"Ledger({', '.join(f'{what}={counts.total()}' for what, counts in self._counts.items())})"
