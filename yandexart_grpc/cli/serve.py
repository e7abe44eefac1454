"""`yandexart serve`: the server in the foreground."""

import asyncio
import re
from typing import TYPE_CHECKING, Any

import click
import platformdirs

from yandexart_grpc import ConfigurationError
from yandexart_grpc.cli import logs
from yandexart_grpc.cli.options import examples, verbose_option
from yandexart_grpc.cli.output import echo, is_verbose, reporting

if TYPE_CHECKING:
    from yandexart_grpc.server import Embedded

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def span(text: str) -> float:
    """The seconds of a span of time, such as 90, 90s, 30m, 12h or 3d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found:
        raise click.BadParameter(f"{text!r} is neither a number of seconds nor a number with one of the units s, m, h, d")
    return float(found[1]) * UNITS[found[2] or "s"]


def default_store() -> str:
    """Where operations are kept when nobody says where: a file among the user's data."""
    return f"sqlite:///{platformdirs.user_data_path('yandexart') / 'yandexart.db'}"


@click.command(
    epilog=examples(
        "yandexart serve",
        "yandexart serve --http 127.0.0.1:8080 --store sqlite:///orders.db --verbose",
        "yandexart serve --store postgresql://art@db.internal/art --upstream-credentials server --backend images",
    )
)
@click.option("--listen", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one.")
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Show the page there, and speak REST and OpenAI's Images API, for example on 127.0.0.1:8080.",
)
@click.option(
    "--backend",
    default="demo",
    show_default=True,
    metavar="NAME",
    help="Where images come from: demo draws them, images asks the Images API, cloud the gRPC service.",
)
@click.option(
    "--demo-duration",
    "duration",
    default="fixed:0.5",
    show_default=True,
    metavar="LAW",
    help="How many seconds the demo takes: fixed:S, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA.",
)
@click.option("--upstream", metavar="URL", help="Where the images or cloud backend orders. Yandex Cloud where none is given.")
@click.option(
    "--upstream-credentials",
    type=click.Choice(["caller", "server"]),
    default="caller",
    show_default=True,
    help="Who pays there: each caller, or the server with YC_API_KEY or YC_IAM_TOKEN.",
)
@click.option(
    "--upstream-timeout",
    type=span,
    default="10m",
    show_default=True,
    metavar="SPAN",
    help="How long the cloud backend waits for an order that was accepted.",
)
@click.option(
    "--model-map",
    multiple=True,
    metavar="OLD=NEW",
    help="The model to ask there instead of another; may be repeated.  [at the end: yandex-art*=aliceai-image-art-3.0]",
)
@click.option(
    "--on-unsupported",
    type=click.Choice(["warn", "refuse"]),
    default="warn",
    show_default=True,
    help="What becomes of seeds and weights, which the Images API does not take. Our clients always send a seed.",
)
@click.option("--tls-cert", metavar="FILE", help="PEM file with the server's certificate. Without one it speaks plaintext.")
@click.option("--tls-key", metavar="FILE", help="PEM file with the key of that certificate.")
@click.option("--client-ca", metavar="FILE", help="PEM file with the authority whose certificates clients must show (mTLS).")
@click.option("--key-file", metavar="FILE", help="API keys that callers must show: NAME KEY [FOLDER], a line each.")
@click.option("--allow-anonymous", is_flag=True, help="Listen beyond loopback, where everyone who reaches it may order.")
@click.option("--allow-plaintext", is_flag=True, help="Take keys without TLS beyond loopback, as behind a proxy that speaks it.")
@click.option(
    "--store",
    default=default_store,
    show_default="yandexart.db in your data folder",
    metavar="URL",
    help="Where operations are kept: sqlite:///PATH (sqlite:////PATH from the root), sqlite:// until the server ends, or for many"
    " servers postgresql://USER@HOST/DATABASE (password: PGPASSWORD).",
)
@click.option(
    "--role",
    type=click.Choice(["serve", "work", "both"]),
    default="both",
    show_default=True,
    help="On PostgreSQL: take orders and answer for them, work on them, or both.",
)
@click.option("--keep", type=span, default="3d", show_default=True, metavar="SPAN", help="How long finished operations are kept.")
@click.option(
    "--unknown",
    type=click.Choice(["fail", "resend"]),
    default="fail",
    show_default=True,
    help="What becomes of a picture that may have been bought before a crash: an error, or another order.",
)
@click.option("--concurrency", type=int, default=1_000, show_default=True, metavar="N", help="Operations worked on at a time.")
@click.option("--queue", type=int, default=10_000, show_default=True, metavar="N", help="Operations that may wait for that.")
@click.option(
    "--quota",
    metavar="LIMITS",
    help="What a folder may buy of all servers on the store together, and how many reads a second the cloud backend may make:"
    " minute=500,day=5000,reads=50.",
)
@click.option(
    "--in-flight-per-caller", type=int, default=10_000, show_default=True, metavar="N", help="Unfinished operations of a caller."
)
@click.option("--requests-per-second", type=float, metavar="N", help="Requests of a caller.  [default: any number]")
@click.option("--held-reads", type=int, default=20_000, show_default=True, metavar="N", help="Reads that wait at a time.")
@click.option("--held-reads-per-caller", type=int, default=10_000, show_default=True, metavar="N", help="The same, of a caller.")
@click.option(
    "--max-request-bytes", type=int, default=2**20, show_default=True, metavar="N", help="The largest request that is taken."
)
@click.option(
    "--grace", type=span, default="25s", show_default=True, metavar="SPAN", help="What work in progress gets at the end."
)
@click.option("--metrics", is_flag=True, help="Serve figures for Prometheus at /metrics of the --http address.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How logs are written. JSON has the life of each operation, a line for each state.",
)
@verbose_option
def serve(log_format: str, **settings: Any) -> None:
    """Serve images to clients until SIGTERM or Ctrl-C.

    What was accepted is kept in the store, and taken up again by the next server on the same store. Spans are seconds, or a
    number with a unit: 90s, 30m, 12h, 3d. SIGHUP reads the key file again.

    Prints one line to stdout once it can be reached, which ends with its address, and one more with --http; logs go to stderr.
    """
    logs.set_up(log_format, verbose=is_verbose())
    with reporting(as_json=False):
        try:
            from yandexart_grpc import server  # a room of its own, entered only here
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"the server needs more packages: pip install 'yandexart-grpc[server]' ({error})") from error
        asyncio.run(server.serve(server.ServerSettings(**settings), _tell))


def _tell(server: "Embedded") -> None:
    echo(f"serving on {server.endpoint}")
    if server.http:
        echo(f"serving on {server.http} (HTTP)")
