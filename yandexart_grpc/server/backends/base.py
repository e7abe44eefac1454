"""Where pictures come from: what `operations` asks of a backend."""

from typing import Protocol

from yandexart_grpc.request import ImageRequest
from yandexart_grpc.stubs import ImageGenerationResponse


class Backend(Protocol):
    """A source of pictures. Anything with these members is one."""

    @property
    def charges(self) -> bool:
        """Whether a picture costs money, so that work once begun is neither stopped nor begun again."""

    async def generate(self, request: ImageRequest) -> ImageGenerationResponse:
        """Make the picture. A `YandexArtError` becomes the error of the operation, with its code and its `details`."""

    async def close(self) -> None:
        """Let go of what the backend holds."""
