"""Credentials: which one a client uses, and the header it becomes (contract/service.md, "Who may call")."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

VARIABLES = ("YC_API_KEY", "YC_IAM_TOKEN")


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key or an IAM token. Its `repr` shows neither."""

    authorization: str = field(repr=False)
    """The value of the `authorization` header."""

    @classmethod
    def parse(cls, text: str) -> "Credential":
        """Sort a bare string by its prefix: `t<digit>.` is an IAM token, anything else an API key.

        Raises `ValueError`, which never quotes the secret.
        """
        text = text.strip()
        if not text:
            raise ValueError("empty")
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"{len(text)} characters that hold a line break, a space or a character that is not printable ASCII")
        if re.match(r"y[0-3]_", text):
            raise ValueError("an OAuth token, which the service does not take; exchange it for an IAM token")
        scheme = "Bearer" if re.match(r"t\d\.", text) else "Api-Key"
        return cls(f"{scheme} {text}")


def find(given: str | None, environ: Mapping[str, str]) -> Credential | None:
    """The credential given, else the one in the environment, else none.

    Raises `ValueError` that names the setting when a credential is malformed, or when the environment holds two.
    """
    found = {name: environ[name] for name in VARIABLES if environ.get(name)}
    sources = found if given is None else {"credentials": given}
    if len(sources) > 1:
        raise ValueError(f"credentials: {' and '.join(sources)} are both set; keep one, or pass credentials=")
    for name, text in sources.items():
        try:
            return Credential.parse(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return None
