"""Which credential a client uses: the one given, or else the first that is found (contract/service.md, "Who may call")."""

import re
from collections.abc import Callable, Mapping

from yandexart_grpc.auth.iam import Exchanged, OAuthToken, ServiceAccountKey
from yandexart_grpc.auth.machine import MetadataService, YcCli
from yandexart_grpc.auth.secret import Secret, hidden
from yandexart_grpc.auth.token import ApiKey, AsyncTokenSource, Credential, IamToken, IamTokenVariable, TokenSource
from yandexart_grpc.errors import ConfigurationError, YandexArtError

Source = Exchanged | TokenSource | AsyncTokenSource
"""What gives tokens."""
Credentials = str | Secret | Credential | Exchanged | TokenSource | AsyncTokenSource
"""What a client takes."""
Found = Credential | Source

VARIABLES: dict[str, Callable[[str], Found]] = {
    "YC_API_KEY": ApiKey,
    "YC_IAM_TOKEN": IamToken,
    "YC_OAUTH_TOKEN": OAuthToken,
    "YC_SERVICE_ACCOUNT_KEY_FILE": ServiceAccountKey,
}
"""Variables that hold a credential, in the order in which they are looked at, before anything is asked over the network."""
CHANGING = "YC_TOKEN"
"""The variable that holds an IAM token which others renew; looked at between the metadata service and `yc`."""
PROBE = 0.1
"""Seconds in which a metadata service answers where there is one."""


def find(given: Credentials | None, environ: Mapping[str, str], *, machine: bool = False, needed: bool = False) -> Found | None:
    """The credential given, else the first in the environment and, with `machine`, of this machine.

    Raises `ConfigurationError` that names the setting when a credential is malformed and, with `machine` or where one is
    `needed`, one that lists what was tried when there is none.
    """
    if given is not None:
        return _judged(given)
    tried: list[str] = []
    for name, kind in VARIABLES.items():
        if environ.get(name):
            return _named(name, kind, Secret(environ[name]))
        tried.append(f"{name}: not set")
    if machine and (found := _tried(tried, lambda: _metadata_service(environ))):
        return found
    if environ.get(CHANGING):
        _named(CHANGING, IamToken, Secret(environ[CHANGING]))  # it may change, but should be right now
        return IamTokenVariable(CHANGING, environ)
    tried.append(f"{CHANGING}: not set")
    if machine and (found := _tried(tried, lambda: YcCli(environ=environ))):
        return found
    if machine or needed:
        raise ConfigurationError(f"credentials: none given, and none found ({'; '.join(tried)})")
    return None


def origin(found: Found) -> str:
    """Where the search has found it: in a variable, or on this machine."""
    if isinstance(found, IamTokenVariable):
        return CHANGING
    return next((name for name, kind in VARIABLES.items() if kind is type(found)), "this machine")


def parse(text: str) -> Found:
    """Sort a bare text by its prefix: `t<digit>.` is an IAM token, `y<0-3>_` an OAuth token, anything else an API key.

    Raises `ConfigurationError`, which never quotes it.
    """
    if re.match(r"\s*t\d\.", text):
        return IamToken(text)
    return OAuthToken(text) if re.match(r"\s*y[0-3]_", text) else ApiKey(text)


def _judged(given: Credentials) -> Found:
    if isinstance(given, str | Secret):
        return _named("credentials", parse, hidden(given))
    if isinstance(given, Credential | Exchanged) or callable(getattr(given, "token", None)):
        return given
    raise ConfigurationError(f"credentials: {type(given).__name__} is neither a text nor a credential, and has no token()")


def _named(name: str, kind: Callable[[str], Found], secret: Secret) -> Found:
    """The credential in a setting, which an error about it names."""
    try:
        return kind(secret.reveal())
    except ConfigurationError as error:
        problem = str(error)
    raise ConfigurationError(f"{name}: {problem}")


def _tried(tried: list[str], look: Callable[[], Found]) -> Found | None:
    """What there is, or else a note of why not."""
    try:
        return look()
    except YandexArtError as error:
        tried.append(str(error))
        return None


def _metadata_service(environ: Mapping[str, str]) -> MetadataService:
    service = MetadataService(environ=environ)
    service.token(timeout=PROBE)
    return service
