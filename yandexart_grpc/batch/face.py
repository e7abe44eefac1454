"""What a user calls: `run`, and `plan` for what it would do."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from yandexart_grpc.batch.folder import clean, make
from yandexart_grpc.batch.ledger import NAME, Ledger, Record
from yandexart_grpc.batch.rows import Row
from yandexart_grpc.batch.settle import Again, Plan, estimate
from yandexart_grpc.batch.work import Summary, Work
from yandexart_grpc.client import YandexArt
from yandexart_grpc.errors import InvalidRequest
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

    The first SIGINT or SIGTERM ends the ordering and waits only for the answers to orders that are on their way, if this is
    the main thread; the second does what it always does. How it ended then says `stopped_by`, as when an error concerns all
    rows: after an error, images that are ordered are waited for.

    Raises `InvalidRequest` for wrong arguments, `ConfigurationError` when another batch is at work in the folder or when it
    waits for operations of another server, and `FolderError` when the folder cannot be used.
    """
    _require_sound(rows, in_flight)
    art._settings.span(timeout)
    folder = Path(folder)
    make(folder)
    with Ledger(folder) as ledger:
        clean(folder)
        summary = Summary(rows=len(rows))
        work = Work(art, folder, ledger, summary, timeout=timeout, metadata=metadata, on_change=on_change)
        work.run(rows, in_flight, Again(failed=retry_failed, unknown=resubmit_unknown))
    return summary


def plan(
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
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
        with Ledger(folder) as ledger:
            known = ledger.records()
    return estimate(rows, known, folder, in_flight, Again(failed=retry_failed, unknown=resubmit_unknown))


def _require_sound(rows: Sequence[Row], in_flight: int) -> None:
    require_positive("in_flight", in_flight)
    if in_flight > MOST_IN_FLIGHT:
        raise InvalidRequest(f"in_flight: {in_flight} is more than {MOST_IN_FLIGHT}")
    if len({row.key for row in rows}) < len(rows):
        raise InvalidRequest("rows: two have the same key, and one image would be bought twice")
