"""Where pictures come from: what `operations` asks of a backend."""

from typing import Protocol

from yandexart_grpc.request import ImageRequest
from yandexart_grpc.stubs import ImageGenerationResponse


class Upstream(Protocol):
    """What a backend is told of an operation beside its request, and what it tells."""

    @property
    def operation_id(self) -> str:
        """The id of the operation, the same for every call."""

    @property
    def id(self) -> str:
        """What was noted by an earlier call for the same operation; empty where nothing was."""

    async def note(self, upstream_id: str) -> None:
        """Keep the id under which the picture is found again after a restart. It is safe when this returns."""

    async def may_read(self) -> None:
        """Wait until the upstream may be asked about the picture, by the quota that all servers share."""

    @property
    def authorization(self) -> str:
        """What the caller sent under that name. It is never kept: empty for an operation that another process accepted."""

    def warn(self, text: str) -> None:
        """Tell the caller, in a line, what he asked for that will not be in the picture."""

    @property
    def followed(self) -> bool:
        """Whether somebody would like to see sketches."""

    def sketch(self, image: bytes) -> None:
        """Show how far the picture is, as a JPEG."""


class Backend(Protocol):
    """A source of pictures. Anything with these members is one."""

    @property
    def charges(self) -> bool:
        """Whether a picture costs money, so that work once begun is neither stopped nor begun again."""

    @property
    def resumable(self) -> bool:
        """Whether `generate` goes on with what it noted in `upstream`, instead of making another picture."""

    async def generate(self, request: ImageRequest, upstream: Upstream) -> ImageGenerationResponse:
        """Make the picture. A `YandexArtError` becomes the error of the operation, with its code and its `details`."""

    async def close(self) -> None:
        """Let go of what the backend holds."""
