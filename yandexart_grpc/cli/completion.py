"""`yandexart completion`: what a shell needs to complete our commands."""

import click
from click.shell_completion import get_completion_class

from yandexart_grpc.cli.options import examples
from yandexart_grpc.cli.output import put

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        'eval "$(yandexart completion bash)"',
        "yandexart completion fish > ~/.config/fish/completions/yandexart.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL has to read so that it completes commands, options and their choices.

    Put the first line below into ~/.bashrc, or the same with zsh into ~/.zshrc.
    """
    completing = get_completion_class(shell)
    assert completing is not None  # click has these three
    put(completing(context.find_root().command, {}, "yandexart", "_YANDEXART_COMPLETE").source())
