"""The files of a batch: their names, which are ours alone, and how an image becomes one of them, whole or not at all."""

import re
from hashlib import sha256
from pathlib import Path

from yandexart_grpc.batch.origin import Origin, commented
from yandexart_grpc.batch.rows import Row
from yandexart_grpc.errors import YandexArtError
from yandexart_grpc.image import Image, write_whole

_PART = re.compile(r"\.[0-9A-Za-z-]{1,40}-[0-9a-f]{16}\.jpeg\.part")


class FolderError(YandexArtError):
    """What belongs into the folder or the ledger of a batch could not be written there."""


def make(folder: Path) -> None:
    """Make the folder where there is none. Raises `FolderError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}") from error


def clean(folder: Path) -> None:
    """Remove the pieces of images that a run left when it was killed. Raises `FolderError`."""
    try:
        for path in folder.iterdir():
            if _PART.fullmatch(path.name):
                path.unlink()
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}") from error


def file_name(row: Row) -> str:
    """The name of a row's image: some of its prompt for people, some of its key so that it is the only one."""
    slug = re.sub("[^0-9A-Za-z]+", "-", row.request.prompt)[:40].strip("-")
    return f"{slug or 'image'}-{row.key[:16]}.jpeg"


def save(folder: Path, row: Row, image: Image, *, metadata: bool) -> str:
    """Write the image, replacing what has its name, and return the SHA-256 of the file. Raises `FolderError`."""
    data = commented(image.data, Origin.of(row.request, image.operation_id)) if metadata else image.data
    target = folder / file_name(row)
    try:
        write_whole(target, data, overwrite=True, part=folder / f".{target.name}.part")
    except OSError as error:
        raise FolderError(f"{target}: {error.strerror}", operation_id=image.operation_id, billed="yes") from error
    return sha256(data).hexdigest()
