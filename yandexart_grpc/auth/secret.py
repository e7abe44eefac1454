"""Types that keep a secret: whatever shows, logs, formats or pickles them does not tell it."""

import hmac
import os
from collections.abc import Iterator, Mapping
from typing import NoReturn, Self, TypeVar

from yandexart_grpc.errors import ConfigurationError

HIDDEN = "<hidden>"

Kind = TypeVar("Kind")


class Unpicklable:
    """What cannot be pickled or copied into another process."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} keeps a secret, and is not pickled")


class Secret(Unpicklable):
    """A text that only `reveal` shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text. Use it in the expression that needs it, and give it no name: a traceback may show variables."""
        return self._text

    @classmethod
    def checked(cls, text: str) -> Self:
        """The text of a credential without the space around it. Raises `ConfigurationError`, which never quotes it."""
        length, secret = len(text), cls(text.strip())
        del text  # a traceback may show it
        if not secret:
            raise ConfigurationError("empty")
        if not secret._text.isascii() or not secret._text.isprintable() or " " in secret._text:
            raise ConfigurationError(f"{length} characters that hold a line break, a space or one that is not printable ASCII")
        return secret

    def __repr__(self) -> str:
        return HIDDEN

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


class Header(Unpicklable, str):
    """The value of the `authorization` header: a `str`, as gRPC wants, that a traceback through gRPC's variables hides."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        return super().__new__(cls, "".join([text]))  # one that is hidden already would tell `str` nothing

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __getitem__(self, key: object) -> str:
        return HIDDEN


class Environment(Mapping[str, str]):
    """The variables of this process, as they are when they are looked at; none is shown."""

    def __getitem__(self, name: str) -> str:
        return os.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


ENVIRONMENT = Environment()


def hidden(given: Kind | str) -> "Kind | Secret":
    """What was given, with a text made a secret, so that the variable it is assigned to shows none."""
    return Secret(given) if isinstance(given, str) else given
