"""How far a command is that waits for an image: shown on a terminal meanwhile, and told when something goes wrong."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from yandexart_grpc import (
    ContentRefused,
    InvalidRequest,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OutcomeUnknown,
    YandexArtError,
)
from yandexart_grpc.address import EMBEDDED
from yandexart_grpc.cli.options import DEMO, Connection, pick_up_command
from yandexart_grpc.cli.output import Interrupted, OutputError, printable
from yandexart_grpc.errors import Billed

ENDED = (ContentRefused, InvalidRequest, NotFound, OperationCancelled, OperationFailed, OutcomeUnknown)
"""After these there is nothing left to wait for."""


class Progress:
    """What is known so far about one image."""

    def __init__(self, show: Callable[[str], None], connection: Connection, output: Path | None) -> None:
        """`show` takes the state for people, `output` is where the image is to go."""
        self._show = show
        self._free = connection["endpoint"] == DEMO
        self._lasting = not (connection["endpoint"] or "").startswith(EMBEDDED) or bool(connection["store"])
        self._output = output
        self._operation_id: str | None = None
        self._billed: Billed = "no"

    def submitting(self) -> None:
        """From now on the image may be bought."""
        self._billed = "no" if self._free else "unknown"
        self._show("submitting")

    def waiting(self, operation_id: str) -> None:
        """The image is ordered."""
        self._billed = "no" if self._free else "yes"
        self._operation_id = operation_id
        self._show(f"waiting for operation {operation_id}")

    def saving(self) -> None:
        """The image is here."""
        self._show("saving")

    def interrupted(self) -> Interrupted:
        """The error for Ctrl-C."""
        if self._operation_id:
            text = f"interrupted while waiting for operation {self._operation_id}"
            return Interrupted(text, operation_id=self._operation_id, billed=self._billed)
        if self._billed == "unknown":
            text = "interrupted while submitting: the picture may have been bought, and the id of its operation is not known"
            return Interrupted(text, billed="unknown")
        return Interrupted("interrupted")

    def not_saved(self, error: OSError) -> OutputError:
        """The error for a file that cannot be written."""
        text = f"cannot save the image as {error.filename}: {error.strerror}"
        return OutputError(text, operation_id=self._operation_id, billed=self._billed)

    def advise(self, error: YandexArtError) -> YandexArtError:
        """Add a note to the error on what a person can do about it, and return it."""
        if step := self._next_step(error):
            error.add_note(step)
        return error

    def _next_step(self, error: YandexArtError) -> str | None:
        if self._operation_id is None:
            return "Running the command again may pay for a second picture." if error.resend == "unsafe" else None
        if isinstance(error, ENDED):
            return None
        if not self._lasting:
            server = "demo" if self._free else "images"
            return f"It cannot be picked up: the {server} server ended with this command, and its operations with it."
        return f"Pick it up with: {pick_up_command(self._operation_id, self._output)}"


@contextmanager
def progress(connection: Connection, output: Path | None) -> Iterator[Progress]:
    """Follow one image. Errors leave as `YandexArtError` with a note on what to do next."""
    with display() as show:
        so_far = Progress(show, connection, output)
        try:
            yield so_far
        except YandexArtError as error:  # stands first because a time-out is an OSError too
            so_far.advise(error)
            raise
        except OSError as error:
            raise so_far.advise(so_far.not_saved(error)) from error
        except KeyboardInterrupt:
            raise so_far.advise(so_far.interrupted()) from None


@contextmanager
def display() -> Iterator[Callable[[str], None]]:
    """A line on the terminal with the time and the state, gone at the end. Nothing where stderr is not a terminal."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda state: None
        return
    from rich.console import Console  # slow to import, and needed by nobody else
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting")
        yield lambda state: bar.update(task, description=printable(state))
