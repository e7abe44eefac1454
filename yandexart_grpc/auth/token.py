"""What a call is authorised with: a `Credential` that is known at once, or a `Token` that has to be fetched and ends."""

from collections.abc import Mapping
from typing import Literal, Protocol

from yandexart_grpc.auth.secret import Header, Secret, Unpicklable
from yandexart_grpc.errors import ConfigurationError, Unauthenticated


class Credential(Unpicklable):
    """The value of the `authorization` header, known at once. Nothing shows it."""

    __slots__ = ("_authorization",)

    def __init__(self, authorization: str) -> None:
        self._authorization = Header(authorization)

    @property
    def authorization(self) -> Header:
        """What each call carries."""
        return self._authorization

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._authorization!r})"


class ApiKey(Credential):
    """An API key of a service account; it needs the scope `yc.ai.imageGeneration.execute`."""

    __slots__ = ()

    def __init__(self, key: str) -> None:
        super().__init__("Api-Key " + Secret.checked(key).reveal())


class IamToken(Credential):
    """An IAM token that somebody else renews: it ends within twelve hours."""

    __slots__ = ()

    def __init__(self, token: str) -> None:
        super().__init__("Bearer " + Secret.checked(token).reveal())


class IamTokenVariable(Credential):
    """An IAM token in an environment variable, read again for each call."""

    __slots__ = ("_environ", "_name")

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self._name, self._environ = name, environ

    @property
    def authorization(self) -> Header:
        """What the variable holds now. Raises `Unauthenticated` where that is no token."""
        try:
            return IamToken(self._environ.get(self._name, "")).authorization
        except ConfigurationError as error:
            problem = str(error)
        raise Unauthenticated(f"{self._name}: {problem}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"


class Token:
    """A token, fetched at this moment, that holds for `expires_in` seconds more; None where nobody tells how long."""

    __slots__ = ("authorization", "expires_in")

    def __init__(self, text: str, expires_in: float | None = None, *, scheme: Literal["Bearer", "Api-Key"] = "Bearer") -> None:
        self.authorization = Header(f"{scheme} " + Secret.checked(text).reveal())
        self.expires_in = expires_in

    def __repr__(self) -> str:
        return f"Token({self.authorization!r}, expires_in={self.expires_in!r})"


class TokenSource(Protocol):
    """Where tokens come from. Write one of your own for a vault or a broker: its tokens are kept and renewed as all are."""

    def token(self) -> Token:
        """Fetch a new token. May block, for a bounded time; in asyncio it is called in a thread. Raises whatever it likes."""


class AsyncTokenSource(Protocol):
    """Where the tokens of an `AsyncYandexArt` come from."""

    async def token(self) -> Token:
        """Fetch a new token, in a bounded time. Raises whatever it likes."""
