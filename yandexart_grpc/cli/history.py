"""`yandexart history`: what was asked for earlier, and what became of it."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from yandexart_grpc.batch.origin import Origin
from yandexart_grpc.cli.options import F, again_command, all_of, examples, json_option, metadata_option, verbose_option
from yandexart_grpc.cli.output import OutputError, echo, echo_json, put, reporting
from yandexart_grpc.cli.past import Entry, LedgerPast, Past, StorePast, find
from yandexart_grpc.cli.serve import default_store
from yandexart_grpc.cli.target import name_of
from yandexart_grpc.image import write_whole

LONGEST = 60
"""Characters of a prompt in a list; --json has all of them."""
STATES = ("accepted", "running", "submitting", "submitted", "done", "failed", "unknown")
"""Those of stores and those of ledgers."""


def source_options(command: F) -> F:
    """The options for where the past is kept."""
    return all_of(
        command,
        click.option(
            "--store",
            envvar="YANDEXART_STORE",
            show_envvar=True,
            default=default_store,
            show_default="yandexart.db in your data folder",
            metavar="URL",
            help="The store of servers: sqlite:///PATH, or postgresql://USER@HOST/DATABASE (password: PGPASSWORD). "
            "They may be running.",
        ),
        click.option(
            "--ledger",
            type=click.Path(),
            metavar="DIR",
            help="Instead of it, the folder or the ledger of a batch, or postgresql://USER@HOST/DATABASE.",
        ),
    )


def selection_options(command: F) -> F:
    """The options for which entries are told."""
    return all_of(
        command,
        click.option(
            "--limit", type=click.IntRange(1), metavar="N", default=20, show_default=True, help="How many, newest first."
        ),
        state_option,
    )


def state_option(command: F) -> F:
    """The option for how far they are."""
    option = click.option(
        "--state",
        type=click.Choice(STATES),
        help="Only those. A store knows accepted, running, done and failed; a ledger submitting, submitted, done, failed and "
        "unknown.",
    )
    return option(command)


@click.group(epilog=examples("yandexart history list --ledger pictures", "yandexart history search cat --ledger pictures"))
def history() -> None:
    """Look up what was asked for earlier, in the store of a server or in the ledger of a batch. Nothing is changed there."""


@history.command(
    "list",
    epilog=examples(
        "yandexart history list --store sqlite:///orders.db",
        "yandexart history list --store postgresql://art@db.internal/art --state failed --json",
        "yandexart history list --ledger pictures --limit 100",
    ),
)
@selection_options
@source_options
@json_option
@verbose_option
def list_(limit: int, state: str | None, store: str, ledger: str | None, as_json: bool) -> None:
    """List the newest operations: when, how far, id, prompt."""
    _list("", limit, state, store, ledger, as_json=as_json)


@history.command(
    epilog=examples(
        "yandexart history search cat --store sqlite:///orders.db",
        'yandexart history search "red cat" --ledger pictures --state done',
    )
)
@click.argument("text")
@selection_options
@source_options
@json_option
@verbose_option
def search(text: str, limit: int, state: str | None, store: str, ledger: str | None, as_json: bool) -> None:
    """List the newest operations with TEXT in the prompt, in any case, or with TEXT as their id."""
    _list(text, limit, state, store, ledger, as_json=as_json)


def _list(text: str, limit: int, state: str | None, store: str, ledger: str | None, *, as_json: bool) -> None:
    with reporting(as_json=as_json):
        found = list(_past(store, ledger).entries(search=text, state=state, limit=limit))
        if as_json:
            echo_json({"operations": [entry.fields() for entry in found]})
            return
        for entry in found:
            prompt = entry.origin.prompt or ""
            shown = prompt if len(prompt) <= LONGEST else f"{prompt[: LONGEST - 1]}…"
            echo(f"{entry.when or '-':<20}  {entry.state:<10}  {entry.origin.operation_id or '-':<20}  {shown}")
        if not found:
            echo("nothing was found", err=True)


@history.command(
    epilog=examples(
        "yandexart history show fbvEXAMPLE --store sqlite:///orders.db",
        "yandexart history show fbvEXAMPLE --store sqlite:///orders.db --json",
    )
)
@click.argument("operation_id", metavar="ID")
@source_options
@json_option
@verbose_option
def show(operation_id: str, store: str, ledger: str | None, as_json: bool) -> None:
    """Tell what is known of operation ID, and the command that makes its picture again."""
    with reporting(as_json=as_json):
        entry = find(_past(store, ledger), operation_id)
        again = again_command(entry.origin)
        if as_json:
            echo_json(entry.fields() | {"again": again})
            return
        for name, value in {**entry.fields(), "again": again}.items():
            if name == "warnings":
                value = "; ".join(entry.warnings)
            if value not in (None, "", False):
                echo(f"{name:<13} {value}")


@history.command(
    epilog=examples(
        "yandexart history export --store sqlite:///orders.db -o orders.csv",
        "yandexart history export --store sqlite:///orders.db --images pictures --state done",
        "yandexart history export --ledger pictures > orders.jsonl",
    )
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="A .csv file with a header, or a .jsonl file with an object a line; - is stdout.  [default: -, without --images]",
)
@click.option("--force", is_flag=True, help="Replace FILE if there is one.")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Save the images into DIR, named by their ids. Those that are there already are left as they are.",
)
@metadata_option
@click.option("--search", "text", default="", metavar="TEXT", help="Only those with TEXT in the prompt, or with that id.")
@state_option
@source_options
@verbose_option
def export(
    output: Path | None,
    force: bool,
    images: Path | None,
    no_metadata: bool,
    text: str,
    state: str | None,
    store: str,
    ledger: str | None,
) -> None:
    """Write all operations, newest first, as JSONL or CSV, or their images into a folder, or both."""
    if output is None and images is None:
        output = Path("-")
    form = output.suffix if output and output != Path("-") else ".jsonl"
    if form not in FORMS:
        raise click.UsageError(f"-o {output}: its extension is none of {', '.join(FORMS)}.")
    with reporting(as_json=False):
        past = _past(store, ledger)
        found = list(past.entries(search=text, state=state, limit=None))
        if output:
            _write(FORMS[form](found), output, force=force)
        if images:
            _save(past, found, images, metadata=not no_metadata)


def _past(store: str, ledger: str | None) -> Past:
    if ledger is None:
        return StorePast(store)
    if click.get_current_context().get_parameter_source("store") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--store and --ledger are two places: give one of them.")
    return LedgerPast(ledger)


def _jsonl(entries: Iterable[Entry]) -> str:
    return "".join(f"{json.dumps(entry.fields())}\n" for entry in entries)


def _csv(entries: Iterable[Entry]) -> str:
    file = io.StringIO()
    rows = csv.writer(file)
    rows.writerow(Entry(origin=Origin(), state="").fields())
    rows.writerows((entry.fields() | {"warnings": "; ".join(entry.warnings)}).values() for entry in entries)
    return file.getvalue()


FORMS: dict[str, Callable[[Iterable[Entry]], str]] = {".jsonl": _jsonl, ".csv": _csv}
"""What is written into a file with that extension."""


def _write(text: str, output: Path, *, force: bool) -> None:
    if output == Path("-"):
        put(text)
        return
    try:
        with output.open("w" if force else "x", encoding="utf-8", newline="") as file:
            file.write(text)
    except FileExistsError:
        raise OutputError(f"{output}: it exists already; --force replaces it") from None
    except OSError as error:
        raise OutputError(f"{output}: {error.strerror}") from error


def _save(past: Past, entries: Sequence[Entry], folder: Path, *, metadata: bool) -> None:
    saved = there = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for operation_id, data in past.images(entries, metadata=metadata):
            file = folder / name_of(operation_id)
            if file.exists():
                there += 1
                continue
            write_whole(file, data)
            saved += 1
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}") from error
    done = sum(entry.state == "done" for entry in entries)
    echo(f"{folder}: of {done} images, {saved} were saved, and {there} were there already", err=True)
