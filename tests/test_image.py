"""Images: what is accepted as one, and how it is saved."""

import base64
import io
import os
import stat
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yandexart_grpc import Image, ProtocolError
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server.backends.demo import draw
from yandexart_grpc.stubs import ImageGenerationResponse, Operation, Status

REQUEST = ImageRequest.build("a cat", folder_id="b1g", seed=7)
PICTURE = draw("a cat", seed=7, width_ratio=16, height_ratio=9)


def jpeg(**options: object) -> bytes:
    """A picture of 60 × 40 pixels, encoded by Pillow."""
    file = io.BytesIO()
    PIL.Image.effect_noise((60, 40), 80).convert("RGB").save(file, "JPEG", **options)
    return file.getvalue()


def image_of(data: bytes, request: ImageRequest | None = REQUEST) -> Image:
    """The image of an operation that was answered with these bytes."""
    operation = Operation(id="x", done=True)
    operation.response.Pack(ImageGenerationResponse(image=data, model_version="2.1"))
    return Image.from_operation(operation, request)


@pytest.fixture(scope="module")
def image() -> Image:
    return image_of(PICTURE)


def test_an_image_knows_where_it_came_from(image: Image) -> None:
    """Size from the header, the rest from the request and the answer."""
    assert (image.width, image.height, image.mime_type) == (1344, 768, "image/jpeg")
    assert (image.operation_id, image.seed, image.prompt, image.model_version) == ("x", 7, "a cat", "2.1")
    assert image.data == PICTURE
    assert image.open().size == (1344, 768)


def test_an_image_of_an_attached_operation_does_not_guess() -> None:
    """Where the request is not known, neither are seed and prompt."""
    image = image_of(PICTURE, request=None)
    assert (image.seed, image.prompt) == (None, None)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 1}, {"exif": b"Exif\0\0" + b"\xff\xd9" * 200}, {"comment": b"x" * 60000}],
    ids=["baseline", "progressive", "coarse", "exif with end markers", "long comment"],
)
def test_every_kind_of_jpeg_is_measured(options: dict[str, object]) -> None:
    """Baseline, progressive, with metadata before the frame: the size is found."""
    image = image_of(jpeg(**options))
    assert (image.width, image.height) == (60, 40)


def test_base64_is_decoded() -> None:
    """The documents promise Base64 and the wire carries bytes; either gives the same image."""
    assert image_of(base64.b64encode(PICTURE)).data == PICTURE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds an empty image"),
        (b"GIF89a" + b"\0" * 20, "holds no JPEG, first bytes 47 49 46 38 39 61"),
        (base64.b64encode(PICTURE)[:-3] + b"!", "broken Base64, first bytes 2f 39 6a 2f"),
        (base64.b64encode(PICTURE[:5000]), "truncated JPEG of 5000 bytes"),
        (PICTURE[:-2], "truncated JPEG of .* bytes, first bytes ff d8 ff"),
        (b"\xff\xd8", "truncated JPEG of 2 bytes"),
        (b"\xff\xd8\xff\xd9", "truncated JPEG"),
    ],
    ids=["empty", "gif", "base64", "base64 truncated", "no end", "start only", "start and end"],
)
def test_what_is_no_whole_jpeg_is_never_an_image(data: bytes, words: str) -> None:
    """A broken result is an error that shows its first bytes; the picture is paid for, so resending is unsafe."""
    with pytest.raises(ProtocolError, match=words) as caught:
        image_of(data)
    assert (caught.value.operation_id, caught.value.billed, caught.value.resend) == ("x", "yes", "unsafe")


@given(st.integers(0, len(PICTURE) - 1))
def test_a_truncated_jpeg_is_refused_wherever_it_ends(length: int) -> None:
    """There is no length at which a part passes for the whole."""
    with pytest.raises(ProtocolError):
        image_of(PICTURE[:length])


@given(st.binary(max_size=200))
def test_no_bytes_bring_another_error(tail: bytes) -> None:
    """Whatever follows the start of a JPEG, there is an image or a ProtocolError."""
    try:
        assert image_of(b"\xff\xd8\xff" + tail).width > 0
    except ProtocolError as error:
        assert error.operation_id == "x"  # noqa: PT017  # either outcome is right


def test_a_result_of_another_kind_is_named() -> None:
    """Neither result, another type, or bytes that are no message: each is said."""
    with pytest.raises(ProtocolError, match="neither response nor error"):
        Image.from_operation(Operation(id="x", done=True), None)
    other = Operation(id="x", done=True)
    other.response.Pack(Status(code=3))
    with pytest.raises(ProtocolError, match=r"type.googleapis.com/google.rpc.Status"):
        Image.from_operation(other, None)
    broken = Operation(id="x", done=True)
    broken.response.Pack(ImageGenerationResponse())
    broken.response.value = b"\x0a\xff"
    with pytest.raises(ProtocolError, match="first bytes 0a ff"):
        Image.from_operation(broken, None)


def test_neither_repr_nor_notebook_spills_the_bytes(image: Image) -> None:
    """`repr` is short and holds neither bytes nor prompt; a notebook gets the picture."""
    assert len(repr(image)) < 200
    assert "a cat" not in repr(image)
    bundle = image._repr_mimebundle_()
    assert base64.b64decode(bundle["image/jpeg"]) == PICTURE


def test_saving_writes_the_whole_file_under_the_name(image: Image, tmp_path: Path) -> None:
    """The file holds the image; a name without extension gets one; the mode is what the umask leaves."""
    assert image.save(tmp_path / "cat") == tmp_path / "cat.jpeg"
    assert image.save(str(tmp_path / "cat.v1.jpg")) == tmp_path / "cat.v1.jpg"
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [PICTURE, PICTURE]
    umask = os.umask(0o027)
    try:
        assert stat.S_IMODE(image.save(tmp_path / "private.jpeg").stat().st_mode) == 0o640
    finally:
        os.umask(umask)


def test_saving_refuses_what_exists_unless_told(image: Image, tmp_path: Path) -> None:
    """Nothing is replaced by accident, and a link is not followed; `overwrite` replaces the name itself."""
    target, link = tmp_path / "cat.jpeg", tmp_path / "link.jpeg"
    target.write_text("mine")
    link.symlink_to(target)
    for path in (target, link):
        with pytest.raises(FileExistsError):
            image.save(path)
    assert target.read_text() == "mine"
    image.save(link, overwrite=True)
    assert (target.read_text(), link.read_bytes(), link.is_symlink()) == ("mine", PICTURE, False)
    assert {path.name for path in tmp_path.iterdir()} == {"cat.jpeg", "link.jpeg"}


def test_a_save_that_fails_leaves_nothing(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the error is raised and no part of a file stays."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        image.save(tmp_path / "cat.jpeg")
    assert list(tmp_path.iterdir()) == []


def test_saving_works_without_hard_links(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has no hard links, a file is written all the same, and what exists is refused."""

    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    assert image.save(tmp_path / "cat").read_bytes() == PICTURE
    with pytest.raises(FileExistsError):
        image.save(tmp_path / "cat")
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpeg"]
