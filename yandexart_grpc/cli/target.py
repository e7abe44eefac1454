"""The file an image goes to. What can be found wrong with it is found before the image is paid for."""

import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EEXIST
from pathlib import Path

from yandexart_grpc import Image


@dataclass(frozen=True, slots=True)
class Target:
    """Where to save an image."""

    output: Path | None
    """None makes a name from the id of the operation."""
    force: bool
    """Whether to replace a file that is there."""

    def check(self, operation_id: str = "") -> None:
        """Find out whether the image could be saved. Raises `OSError`, which names the path."""
        path = self._path(operation_id)
        with _naming(path):
            tempfile.TemporaryFile(dir=path.parent).close()
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                return
            if not self.force:
                raise OSError(EEXIST, "it exists already; --force replaces it")
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                raise OSError(EEXIST, "it exists already, and is not a file")

    def save(self, image: Image) -> Path:
        """Save the image, and return where it is. Raises `OSError`, which names the path."""
        path = self._path(image.operation_id)
        with _naming(path):
            return image.save(path, overwrite=self.force)

    def _path(self, operation_id: str) -> Path:
        if self.output is None:
            return Path(name_of(operation_id))
        return self.output if self.output.suffix else self.output.with_name(f"{self.output.name}.jpeg")


def name_of(operation_id: str) -> str:
    """The name of an operation's file: a server's id may hold anything, and this nothing that a file may not."""
    return f"yandexart-{re.sub('[^0-9A-Za-z_-]', '_', operation_id)[:100]}.jpeg"


def id_in(name: str) -> str | None:
    """The id that such a name tells, where nothing in it was replaced or cut off."""
    found = re.fullmatch(r"yandexart-([0-9A-Za-z-]{1,99})\.jpeg", name)
    return found[1] if found else None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an `OSError` name the path, where it names a temporary file or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
