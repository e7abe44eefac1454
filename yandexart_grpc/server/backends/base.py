"""Where pictures come from: what `operations` asks of a backend."""

from typing import Protocol

from yandexart_grpc.request import ImageRequest
from yandexart_grpc.stubs import ImageGenerationResponse


class Upstream(Protocol):
    """What a backend notes of an operation, to find it again after a restart."""

    @property
    def id(self) -> str:
        """What was noted by an earlier call for the same operation; empty where nothing was."""

    async def note(self, upstream_id: str) -> None:
        """Keep an id. It is safe when this returns."""


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
