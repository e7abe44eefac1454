"""`yandexart quota`: what is left of the quotas that servers keep in their store."""

from dataclasses import asdict
from datetime import UTC, datetime

import click

from yandexart_grpc import ConfigurationError
from yandexart_grpc.cli.options import examples, json_option, verbose_option
from yandexart_grpc.cli.output import echo, echo_json, reporting
from yandexart_grpc.cli.serve import default_store


@click.command(epilog=examples("yandexart quota --store sqlite:///orders.db"))
@click.option(
    "--store",
    default=default_store,
    show_default="yandexart.db in your data folder",
    metavar="URL",
    help="The store of the servers: sqlite:///PATH, or postgresql://USER@HOST/DATABASE (password: PGPASSWORD).",
)
@json_option
@verbose_option
def quota(store: str, as_json: bool) -> None:
    """Tell what each folder may still buy, by the books of the servers on a store.

    They keep books where they were started with --quota. What others buy in the folder is not known here.
    """
    with reporting(as_json=as_json):
        try:
            from yandexart_grpc.server.store import left_of  # a room of its own, entered only here
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"this needs more packages: pip install 'yandexart-grpc[server]' ({error})") from error
        found = left_of(store)
        if as_json:
            echo_json({"folders": [asdict(left) for left in found]})
            return
        for left in found:
            ends = datetime.fromtimestamp(left.ends, UTC)
            minute, day = ("any number" if number is None else number for number in (left.minute, left.day))
            reads = "" if left.read_in is None else f", {left.reads} reads a second, the next in {left.read_in:.2f} s"
            echo(f"{left.folder}: {minute} at once, {day} until {ends:%Y-%m-%d %H:%M} UTC{reads}")
        if not found:
            echo("nothing was bought under a quota")
