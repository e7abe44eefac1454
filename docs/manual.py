"""Write the manual of the command line, cli.md beside this script, from the commands themselves.

.venv/bin/python docs/manual.py            write it
.venv/bin/python docs/manual.py --check    only compare; exit 1 where it is not what the code says
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from yandexart_grpc.cli.app import exit_codes, yandexart
from yandexart_grpc.cli.options import Connection

PAGE = Path(__file__).with_name("cli.md")


def manual() -> str:
    """The whole page."""
    parts = [
        "# The command line",
        "Written by `make manual` from the code; the tests see that it is up to date, and run every example. "
        "`pip install '.[cli]'` brings the commands, `.[server]` what `--demo`, `serve`, `quota` and `history` need beside them.",
        *_paragraphs(yandexart.help),
    ]
    for name, command in commands(yandexart):
        parts += [f"## {name}", _block([_usage(name, command)]), *_paragraphs(command.help), _options(command)]
        parts += _paragraphs(command.epilog)
    parts += [
        "## Connections",
        "Options of all commands that call a server:",
        _listed(*connections(yandexart.commands["doctor"])),
    ]
    parts += ["## Exit codes", *list(_paragraphs(exit_codes()))[1:]]
    return "\n\n".join(filter(None, parts)) + "\n"


def commands(group: click.Group, path: str = "yandexart") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _usage(name: str, command: click.Command) -> str:
    arguments = [str(one.metavar or one.name).upper() for one in command.params if isinstance(one, click.Argument)]
    return " ".join([name, "[OPTIONS]", *arguments])


def _paragraphs(text: str | None) -> Iterator[str]:
    """The paragraphs of a help text; those whose lines are to be kept, which click marks by \\b, as blocks below their first."""
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        first, *lines = paragraph.strip().splitlines()
        if first == "\b":
            yield from (lines[0], _block(textwrap.dedent("\n".join(lines[1:])).splitlines()))
        else:
            yield _escaped(" ".join([first, *map(str.strip, lines)]))


def _options(command: click.Command) -> str:
    found = [one for one in command.params if isinstance(one, click.Option)]
    called = connections(command)
    listed = _listed(*(one for one in found if one not in called))
    return f"{listed}\n* and those of [connections](#connections)" if called else listed


def connections(command: click.Command) -> list[click.Option]:
    """The options of `Connection` that a command has, if it calls a server."""
    found = [one for one in command.params if isinstance(one, click.Option) and one.name in Connection.__annotations__]
    return found if len(found) == len(Connection.__annotations__) else []


def _listed(*options: click.Option) -> str:
    return "\n".join(f"* `{', '.join(one.opts)}{_value(one)}`: {_escaped(one.help or '')}{_extra(one)}" for one in options)


def _value(option: click.Option) -> str:
    """What an option takes."""
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return f" {'|'.join(option.type.choices)}"
    return f" {option.metavar or option.type.name.upper()}"


def _extra(option: click.Option) -> str:
    """Its default and its variable, where it has them."""
    default = option.show_default if isinstance(option.show_default, str) else option.default
    default = f"{default:g}" if isinstance(default, float) else default
    said = [f"Default: {_escaped(str(default))}."] if option.show_default else []
    said += [f"Variable: `{option.envvar}`."] if option.envvar else []
    return "".join(f" {sentence}" for sentence in said)


def _block(lines: Iterator[str] | list[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def _escaped(text: str) -> str:
    """The text for Markdown."""
    return "".join(f"\\{letter}" if letter in "<*_" else letter for letter in text)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text() != manual():
            sys.exit(f"{PAGE.name} is not what the code says: run make manual")
    else:
        PAGE.write_text(manual())
