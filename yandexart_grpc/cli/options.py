"""The options that several commands share. Each has the name of the client's argument, and its default from there."""

import inspect
import shlex
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click
from click.core import ParameterSource

from yandexart_grpc import YandexArt, again
from yandexart_grpc.batch.origin import Origin
from yandexart_grpc.cli import logs
from yandexart_grpc.cli.output import VERBOSE
from yandexart_grpc.request import DEFAULT_MODEL

F = TypeVar("F", bound=Callable[..., object])

DEMO = "demo://"
"""The endpoint whose pictures cost nothing."""


class Connection(TypedDict):
    """Where operations are and how they are called: arguments of `YandexArt`."""

    endpoint: str | None
    operation_endpoint: str | None
    iam_endpoint: str | None
    discovery: str | None
    root_certificates: str | None
    rpc_timeout: float
    max_message_bytes: int
    store: str | None
    client_certificate: str | None
    client_key: str | None
    proxy: bool
    allow_plaintext: bool


def default(callable_: Callable[..., object], argument: str) -> Any:
    """What the client takes where nothing is given."""
    return inspect.signature(callable_).parameters[argument].default


def connection_options(command: F) -> F:
    """The options of `Connection`."""
    return all_of(
        command,
        click.option(
            "--endpoint",
            envvar="YANDEXART_ENDPOINT",
            show_envvar=True,
            metavar="URL",
            help="https://host:port, host:port (TLS), http://host:port, dns:///name:port, demo:// or images:// (the Images API "
            "of Yandex Cloud). Without one, or as ru or kz, the asynchronous API of Yandex Cloud.",
        ),
        click.option("--operation-endpoint", metavar="URL", help="Where operations are read, if that is another place."),
        click.option("--iam-endpoint", metavar="URL", help="Where keys are exchanged for tokens, if not at Yandex."),
        click.option("--discovery", metavar="URL", help="Who is asked for all these addresses instead."),
        click.option("--root-certificates", metavar="FILE", help="PEM file with the authority of the server."),
        click.option(
            "--rpc-timeout",
            type=float,
            default=default(YandexArt, "rpc_timeout"),
            show_default=True,
            metavar="SECONDS",
            help="How long one call may take.",
        ),
        click.option(
            "--max-message-bytes",
            type=int,
            default=default(YandexArt, "max_message_bytes"),
            show_default=True,
            metavar="N",
            help="The largest answer that is received.",
        ),
        click.option(
            "--store",
            envvar="YANDEXART_STORE",
            show_envvar=True,
            metavar="URL",
            help="Where demo:// and images:// keep operations: sqlite:///PATH. They end with the command where none is given.",
        ),
        click.option("--client-certificate", metavar="FILE", help="PEM file with what this client shows who it is with."),
        click.option("--client-key", metavar="FILE", help="PEM file with the key of that certificate."),
        click.option("--no-proxy", "proxy", flag_value=False, default=True, help="Use no proxy, whatever the environment says."),
        click.option("--allow-plaintext", is_flag=True, help="Let the credential go over http:// beyond this machine."),
    )


def image_options(command: F) -> F:
    """The options of a command that waits for an image and saves it."""
    return all_of(
        command,
        click.option(
            "-o",
            "--output",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Where to save the image; .jpeg is added to a name without extension.  [default: yandexart-<operation id>.jpeg]",
        ),
        click.option("--force", is_flag=True, help="Replace FILE if there is one."),
        timeout_option,
    )


def request_options(command: F) -> F:
    """The options of a command that orders images."""
    return all_of(
        command,
        click.option("--aspect-ratio", metavar="W:H", help="Width to height, such as 16:9.  [default: 1:1]"),
        click.option("--seed", type=int, metavar="N", help="Equal seeds give equal images.  [default: random]"),
        click.option(
            "--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help="A name in the folder, or an art:// URI."
        ),
        folder_option,
    )


def folder_option(command: F) -> F:
    """The option for the folder."""
    return click.option("--folder-id", envvar="YC_FOLDER_ID", show_envvar=True, metavar="ID", help="The folder that pays.")(
        command
    )


def timeout_option(command: F) -> F:
    """The option for how long one image is waited for."""
    option = click.option(
        "--timeout",
        type=float,
        default=default(YandexArt, "timeout"),
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an image. The operation goes on after that.",
    )
    return option(command)


def demo_option(command: F) -> F:
    """The option for the endpoint that needs no account."""
    return click.option("--demo", is_flag=True, help=f"Short for --endpoint {DEMO}: no account is needed.")(command)


def point_to_demo(connection: Connection) -> None:
    """What --demo does. It goes with no other endpoint."""
    context = click.get_current_context()
    for name in "endpoint", "operation_endpoint", "discovery":
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--demo is short for --endpoint {DEMO} and goes with no other endpoint.")
    connection["endpoint"] = DEMO


def metadata_option(command: F) -> F:
    """The option for what is added to an image."""
    option = click.option(
        "--no-metadata",
        is_flag=True,
        help="Leave the comment with prompt, seed, model, aspect ratio and operation id out of the images.",
    )
    return option(command)


def present_options(command: F) -> F:
    """The options of a command that shows what it saved."""
    return all_of(
        command,
        click.option("--show", is_flag=True, help="Show the image in the terminal too, if stdout is one."),
        click.option("--open", "open_it", is_flag=True, help="Open the saved file with what opens images on this machine."),
    )


def require_no_json() -> None:
    """Refuse --show together with --json: both are for stdout."""
    if click.get_current_context().params["as_json"]:
        raise click.UsageError("--show draws on the terminal, and --json talks to a program: give one of them.")


def json_option(command: F) -> F:
    """The option to talk to programs."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object: to stdout, or an error to stderr.")
    return option(command)


def verbose_option(command: F) -> F:
    """The option to be told more. Only what prints errors looks at it: it is no argument of the command."""
    option = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_be_verbose,
        help="Print all that is known of an error, and log to stderr what is done.",
    )
    return option(command)


def _be_verbose(context: click.Context, _: click.Parameter, verbose: bool) -> None:
    context.meta[VERBOSE] = verbose
    if verbose:
        logs.set_up("text", verbose=True)


def examples(*lines: str) -> str:
    """The end of a command's help. The tests run each line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])  # \b: keep the lines


CARRIED = frozenset(Connection.__annotations__) | {"output", "force", "as_json"}
"""What a command that picks an operation up takes over from the one that was left."""


def pick_up_command(operation_id: str, output: Path | None) -> str:
    """The command that picks an operation up and saves its image as `output`, with those options of the running command that it
    needs to do the same.
    """
    words = ["yandexart", "operation", "wait", operation_id]
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in CARRIED and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT:
            value = output if option.name == "output" else context.params[option.name]
            words += option.opts[:1] if isinstance(value, bool) else [option.opts[0], str(value)]
    if context.params.get("demo"):
        words += ["--endpoint", DEMO]
    return shlex.join(words)


def again_command(origin: Origin) -> str | None:
    """The command that asks for the same picture again, by what is known of it; None where that is too little, or more than a
    command can say. Address and credential are left to the environment.
    """
    if origin.prompt is None or origin.seed is None or origin.weighted:
        return None
    demo = (origin.model or "").startswith("art://demo/")  # the folder that stands for none
    return again.command(origin.prompt, seed=origin.seed, model=origin.model, aspect_ratio=origin.aspect_ratio, demo=demo or None)


def all_of(command: F, *options: Callable[[F], F]) -> F:
    """The command with these options, in this order."""
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)
