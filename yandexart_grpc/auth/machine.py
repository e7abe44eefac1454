"""Tokens of the machine that this runs on: its metadata service, and the `yc` that somebody has signed in with."""

import json
import subprocess
from collections.abc import Mapping

from yandexart_grpc.auth.secret import ENVIRONMENT, Secret
from yandexart_grpc.auth.token import Token
from yandexart_grpc.errors import ConfigurationError, Unavailable

PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
ADDRESS = "169.254.169.254"


class MetadataService:
    """The service account of a virtual machine or a function, as its metadata service tells (`YC_METADATA_ADDR`, or the
    well-known address). `timeout` is in seconds.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 5.0, environ: Mapping[str, str] = ENVIRONMENT) -> None:
        self.address = (address or environ.get("YC_METADATA_ADDR") or ADDRESS).removeprefix("http://").rstrip("/")
        self._timeout = timeout

    def token(self, timeout: float | None = None) -> Token:
        """Ask for the token. Raises `Unavailable`, which says why there is none."""
        found = _asked(self.address, timeout or self._timeout)
        if isinstance(found, str):
            raise Unavailable(f"the metadata service at {self.address} gave no token: {found}")
        return found

    def __repr__(self) -> str:
        return f"MetadataService({self.address!r})"


def _asked(address: str, timeout: float) -> Token | str:
    """The token, or why there is none."""
    from http.client import HTTPConnection, HTTPException

    try:
        connection = HTTPConnection(address, timeout=timeout)
        try:
            connection.request("GET", PATH, headers={"Metadata-Flavor": "Google"})
            answer = connection.getresponse()
            if answer.status != 200:
                return f"HTTP {answer.status} {answer.reason}"
            return _read(Secret(answer.read(100_000).decode()))
        finally:
            connection.close()
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except (OSError, HTTPException, ValueError) as error:
        return str(error) or type(error).__name__


def _read(body: Secret) -> Token | str:
    try:
        found = json.loads(body.reveal())
        return Token(found["access_token"], float(found["expires_in"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its answer is not {access_token, expires_in}"


class YcCli:
    """The token of `yc iam create-token`: whoever has signed in on this machine. `profile` is one of `yc` (`YC_PROFILE`, or the
    one it uses by itself); `timeout` is in seconds.

    Raises `ConfigurationError` when there is no `yc` on the path.
    """

    def __init__(self, profile: str | None = None, *, timeout: float = 10.0, environ: Mapping[str, str] = ENVIRONMENT) -> None:
        from shutil import which

        found = which("yc", path=environ.get("PATH", ""))
        if found is None:
            raise ConfigurationError("yc is not on the path")
        self._program = found
        self._profile = profile or environ.get("YC_PROFILE")
        self._timeout = timeout

    def token(self) -> Token:
        """Run it. Raises `Unavailable` with its own words where it gives no token."""
        profile = ["--profile", self._profile] if self._profile else []
        found = _told([self._program, "iam", "create-token", *profile], self._timeout)
        if isinstance(found, str):
            raise Unavailable(f"`yc iam create-token` gave no token: {found}")
        return found

    def __repr__(self) -> str:
        return f"YcCli({self._profile!r})"


def _told(command: list[str], timeout: float) -> Token | str:
    """The token, or why there is none."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False)
        if ended.returncode == 0:
            return Token(ended.stdout.strip().rpartition("\n")[2])
        return ended.stderr.strip().rpartition("\n")[2] or f"it ended with {ended.returncode}"
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout:g} s"
    except (OSError, ValueError) as error:
        return str(error)
