"""The command line `yandexart`. Needs `yandexart-grpc[cli]`, and says so where that is missing."""

import signal
import sys
from importlib.util import find_spec
from io import TextIOWrapper


def main() -> None:
    """Run the command line, and leave the process with its exit code."""
    if not (find_spec("click") and find_spec("rich")):
        sys.stderr.write("The command line needs two more packages: pip install 'yandexart-grpc[cli]'\n")
        sys.exit(2)
    from yandexart_grpc.cli.app import yandexart

    # Whoever stops us by SIGTERM, such as timeout(1) or systemd, wants to know the operation as much as a person at Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, TextIOWrapper):  # a path may hold letters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    yandexart()
