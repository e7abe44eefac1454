"""A client for Yandex Cloud's image generation over gRPC, built from compiled protos."""

from yandexart_grpc._version import __version__
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
from yandexart_grpc.request import AspectRatio, Message, Prompt

__all__ = [
    "AspectRatio",
    "AsyncOperation",
    "AsyncYandexArt",
    "ConfigurationError",
    "ContentRefused",
    "Image",
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
