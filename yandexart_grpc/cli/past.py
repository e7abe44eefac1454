"""What was asked for earlier, as the store of servers or the ledger of a batch knows it: two sources with one face."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast, get_args

from yandexart_grpc import ConfigurationError, NotFound, ProtocolError
from yandexart_grpc.batch.face import records
from yandexart_grpc.batch.ledger import Record, State
from yandexart_grpc.batch.origin import Origin, commented
from yandexart_grpc.image import whole_jpeg
from yandexart_grpc.request import folded

if TYPE_CHECKING:
    from yandexart_grpc.server.store import Kind, Listed

PAGE = 500
"""How many operations are asked of a store at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One picture that was asked for; None is what the source does not know."""

    origin: Origin
    state: str
    created: float | None = None
    """Seconds since the epoch."""
    seconds: float | None = None
    """From the order to its end."""
    caller: str | None = None
    file: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def when(self) -> str | None:
        """When it was ordered, to the second."""
        return None if self.created is None else f"{datetime.fromtimestamp(self.created, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def fields(self) -> dict[str, object]:
        """What is known, for programs."""
        about = {"state": self.state, "created": self.when, "seconds": self.seconds, "caller": self.caller}
        rest = {"file": self.file, "error": self.error, "warnings": list(self.warnings)}
        return {"operation_id": self.origin.operation_id} | about | asdict(self.origin) | rest


class Past(Protocol):
    """A source of entries."""

    def entries(self, *, search: str, state: str | None, limit: int | None) -> Iterator[Entry]:
        """Those with that text in the prompt, or with that id, and in that state, newest first.

        Raises `ConfigurationError` where the source cannot be read, or knows no such state.
        """

    def images(self, entries: Iterable[Entry], *, metadata: bool) -> Iterator[tuple[str, bytes]]:
        """The ids and the files of those that have an image. Raises `ConfigurationError` where there can be none."""


def find(past: Past, operation_id: str) -> Entry:
    """What is known of one operation. Raises `NotFound`."""
    for entry in past.entries(search=operation_id, state=None, limit=None):
        if entry.origin.operation_id == operation_id:
            return entry
    raise NotFound(f"operation {operation_id!r} is not there", operation_id=operation_id)


class StorePast:
    """The store of servers, read beside them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store = _server_store()

    def entries(self, *, search: str, state: str | None, limit: int | None) -> Iterator[Entry]:
        """As `Past` says; of everybody who called."""
        _require_state(state, get_args(self._store.Kind), "a store")
        return islice(self._all(search, cast("Kind | None", state), PAGE if limit is None else min(limit, PAGE)), limit)

    def _all(self, search: str, kind: "Kind | None", page: int) -> Iterator[Entry]:
        before = None
        while True:
            selection = self._store.Selection(search=search, kind=kind, limit=page, before=before)
            found = self._store.listed_in(self._url, selection)
            yield from map(_entry, found)
            if len(found) < page:
                return
            before = found[-1].place

    def images(self, entries: Iterable[Entry], *, metadata: bool) -> Iterator[tuple[str, bytes]]:
        """As `Past` says."""
        ids = [entry.origin.operation_id for entry in entries if entry.state == "done"]
        for row in self._store.kept_in(self._url, ids):
            try:
                data, _, _ = whole_jpeg(row.outcome.image)
            except ValueError as error:
                raise ProtocolError(f"operation {row.id} holds {error}", operation_id=row.id, billed="yes") from error
            yield row.id, commented(data, Origin.of(row.request, row.id)) if metadata else data


def _entry(listed: "Listed") -> Entry:
    return Entry(
        origin=Origin.of(listed.request, listed.id),
        state=listed.kind,
        created=listed.created,
        seconds=None if listed.ended is None else round(listed.ended - listed.created, 3),
        caller=listed.caller,
        error=listed.error.message if listed.error else None,
        warnings=listed.warnings,
    )


class LedgerPast:
    """The ledger of a batch. It keeps neither times nor models."""

    STATES = tuple(state for state in State if state is not State.NEW)

    def __init__(self, ledger: str) -> None:
        self._ledger = ledger

    def entries(self, *, search: str, state: str | None, limit: int | None) -> Iterator[Entry]:
        """As `Past` says."""
        _require_state(state, self.STATES, "a ledger")
        wanted = folded(search.strip())
        rows = (record for record in reversed(records(self._ledger)) if state is None or record.state == state)
        found = (row for row in rows if wanted in folded(row.prompt) or search == row.operation_id)
        return islice(map(_row, found), limit)

    def images(self, entries: Iterable[Entry], *, metadata: bool) -> Iterator[tuple[str, bytes]]:
        """As `Past` says; as they lie in the folder of the ledger, with what was added to them when they were saved."""
        folder = Path(self._ledger)
        if self._ledger.startswith("postgres"):
            raise ConfigurationError("images: a ledger in PostgreSQL has none; they are in the folders of the batches")
        for entry in entries:
            file = (folder if folder.is_dir() else folder.parent) / (entry.file or "")
            if entry.state == State.DONE and entry.origin.operation_id and file.is_file():
                yield entry.origin.operation_id, file.read_bytes()


def _row(record: Record) -> Entry:
    origin = Origin(prompt=record.prompt, seed=record.seed, operation_id=record.operation_id)
    return Entry(origin=origin, state=record.state, seconds=record.seconds, file=record.file, error=record.error)


def _require_state(state: str | None, known: Iterable[str], source: str) -> None:
    if state is not None and state not in known:
        raise ConfigurationError(f"state: {state!r} is none that {source} knows: {', '.join(known)}")


def _server_store() -> ModuleType:
    """What reads the stores of servers: a room of its own, entered only here."""
    try:
        from yandexart_grpc.server import store
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"this needs more packages: pip install 'yandexart-grpc[server]' ({error})") from error
    return store
