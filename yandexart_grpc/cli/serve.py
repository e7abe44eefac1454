"""`yandexart serve`: the server in the foreground."""

import asyncio
import logging
from typing import Any

import click

from yandexart_grpc import ConfigurationError
from yandexart_grpc.cli.output import echo, reporting


@click.command()
@click.option("--listen", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one.")
@click.option("--backend", default="demo", show_default=True, metavar="NAME", help="Where images come from.")
@click.option(
    "--demo-duration",
    "duration",
    default="fixed:0.5",
    show_default=True,
    metavar="LAW",
    help="How many seconds the demo takes: fixed:S, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA.",
)
@click.option("--tls-cert", metavar="FILE", help="PEM file with the server's certificate. Without one it speaks plaintext.")
@click.option("--tls-key", metavar="FILE", help="PEM file with the key of that certificate.")
@click.option("--allow-anonymous", is_flag=True, help="Listen beyond loopback, where everyone who reaches it may order.")
@click.option(
    "--grace", type=float, default=5.0, show_default=True, metavar="SECONDS", help="What calls in progress get at the end."
)
@click.option("-v", "--verbose", is_flag=True, help="Log the life of each operation, not only what goes wrong.")
def serve(verbose: bool, **settings: Any) -> None:
    """Serve images to clients until SIGTERM or Ctrl-C.

    Prints one line to stdout once it can be reached, which ends with its address; logs go to stderr.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("yandexart_grpc").setLevel(logging.INFO if verbose else logging.WARNING)
    with reporting(as_json=False):
        try:
            from yandexart_grpc import server  # a room of its own, entered only here
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"the server needs more packages: pip install 'yandexart-grpc[server]' ({error})") from error
        asyncio.run(server.serve(server.ServerSettings(**settings), lambda address: echo(f"serving on {address}")))
