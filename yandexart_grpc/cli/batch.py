"""`yandexart batch`: from a file of prompts to a folder of images."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Unpack

import click

from yandexart_grpc import InvalidRequest, OperationFailed, OperationTimeout, OutcomeUnknown, YandexArt, YandexArtError
from yandexart_grpc import batch as batches
from yandexart_grpc.batch import Plan, Reading, Summary
from yandexart_grpc.cli.options import (
    DEMO,
    Connection,
    connection_options,
    default,
    demo_option,
    examples,
    json_option,
    metadata_option,
    point_to_demo,
    request_options,
    timeout_option,
    verbose_option,
)
from yandexart_grpc.cli.output import (
    Interrupted,
    OutputError,
    echo,
    echo_json,
    error_fields,
    exit_code,
    fail,
    reporting,
)
from yandexart_grpc.errors import row

GO_ON = "Run the same command again to go on; what is ordered is not ordered again."


@click.command(
    epilog=examples(
        "yandexart batch prompts.csv -o pictures",
        "yandexart batch prompts.csv -o pictures --dry-run",
        r"printf 'a red cat\na blue dog\n' | yandexart batch - -o pictures --demo",
    )
)
@click.argument("source", metavar="FILE", type=click.Path(allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Where the images go, with ledger.db, which knows what was ordered, and manifest.jsonl, which tells it.",
)
@click.option(
    "--ledger",
    metavar="URL",
    help="Share the work with every batch that has this ledger, postgresql://user@host/database, instead of DIR/ledger.db. "
    "Needs the extra [postgres].",
)
@click.option("--fetch", is_flag=True, help="Bring also those images into DIR that others with the same --ledger made.")
@click.option(
    "--in-flight",
    type=int,
    default=default(batches.run, "in_flight"),
    show_default=True,
    metavar="N",
    help="How many images are waited for at a time, up to 1000.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and which rows are wrong. Nothing is sent or written.")
@click.option("--retry-failed", is_flag=True, help="Order again what failed.")
@click.option("--resubmit-unknown", is_flag=True, help="Order again what may have been bought already, and pay for it again.")
@metadata_option
@request_options
@timeout_option
@connection_options
@demo_option
@json_option
@verbose_option
def batch(
    source: str,
    output: Path,
    ledger: str | None,
    fetch: bool,
    in_flight: int,
    dry_run: bool,
    retry_failed: bool,
    resubmit_unknown: bool,
    no_metadata: bool,
    aspect_ratio: str | None,
    seed: int | None,
    model: str,
    folder_id: str | None,
    timeout: float,
    demo: bool,
    as_json: bool,
    **connection: Unpack[Connection],
) -> None:
    """Make an image of each row of FILE. However it ends, the same command goes on with what is missing.

    FILE is .txt with a prompt a line; .jsonl with objects of prompt (a text, or a list of texts and [text, weight]) and, where
    they are wanted, id, seed, aspect_ratio and model; .csv or .tsv with a header that names the same columns; or -, which
    is stdin with a prompt a line. Every row is checked before the first is ordered. Options such as --seed hold for rows that
    say nothing else; a row without a seed gets one that depends on the row alone.

    The ledger in DIR is written before each order. After an interruption, images that are ordered are waited for by the id of
    their operation. An order whose answer was lost is sent again only to a server that knows it by its key; else its outcome
    is unknown, and it is ordered again only with --resubmit-unknown.

    With --ledger, the same command may run on many machines at once, and go on on any of them: each row is ordered by one, and
    those of one that died are finished by others. A row is known by its content, whichever file it stands in. Every DIR has
    the images that were made by its own command. Leave the password to PGPASSWORD or ~/.pgpass.

    \b
    Exit codes, beside those of the error that stopped it:
        0  every image is there
       10  some images are not finished; the next run waits for them again
       11  some images may have been bought, and cannot be fetched
       12  some images failed (and none is unknown)
      130  interrupted by Ctrl-C or SIGTERM
    """
    if demo:
        point_to_demo(connection)
    with reporting(as_json=as_json), _told(as_json=as_json):
        found = batches.check_rows(
            _source(source),
            folder_id="demo" if connection["endpoint"] == DEMO else folder_id,  # what was drawn does not stand for the real thing
            model=model,
            aspect_ratio=aspect_ratio,
            seed=seed,
        )
        again = {"fetch": fetch, "retry_failed": retry_failed, "resubmit_unknown": resubmit_unknown}
        if dry_run:
            plan = batches.plan(found.rows, output, ledger=ledger, in_flight=in_flight, **again)
            _show_plan(plan, found, as_json=as_json)
        rows = found.right()
        if dry_run:
            return
        with YandexArt(folder_id=folder_id, timeout=timeout, **connection) as art, _display() as show:
            summary = batches.run(
                art, rows, output, ledger=ledger, in_flight=in_flight, metadata=not no_metadata, on_change=show, **again
            )
        _leave(summary, output, as_json=as_json)


def _source(source: str) -> Path | BytesIO:
    if source != "-":
        return Path(source)
    stdin = BytesIO(sys.stdin.buffer.read() if sys.stdin else b"")
    stdin.name = "stdin"
    return stdin


@contextmanager
def _told(*, as_json: bool) -> Iterator[None]:
    """Let errors leave as those that the command line knows; for people, each wrong row is a line of its own."""
    try:
        yield
    except batches.FolderError as error:
        raise _not_written(error) from error
    except KeyboardInterrupt:
        interrupted = Interrupted("interrupted")
        interrupted.add_note(GO_ON)
        raise interrupted from None
    except InvalidRequest as error:
        first, *rest = str(error).split("\n")
        if as_json or not rest:
            raise
        listed = InvalidRequest(first)
        for line in rest:
            listed.add_note(line)
        raise listed from error


def _not_written(error: batches.FolderError) -> OutputError:
    told = OutputError(str(error), operation_id=error.operation_id, billed=error.billed)
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told


def _show_plan(plan: Plan, found: Reading, *, as_json: bool) -> None:
    if as_json:
        echo_json(asdict(plan) | {"invalid": found.problems})
        return
    counts = f"{plan.new} new, {plan.waiting} to wait for, {plan.done} done, {plan.failed} failed, {plan.unknown} unknown"
    echo(f"{plan.rows} images: {counts}")
    quota = f"{plan.new} of the {plan.images_per_day} images that a folder may order a day"
    echo(f"about {plan.minutes:.1f} minutes; {quota}{f', so {plan.days} days' if plan.days > 1 else ''}")


def _leave(summary: Summary, output: Path, *, as_json: bool) -> None:
    """Print what became of the rows, and leave with the exit code that says it."""
    stopped = _reason(summary)
    code = exit_code(stopped) if stopped else _code(summary)
    counts = {name: getattr(summary, name) for name in ("rows", "done", "failed", "unknown", "unfinished", "ordered", "seconds")}
    if as_json:
        echo_json({"folder": str(output)} | counts | {"stopped_by": error_fields(stopped) if stopped else None, "exit": code})
    else:
        echo("{}: {done} of {rows} done, {failed} failed, {unknown} unknown, {unfinished} unfinished".format(output, **counts))
    if stopped:
        stopped.add_note(GO_ON)
        fail(stopped, as_json=as_json)
    if not as_json:
        for line in _advice(summary, output):
            echo(line, err=True)
    sys.exit(code)


def _reason(summary: Summary) -> YandexArtError | None:
    match summary.stopped_by:
        case KeyboardInterrupt():
            return Interrupted(f"interrupted; {summary.unfinished} of {summary.rows} images are not finished")
        case batches.FolderError() as error:
            return _not_written(error)
        case error:
            return error


def _code(summary: Summary) -> int:
    for count, kind in (
        (summary.unknown, OutcomeUnknown),
        (summary.failed, OperationFailed),
        (summary.unfinished, OperationTimeout),
    ):
        if count:
            return row(kind).exit
    return 0


def _advice(summary: Summary, output: Path) -> Iterator[str]:
    if summary.unknown:
        yield f"{summary.unknown} may have been bought, and cannot be fetched. --resubmit-unknown orders them again."
    if summary.failed:
        yield f"{summary.failed} failed; {output / 'manifest.jsonl'} says why. --retry-failed orders them again."
    if summary.unfinished:
        yield f"{summary.unfinished} are not finished. {GO_ON}"


@contextmanager
def _display() -> Iterator[Callable[[Summary], None]]:
    """A bar on the terminal, gone at the end. Nothing where stderr is not a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda summary: None
        return
    from rich.console import Console  # slow to import, and needed by nobody else
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        rested: int | None = None

        def show(summary: Summary) -> None:
            nonlocal rested
            ended = summary.rows - summary.unfinished
            rested = ended if rested is None else rested
            bar.update(task, total=summary.rows, completed=ended, description=_pace(summary, ended - rested))

        yield show


def _pace(summary: Summary, ended: int) -> str:
    """How fast it goes, and what went wrong."""
    words = []
    if ended and summary.seconds:
        rate = ended / summary.seconds
        words = [f"{rate * 60:.0f} a minute", f"{timedelta(seconds=round(summary.unfinished / rate))} left"]
    if isinstance(summary.stopped_by, KeyboardInterrupt):
        words.append("waiting for the answers to orders")
    elif summary.stopped_by:
        words.append("stopping")
    return ", ".join([*words, f"{summary.failed} failed", *([f"{summary.unknown} unknown"] if summary.unknown else [])])
