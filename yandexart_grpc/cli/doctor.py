"""`yandexart doctor`: what is set, where that came from, and which step on the way to a picture fails."""

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple, Unpack

import click
from click.core import ParameterSource

from yandexart_grpc import YandexArt, YandexArtError, auth
from yandexart_grpc.address import TRUSTED_HOST
from yandexart_grpc.cli.checks import Check, Pair, checks
from yandexart_grpc.cli.options import Connection, connection_options, examples, folder_option, json_option, verbose_option
from yandexart_grpc.cli.output import echo, echo_json, error_fields, exit_code, reporting


class Setting(NamedTuple):
    """One setting, without what is secret in it."""

    name: str
    value: object
    origin: str
    """The option, the variable, or that nobody said anything."""


@click.command(epilog=examples("yandexart doctor", "yandexart doctor --endpoint demo:// --json"))
@folder_option
@connection_options
@json_option
@verbose_option
def doctor(folder_id: str | None, as_json: bool, **connection: Unpack[Connection]) -> None:
    """Tell what is set and by whom, try each step up to an order, and say what to mend.

    Nothing is ordered and nothing is bought. The exit code is that of the error that the first failed step means.
    """
    shown = [*_settings(), *_variables()]
    with reporting(as_json=as_json):
        if not as_json:
            for setting in shown:
                echo(f"{setting.name:<20} {'-' if setting.value is None else setting.value}  [{setting.origin}]")
        tried = []
        for check in _tried(folder_id, connection):
            tried.append(check)
            if not as_json:
                echo(f"{'FAILED' if check.error else 'ok':<6} {check.step:<12} {f'{check.where} {check.says}'.strip()}")
        error = tried[-1].error
        if as_json:
            echo_json(
                {
                    "settings": [setting._asdict() for setting in shown],
                    "steps": [{"step": c.step, "where": c.where, "ok": c.error is None, "says": c.says} for c in tried],
                    "error": error_fields(error) if error else None,
                }
            )
    sys.exit(exit_code(error) if error else 0)


def _tried(folder_id: str | None, connection: Connection) -> Iterator[Check]:
    try:
        art = YandexArt(folder_id=folder_id, **connection)
    except YandexArtError as error:
        yield Check("settings", "", str(error), error)
        return
    with art:
        places = f"orders go to {art._settings.endpoint}, questions to {art._settings.operation_endpoint}"
        if asked := art._settings.discovery:
            places = f"{asked} is asked for the addresses"
        if used := art._settings.credential or art._settings.source:
            places += f"; the credential is {used!r}, of {auth.origin(used)}"
        yield Check("settings", "", f"are in order: {places}")
        yield from checks(art, Pair(connection["client_certificate"], connection["client_key"]))


def _settings() -> Iterator[Setting]:
    """What the options say, or the variables that stand for them."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name not in context.params or name == "as_json":
            continue
        match context.get_parameter_source(name):
            case ParameterSource.COMMANDLINE:
                origin = option.opts[0]
            case ParameterSource.ENVIRONMENT:
                origin = str(option.envvar)
            case _:
                origin = "default"
        yield Setting(name, context.params[name], origin)


def _variables() -> Iterator[Setting]:
    """What the environment alone says."""
    found = [name for name in (*auth.VARIABLES, auth.CHANGING) if os.environ.get(name)]
    yield Setting("credentials", "set" if found else None, ", ".join(found) or "default")
    trusted = os.environ.get(TRUSTED_HOST)
    yield Setting("trusted_host", trusted, TRUSTED_HOST if trusted else "default")
