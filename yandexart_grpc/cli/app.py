"""The command `yandexart` itself: its subcommands, and what its help tells about exit codes."""

import inspect
import re

import click

from yandexart_grpc import __version__
from yandexart_grpc.cli.batch import batch
from yandexart_grpc.cli.completion import completion
from yandexart_grpc.cli.doctor import doctor
from yandexart_grpc.cli.generate import generate
from yandexart_grpc.cli.history import history
from yandexart_grpc.cli.operation import operation
from yandexart_grpc.cli.options import examples
from yandexart_grpc.cli.output import INTERRUPTED, NOT_SAVED
from yandexart_grpc.cli.quota import quota
from yandexart_grpc.cli.serve import serve
from yandexart_grpc.cli.sheet import sheet
from yandexart_grpc.errors import TABLE, YandexArtError, row


def exit_codes() -> str:
    """The exit codes as a text for the help, taken from the table of errors and their docstrings."""
    meanings = [
        (0, "success"),
        (NOT_SAVED, "the image or the answer could not be written"),
        (2, "the command line is wrong"),
        *((row(error).exit, _meaning(error)) for error in dict.fromkeys(entry.error for entry in TABLE)),
        (INTERRUPTED, "interrupted by Ctrl-C or SIGTERM"),
    ]
    return "\n".join(["\b", "Exit codes:", *(f"{code:>5}  {meaning}" for code, meaning in meanings)])  # \b: keep the lines


def _meaning(error: type[YandexArtError]) -> str:
    return f"{error.__name__}: {re.split('[.;]', inspect.getdoc(error) or '')[0]}"


EXAMPLES = examples(
    'yandexart generate "a red cat" --demo --show',
    "yandexart batch prompts.csv -o pictures",
    "yandexart sheet pictures",
    "yandexart history list --ledger pictures",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=f"{exit_codes()}\n\n{EXAMPLES}")
@click.version_option(__version__)
def yandexart() -> None:
    """Images from words, over Yandex Cloud's gRPC contract.

    The credential comes from the environment only (YC_API_KEY, YC_SERVICE_ACCOUNT_KEY_FILE, ...), because other users of the
    machine can read a command line. No account is needed for `yandexart generate --demo`, nor to call a server of your own
    started by `yandexart serve`.
    """


yandexart.add_command(batch)
yandexart.add_command(completion)
yandexart.add_command(doctor)
yandexart.add_command(generate)
yandexart.add_command(history)
yandexart.add_command(operation)
yandexart.add_command(quota)
yandexart.add_command(serve)
yandexart.add_command(sheet)
