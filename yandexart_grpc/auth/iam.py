"""Credentials that `IamTokenService` exchanges for a token (contract/service.md, "Who may call")."""

import json
import logging
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from yandexart_grpc.auth.secret import Secret
from yandexart_grpc.auth.token import Token
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.stubs import CreateIamTokenRequest, CreateIamTokenResponse

log = logging.getLogger("yandexart_grpc")

AUDIENCE = "https://iam.api.cloud.yandex.net/iam/v1/tokens"
"""Whom a JWT is for, at whichever address it is exchanged."""
JWT_LIFE = 3600
"""Seconds; more is refused."""
LONGEST_LIFE = 12 * 3600.0
"""Seconds that a token lives at the most."""


class Proof(NamedTuple):
    """What is exchanged for a token. It is turned into a request only on its way out."""

    kind: Literal["jwt", "yandex_passport_oauth_token"]
    secret: Secret

    def serialize(self) -> bytes:
        """The request, as bytes."""
        if self.kind == "jwt":
            return CreateIamTokenRequest(jwt=self.secret.reveal()).SerializeToString()
        return CreateIamTokenRequest(yandex_passport_oauth_token=self.secret.reveal()).SerializeToString()


def received(data: bytes) -> Token:
    """The token in an answer. What is left of its life is taken now: later, the wall clock may be set.

    A token that ended before it came tells of a wrong clock, and nothing about how long it holds.
    """
    answer = CreateIamTokenResponse.FromString(data)
    left = answer.expires_at.seconds - time.time()
    if answer.expires_at.seconds and left <= 0:
        log.warning("a new IAM token is past its end already by the clock of this machine, which may be wrong by %.0f s", -left)
    return Token(answer.iam_token, min(left, LONGEST_LIFE) if left > 0 else None)


class Exchanged(ABC):
    """A credential that is exchanged for tokens."""

    @abstractmethod
    def proof(self) -> Proof:
        """What to exchange; may take milliseconds."""


class ServiceAccountKey(Exchanged):
    """An authorised key of a service account: the JSON file that Yandex gives out, or what is in it.

    A file is read again for each token, so that it may be replaced. Needs the extra `[auth]`.

    Raises `ConfigurationError` where it cannot be read, or is no such key.
    """

    def __init__(self, key: str | os.PathLike[str] | Mapping[str, str]) -> None:
        self._path = None if isinstance(key, Mapping) else Path(key)
        self._parts = _Key.of(key) if isinstance(key, Mapping) else _Key.read(Path(key))
        _require_jwt()

    def proof(self) -> Proof:
        """A JWT, signed with the key."""
        import jwt

        key = self._parts if self._path is None else _Key.read(self._path)
        now = int(time.time())
        claims = {"iss": key.service_account_id, "aud": AUDIENCE, "iat": now, "exp": now + JWT_LIFE}
        try:
            return Proof("jwt", Secret(jwt.encode(claims, key.private_key.reveal(), algorithm="PS256", headers={"kid": key.id})))
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            problem = type(error).__name__
        raise ConfigurationError(f"service-account key {key.id}: private_key is not an RSA key in PEM ({problem})")

    def __repr__(self) -> str:
        return f"ServiceAccountKey({self._parts.id!r})"


class OAuthToken(Exchanged):
    """An OAuth token of a person. Deprecated: these tokens end with the year 2026."""

    def __init__(self, token: str) -> None:
        self._secret = Secret.checked(token)
        del token
        log.warning("%s", _OAUTH_ENDS)
        warnings.warn(_OAUTH_ENDS, DeprecationWarning, stacklevel=2)

    def proof(self) -> Proof:
        """The token itself."""
        return Proof("yandex_passport_oauth_token", self._secret)

    def __repr__(self) -> str:
        return f"OAuthToken({self._secret!r})"


_OAUTH_ENDS = "OAuth tokens of Yandex end with the year 2026: use an API key, or the key of a service account"


class _Key(NamedTuple):
    id: str
    service_account_id: str
    private_key: Secret

    @classmethod
    def read(cls, path: Path) -> "_Key":
        try:
            found = json.loads(path.read_bytes())
        except OSError as error:
            problem = str(error)
        except ValueError:
            problem = f"{os.fspath(path)!r} is not JSON"
        else:
            return cls.of(found, os.fspath(path))
        raise ConfigurationError(f"service-account key: {problem}")

    @classmethod
    def of(cls, found: Mapping[str, object], where: str = "") -> "_Key":
        parts = [found.get(name) if isinstance(found, Mapping) else None for name in cls._fields]
        missing = [name for name, part in zip(cls._fields, parts, strict=True) if not isinstance(part, str) or not part]
        if missing:
            del found, parts  # a traceback may show them
            raise ConfigurationError(f"service-account key: {where!r} has no {', '.join(missing)}")
        key_id, account, private_key = map(str, parts)
        # The file has a line before the key that says not to remove it.
        return cls(key_id, account, Secret(private_key[max(private_key.find("-----BEGIN"), 0) :]))


def _require_jwt() -> None:
    try:
        import cryptography
        import jwt
    except ImportError as error:
        raise ConfigurationError(f"a service-account key needs pyjwt: pip install 'yandexart-grpc[auth]' ({error})") from error
    del cryptography, jwt
