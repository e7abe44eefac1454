"""Who calls: API keys in a file. A door asks here once for each request, and passes on to `operations` who it is.

Of a key only the digest is kept, and what is shown is compared with all of them, so that neither memory nor time tells a key.
"""

import hmac
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from yandexart_grpc.errors import ConfigurationError, QuotaExceeded, Unauthenticated
from yandexart_grpc.server.limits import Bucket, Clock

log = logging.getLogger("yandexart_grpc.server")

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<key>[!-~]{1,512})(?:\s+(?P<folder>[^\s/]{1,64}))?")
_SHOWN = re.compile(r"(api-key|bearer) +(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody to whom operations and idempotency keys belong."""

    name: str = ""
    """Empty for everybody, where no keys are asked for."""
    folder: str | None = None
    """The folder for whose models alone he may order."""


ANYBODY = Caller()
Keys = dict[bytes, Caller]
"""Callers by the digests of their keys."""


class Callers:
    """Everybody who may call."""

    def __init__(
        self, key_file: str | None = None, *, requests_per_second: float | None = None, now: Clock = time.monotonic
    ) -> None:
        """Without a file, everybody is one caller without a name. Raises `ConfigurationError` when the file is wrong."""
        self._file = None if key_file is None else Path(key_file)
        self._keys: Keys = {} if self._file is None else _read(self._file)
        self._rate, self._now = requests_per_second, now
        self._buckets: dict[str, Bucket] = {}

    @property
    def are_named(self) -> bool:
        """Whether a caller has to show a key."""
        return self._file is not None

    def known(self, authorization: str) -> Caller:
        """Whose request this is, by what was sent as `authorization`: `Api-Key <key>` or `Bearer <key>`.

        Raises `Unauthenticated` in the words of the real service, and `QuotaExceeded` when the caller asks too often.
        """
        caller = self._owner(authorization) if self.are_named else ANYBODY
        self._let_through(caller)
        return caller

    def reread(self) -> None:
        """Take the keys that are in the file now; where it is wrong, the log says so and the keys stay."""
        if self._file is None:
            return
        try:
            self._keys = _read(self._file)
        except ConfigurationError as error:
            log.error("%s; the keys of before stay in force", error)
        else:
            log.info("%d keys read again", len(self._keys))

    def _owner(self, authorization: str) -> Caller:
        shown = _SHOWN.fullmatch(authorization.strip())
        if not shown:
            raise Unauthenticated("authorization: neither 'Api-Key <key>' nor 'Bearer <key>' was sent")
        digest, owner = _digest(shown[2]), None
        for known, caller in self._keys.items():  # all of them, whichever it is
            if hmac.compare_digest(known, digest):
                owner = caller
        if owner is None:
            is_token = shown[1].lower() == "bearer"
            raise Unauthenticated("Token is invalid or has expired." if is_token else "Unknown api key")
        return owner

    def _let_through(self, caller: Caller) -> None:
        if self._rate is None:
            return
        bucket = self._buckets.setdefault(caller.name, Bucket(self._rate, self._now))
        if wait := bucket.take():
            raise QuotaExceeded(f"requests per second quota limit exceed: allowed {self._rate:g} requests", retry_after=wait)


def _read(file: Path) -> Keys:
    """The callers in a file: a line each, `name key [folder]`; what follows a # is a comment.

    Raises `ConfigurationError` with the number of the line, and without what could be a key.
    """
    keys: Keys = {}
    names = set[str]()
    try:
        for number, name, key, folder in _lines(file):
            if name in names:
                raise ValueError(f"line {number}: the name {name!r} was given before")
            if (digest := _digest(key)) in keys:
                raise ValueError(f"line {number}: {name!r} has the key of {keys[digest].name!r}")
            keys[digest] = Caller(name, folder)
            names.add(name)
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is one, and would show what it could not read
        told = error.strerror if isinstance(error, OSError) else "not UTF-8" if isinstance(error, UnicodeError) else error
        raise ConfigurationError(f"key_file: {str(file)!r}: {told}") from None
    if not keys:
        raise ConfigurationError(f"key_file: {str(file)!r}: there is no key in it")
    return keys


def _lines(file: Path) -> Iterator[tuple[int, str, str, str | None]]:
    """Number, name, key and folder of each line that is not empty."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if not found:
            raise ValueError(
                f"line {number}: not a name, a key of printable ASCII and perhaps a folder, with spaces between them"
            )
        yield number, found["name"], found["key"], found["folder"]


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
