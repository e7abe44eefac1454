"""The tiles of a contact sheet: the pictures of a folder, small, each with what its file or the manifest of a batch tells."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yandexart_grpc import ConfigurationError
from yandexart_grpc.batch.manifest import NAME as MANIFEST
from yandexart_grpc.batch.origin import Origin, origin_of
from yandexart_grpc.cli.options import again_command
from yandexart_grpc.cli.output import echo
from yandexart_grpc.cli.target import id_in
from yandexart_grpc.image import reduced

MARK = b"contact sheet of yandexart"
"""The comment of a sheet, which is no picture of the next one."""
SIDE = 320
"""Pixels of the longer side of a small picture."""
MOST = 500
"""How many tiles a sheet has: with more, its JPEG would not fit into memory everywhere."""
UNKNOWN = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One picture of a sheet."""

    path: Path
    size: tuple[int, int]
    """Width and height of the picture in pixels."""
    small: bytes
    """The small picture, a JPEG."""
    origin: Origin

    def facts(self) -> dict[str, str]:
        """What is known of it, by name, and what is not."""
        origin = self.origin
        return {
            "prompt": origin.prompt or UNKNOWN,
            "seed": str(origin.seed or UNKNOWN),
            "model": origin.model or UNKNOWN,
            "id": origin.operation_id or UNKNOWN,
            "again": again_command(origin) or UNKNOWN,
        }

    def remark(self) -> str:
        """What is to be said of the command that makes it again; empty where nothing is."""
        if self.origin.weighted:
            return "It was asked for by several texts with weights, which no command takes."
        missing = {"aspect ratio": self.origin.aspect_ratio is None, "model": self.origin.model is None}
        names = " and ".join(name for name, is_missing in missing.items() if is_missing)
        return f"The command lacks what is not known: {names}." if names and again_command(self.origin) else ""


def tiles(folder: Path) -> list[Tile]:
    """The tiles of a folder, in the order of their names, where 2 comes before 10.

    Raises `ConfigurationError` when there are none, or too many. What is no picture is told on stderr.
    """
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg") and not path.name.startswith(".")]
        if len(paths) > MOST:
            raise ConfigurationError(f"{folder}: {len(paths)} pictures are more than {MOST}, which a sheet may have")
        found = list(_tiles(sorted(paths, key=_natural), _manifest(folder / MANIFEST)))
    except OSError as error:
        raise ConfigurationError(f"{error.filename or folder}: {error.strerror}") from error
    if not found:
        raise ConfigurationError(f"{folder}: there is no picture in it (.jpeg or .jpg)")
    return found


def _tiles(paths: list[Path], manifest: dict[str, Origin]) -> Iterator[Tile]:
    import PIL.Image  # slow to import, and needed by nobody else

    for path in paths:
        data = path.read_bytes()
        try:
            with PIL.Image.open(io.BytesIO(data)) as picture:
                if picture.info.get("comment") == MARK:
                    continue
                size = picture.size
                small = reduced(picture, SIDE)
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):  # whatever stands in a file
            echo(f"{path} is left out: it is no picture that can be read", err=True)
            continue
        origin = origin_of(data) or manifest.get(path.name) or Origin(operation_id=id_in(path.name))
        yield Tile(path=path, size=size, small=small, origin=origin)


def _manifest(path: Path) -> dict[str, Origin]:
    """What the manifest of a batch tells of its files; of several lines for one, the last counts."""
    found = dict[str, Origin]()
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            said = json.loads(line)
            found[str(said["file"])] = Origin.read(said)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # a line of somebody else, or half of one
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name.casefold())]
