"""What a user calls: `run`, and `plan` for what it would do."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from yandexart_grpc.batch.folder import clean, make
from yandexart_grpc.batch.ledger import NAME, Books, Ledger, Record, look
from yandexart_grpc.batch.rows import Row
from yandexart_grpc.batch.settle import Again, Plan, estimate
from yandexart_grpc.batch.work import Summary, Work
from yandexart_grpc.client import YandexArt
from yandexart_grpc.errors import ConfigurationError, InvalidRequest
from yandexart_grpc.request import require_positive
from yandexart_grpc.settings import Timeout

IN_FLIGHT = 16
MOST_IN_FLIGHT = 1000
"""With more, the last would wait for minutes until it is their turn to be submitted."""


def run(
    art: YandexArt,
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    ledger: str | None = None,
    fetch: bool = False,
    in_flight: int = IN_FLIGHT,
    timeout: Timeout = ...,
    retry_failed: bool = False,
    resubmit_unknown: bool = False,
    metadata: bool = True,
    on_change: Callable[[Summary], object] | None = None,
) -> Summary:
    """Make an image of each row in the folder, and return what became of them. Run again, it does only what is missing.

    `in_flight` images, up to 1000, are waited for at a time, each for `timeout` seconds as in `YandexArt.generate`. Rows that
    failed are ordered again with `retry_failed`, and rows that may have been bought with `resubmit_unknown`; nothing else is
    ever ordered twice. `metadata` puts prompt, seed, model and operation id into each JPEG as a comment. `on_change` is
    called with the summary, the same object each time, whenever it has changed.

    `ledger`, `postgresql://user@host/database`, is where it is kept what was ordered, instead of in the folder (extra
    `[postgres]`). All batches with that ledger, on any machines, share the work: a row is known by its content, each is ordered
    by one of them, and a row of one that died is finished by another. Each has a folder of its own with the images that it
    made; with `fetch` also with those of its rows that others made. A batch ends when all its rows have. When the connection is
    lost, `stopped_by` is a `FolderError`, and another run goes on.

    The first SIGINT or SIGTERM ends the ordering and waits only for the answers to orders that are on their way, if this is
    the main thread; the second does what it always does. How it ended then says `stopped_by`, as when an error concerns all
    rows: after an error, images that are ordered are waited for.

    Raises `InvalidRequest` for wrong arguments, `ConfigurationError` when another batch is at work in the folder, when it waits
    for operations of another server or when the ledger cannot be reached, and `FolderError` when the folder cannot be used.
    """
    _require_sound(rows, in_flight)
    art._settings.span(timeout)
    folder = Path(folder)
    make(folder)
    summary, again = Summary(rows=len(rows)), Again(failed=retry_failed, unknown=resubmit_unknown)
    with _books(folder, rows, ledger) as books:
        clean(folder)
        work = Work(
            art,
            folder,
            books,
            summary,
            again=again,
            fetch=fetch or ledger is None,
            timeout=timeout,
            metadata=metadata,
            on_change=on_change,
        )
        work.run(rows, in_flight)
    return summary


def plan(
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    ledger: str | None = None,
    fetch: bool = False,
    in_flight: int = IN_FLIGHT,
    retry_failed: bool = False,
    resubmit_unknown: bool = False,
) -> Plan:
    """What `run` would do. Nothing is sent, and no folder is made.

    Raises `InvalidRequest`, `ConfigurationError` and `FolderError` as `run` does.
    """
    _require_sound(rows, in_flight)
    folder = Path(folder)
    known = dict[str, Record]()
    if (folder / NAME).exists():
        with Ledger(folder) as own:
            known = own.records()
    if ledger is not None:
        _require_empty(folder, known)
        known = _shared().look(ledger, [row.key for row in rows])
    files = folder if fetch or ledger is None else None
    return estimate(rows, known, files, in_flight, Again(failed=retry_failed, unknown=resubmit_unknown))


def records(ledger: str | os.PathLike[str]) -> list[Record]:
    """What a ledger knows of its rows, where nothing is changed; those of a folder, which it may name instead, oldest first.

    Raises `ConfigurationError` when there is none, when a batch is at work in its folder, or when it cannot be reached, and
    `FolderError` when it cannot be read.
    """
    if isinstance(ledger, str) and ledger.startswith("postgres"):
        return list(_shared().look(ledger).values())
    path = Path(ledger)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise ConfigurationError(f"ledger: {path} is no file")
    return list(look(path).values())


@contextmanager
def _books(folder: Path, rows: Iterable[Row], url: str | None) -> Iterator[Books]:
    """The ledger at that URL, or that of the folder, which in any case keeps other batches out of it."""
    with Ledger(folder) as own:
        if url is None:
            yield own
            return
        _require_empty(folder, own.records())
        with _shared().SharedLedger(url, [row.key for row in rows]) as shared:
            yield shared


def _require_empty(folder: Path, known: dict[str, Record]) -> None:
    if known:
        raise ConfigurationError(
            f"ledger: {folder / NAME} knows of {len(known)} rows, which another ledger would buy again; take another folder"
        )


def _shared() -> ModuleType:
    """What knows PostgreSQL, loaded when it is needed."""
    try:
        from yandexart_grpc.batch import shared
    except ImportError as error:
        raise ConfigurationError(
            f"ledger: PostgreSQL needs more packages: pip install 'yandexart-grpc[postgres]' ({error})"
        ) from error
    return shared


def _require_sound(rows: Sequence[Row], in_flight: int) -> None:
    require_positive("in_flight", in_flight)
    if in_flight > MOST_IN_FLIGHT:
        raise InvalidRequest(f"in_flight: {in_flight} is more than {MOST_IN_FLIGHT}")
    if len({row.key for row in rows}) < len(rows):
        raise InvalidRequest("rows: two have the same key, and one image would be bought twice")
