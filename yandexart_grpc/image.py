"""What a user gets back: an `Image` that has been checked, never a piece of one.

Results come as raw JPEG over gRPC and as Base64 elsewhere; both are taken (contract/service.md, "The answer"). Size is read from
the header, so that no decoder is needed.
"""

import base64
import binascii
import io
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from yandexart_grpc.errors import ConfigurationError, ProtocolError, YandexArtError
from yandexart_grpc.failures import from_operation
from yandexart_grpc.request import MIME_TYPE, ImageRequest
from yandexart_grpc.stubs import ImageGenerationResponse, Operation

if TYPE_CHECKING:
    import PIL.Image

_START, _END = b"\xff\xd8", b"\xff\xd9"
_BASE64_START = b"/9j/"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A finished image and where it came from."""

    data: bytes = field(repr=False)
    """The file, as the service made it."""
    mime_type: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    model_version: str
    """Empty where the service does not tell."""
    operation_id: str
    seed: int | None
    """None where the operation was submitted elsewhere."""
    prompt: str | None = field(repr=False)
    """The texts of positive weight; None where the operation was submitted elsewhere."""
    index: int | None = None
    """Which prompt of `map` it answers."""
    request_id: str | None = None
    """What the server calls the order, for its support; None where it does not tell, or it was submitted elsewhere."""

    @classmethod
    def from_operation(
        cls, operation: Operation, request: ImageRequest | None, index: int | None = None, request_id: str | None = None
    ) -> "Image":
        """The image of a finished operation; `request` is what was asked for, where that is known.

        Raises `ContentRefused`, `OperationCancelled`, `OutcomeUnknown` or `OperationFailed` for an operation that ended with an
        error, and `ProtocolError` when the result is missing, of another type, or not a whole JPEG.
        """
        response = _response(operation)
        try:
            data, width, height = whole_jpeg(response.image)
        except ValueError as error:
            raise _broken(operation.id, f"holds {error}") from error
        return cls(
            data=data,
            mime_type=MIME_TYPE,
            width=width,
            height=height,
            model_version=response.model_version,
            operation_id=operation.id,
            seed=request.seed if request else None,
            prompt=request.prompt if request else None,
            index=index,
            request_id=request_id,
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the image whole or not at all, and return the path, which gets `.jpeg` when it has no extension.

        Raises `FileExistsError` unless `overwrite`, and `OSError` when the file cannot be written.
        """
        target = Path(path)
        if not target.suffix:
            target = target.with_name(f"{target.name}.jpeg")
        write_whole(target, self.data, overwrite=overwrite)
        return target

    def open(self) -> "PIL.Image.Image":
        """The decoded image, where Pillow is installed; raises `ConfigurationError` where it is not."""
        try:
            import PIL.Image
        except ImportError as error:
            raise ConfigurationError("Image.open() needs Pillow: pip install pillow") from error
        return PIL.Image.open(io.BytesIO(self.data))

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """How a notebook shows it."""
        return {self.mime_type: base64.b64encode(self.data).decode(), "text/plain": repr(self)}


def outcome(
    ended: Operation | YandexArtError,
    request: ImageRequest | None = None,
    *,
    index: int | None = None,
    key: str | None = None,
    request_id: str | None = None,
) -> Image | YandexArtError:
    """What a wait came to: the image, or the error to raise."""
    try:
        if isinstance(ended, YandexArtError):
            raise ended
        return Image.from_operation(ended, request, index, request_id)
    except YandexArtError as error:
        error.index, error.idempotency_key, error.request_id = index, key, error.request_id or request_id
        return error


def write_whole(target: Path, data: bytes, *, overwrite: bool = False, part: Path | None = None) -> None:
    """Write a file whole or not at all; `part`, beside it, is where it is written first.

    Raises `FileExistsError` unless `overwrite`, and `OSError` when it cannot be written.
    """
    part = part or target.with_name(f".yandexart-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            part.replace(target)
        else:
            _link(part, target)
    finally:
        part.unlink(missing_ok=True)


def reduced(picture: "PIL.Image.Image", side: int) -> bytes:
    """A small JPEG of a picture that was just opened, with at most so many pixels on its longer side. Raises what Pillow does."""
    picture.draft("RGB", (side, side))  # decodes no more than is needed
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=80, optimize=True)
    return file.getvalue()


def _link(part: Path, target: Path) -> None:
    """Give the finished file its name unless something has that name already."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then replace what holds it
        target.open("xb").close()
        part.replace(target)


def _response(operation: Operation) -> ImageGenerationResponse:
    match operation.WhichOneof("result"):
        case "error":
            raise from_operation(operation)
        case None:
            raise _broken(operation.id, "is done and has neither response nor error")
    response = ImageGenerationResponse()
    if not operation.response.Is(response.DESCRIPTOR):
        raise _broken(operation.id, f"holds a {operation.response.type_url!r} instead of an image")
    try:
        operation.response.Unpack(response)
    except DecodeError as error:
        raise _broken(operation.id, f"holds a message that cannot be read, {_head(operation.response.value)}") from error
    return response


def whole_jpeg(data: bytes) -> tuple[bytes, int, int]:
    """A whole JPEG, out of its Base64 where it comes in it, with width and height.

    Raises `ValueError`, which says what it is instead.
    """
    if data.startswith(_BASE64_START):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"an image in broken Base64, {_head(data)}") from error
    return data, *_size(data)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height of a whole JPEG: walks the segments up to the first scan (ITU-T T.81, annex B)."""
    if not data.startswith(_START):
        raise ValueError(f"no JPEG, {_head(data)}" if data else "an empty image")
    at, end, width, height = len(_START), len(data) - 9, 0, 0
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _SCAN:
            if width and height and data.rfind(_END, at) > 0:
                return width, height
            break
        if marker in _FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
        # 0xFF fills the space between segments; a segment counts the two bytes of its length, but not those of its marker
        at += 1 if marker == 0xFF else 2 + (data[at + 2] << 8 | data[at + 3])
    raise ValueError(f"a truncated JPEG of {len(data)} bytes, {_head(data)}")


def _head(data: bytes) -> str:
    return f"first bytes {data[:16].hex(' ')}"


def _broken(operation_id: str, what: str) -> ProtocolError:
    return ProtocolError(f"operation {operation_id} {what}", operation_id=operation_id, billed="yes")
