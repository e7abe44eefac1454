"""The manifest of a batch: a line of JSON for each row that ended, for whoever works with the images.

The ledger is what is true. What a crash kept from the manifest, or half of a line, is mended from it at the next start.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from yandexart_grpc.batch.folder import FolderError
from yandexart_grpc.batch.ledger import Record, State

NAME = "manifest.jsonl"
ENDED = (State.DONE, State.FAILED, State.UNKNOWN)


class Manifest:
    """The lines of one folder. Of several for one key, the last counts."""

    def __init__(self, folder: Path, known: Iterable[Record]) -> None:
        """Mend it, so that it tells all that is `known`. Raises `FolderError`."""
        self._path = folder / NAME
        try:
            latest = self._mended()
        except OSError as error:
            raise FolderError(f"{self._path}: {error.strerror}") from error
        self._append([line for record in known if record.state in ENDED and latest.get(record.key) != (line := _line(record))])

    def add(self, record: Record) -> None:
        """Tell how a row ended. Raises `FolderError`."""
        self._append([_line(record)])

    def _mended(self) -> dict[str, str]:
        """Cut off half of a line at the end, and return the latest line of each key; what cannot be read is passed over."""
        latest = dict[str, str]()
        if not self._path.exists():
            return latest
        with self._path.open("rb+") as file:
            end = 0
            for line in file:
                if line.endswith(b"\n"):
                    end += len(line)
                    if key := _key(line):
                        latest[key] = line.decode()
            file.truncate(end)
        return latest

    def _append(self, lines: list[str]) -> None:
        try:
            with self._path.open("a", encoding="ascii") as file:
                file.writelines(lines)
        except OSError as error:
            raise FolderError(f"{self._path}: {error.strerror}") from error


def _line(record: Record) -> str:
    names = ("key", "prompt", "state", "file", "sha256", "seed", "operation_id", "seconds", "error")
    return json.dumps({name: getattr(record, name) for name in names}) + "\n"


def _key(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["key"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
