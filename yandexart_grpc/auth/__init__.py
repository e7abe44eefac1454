"""Credentials: the kinds there are, which of them a client uses, and types that keep them secret.

    ApiKey, IamToken                a text that calls carry as it is
    ServiceAccountKey, OAuthToken   exchanged for IAM tokens over gRPC
    MetadataService, YcCli          IAM tokens that this machine gives
    TokenSource, AsyncTokenSource   tokens from wherever you write

When a token is renewed, and what it means that it cannot be, is decided in `_token`.
"""

from yandexart_grpc.auth.fetch import afetch, fetch, is_async
from yandexart_grpc.auth.iam import Exchanged, OAuthToken, Proof, ServiceAccountKey, received
from yandexart_grpc.auth.machine import MetadataService, YcCli
from yandexart_grpc.auth.search import CHANGING, VARIABLES, Credentials, Source, find, origin, parse
from yandexart_grpc.auth.secret import ENVIRONMENT, Header, Secret, hidden
from yandexart_grpc.auth.token import ApiKey, AsyncTokenSource, Credential, IamToken, Token, TokenSource

__all__ = [
    "CHANGING",
    "ENVIRONMENT",
    "VARIABLES",
    "ApiKey",
    "AsyncTokenSource",
    "Credential",
    "Credentials",
    "Exchanged",
    "Header",
    "IamToken",
    "MetadataService",
    "OAuthToken",
    "Proof",
    "Secret",
    "ServiceAccountKey",
    "Source",
    "Token",
    "TokenSource",
    "YcCli",
    "afetch",
    "fetch",
    "find",
    "hidden",
    "is_async",
    "origin",
    "parse",
    "received",
]
