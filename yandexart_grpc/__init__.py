"""A client for Yandex Cloud's image generation over gRPC, built from compiled protos.

A public name is loaded when it is first used: who only wants the errors, or one of the two clients, pays for no more.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from yandexart_grpc._version import __version__

if TYPE_CHECKING:
    from yandexart_grpc.aio import AsyncYandexArt
    from yandexart_grpc.client import YandexArt
    from yandexart_grpc.errors import (
        ConfigurationError,
        ContentRefused,
        InvalidRequest,
        NotFound,
        OperationCancelled,
        OperationFailed,
        OperationTimeout,
        OutcomeUnknown,
        PermissionDenied,
        ProtocolError,
        QuotaExceeded,
        Unauthenticated,
        Unavailable,
        YandexArtError,
    )
    from yandexart_grpc.image import Image
    from yandexart_grpc.operation import AsyncOperation, Operation
    from yandexart_grpc.request import AspectRatio, ImageOptions, Message, Prompt

__all__ = [
    "AspectRatio",
    "AsyncOperation",
    "AsyncYandexArt",
    "ConfigurationError",
    "ContentRefused",
    "Image",
    "ImageOptions",
    "InvalidRequest",
    "Message",
    "NotFound",
    "Operation",
    "OperationCancelled",
    "OperationFailed",
    "OperationTimeout",
    "OutcomeUnknown",
    "PermissionDenied",
    "Prompt",
    "ProtocolError",
    "QuotaExceeded",
    "Unauthenticated",
    "Unavailable",
    "YandexArt",
    "YandexArtError",
    "__version__",
]

_ELSEWHERE = {
    "AspectRatio": "request",
    "AsyncOperation": "operation",
    "AsyncYandexArt": "aio",
    "Image": "image",
    "ImageOptions": "request",
    "Message": "request",
    "Operation": "operation",
    "Prompt": "request",
    "YandexArt": "client",
}


if not TYPE_CHECKING:  # a type checker would take it that every name exists

    def __getattr__(name: str) -> object:
        """Load a public name; those that are not `_ELSEWHERE` are errors."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}"), name)
        return globals()[name]


def __dir__() -> list[str]:
    return __all__
