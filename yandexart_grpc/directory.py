"""Asks a directory where the services are: once, in the path of the first call, and without the credential.

Whatever the directory tells, a credential goes only where it was meant to (`address.Trust`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from math import inf
from typing import Any

import grpc

from yandexart_grpc import auth
from yandexart_grpc.address import Endpoint
from yandexart_grpc.channel import open_aio_channel, open_channel
from yandexart_grpc.errors import ConfigurationError, Unavailable, YandexArtError, row
from yandexart_grpc.failures import failure
from yandexart_grpc.settings import Settings
from yandexart_grpc.stubs import ApiEndpointServiceStub, ListApiEndpointsRequest, ListApiEndpointsResponse

TIMEOUT = 5.0
"""Seconds for the answer, on top of what the first call may take."""
SERVICES = {"endpoint": "ai-foundation-models", "operation_endpoint": "operation", "iam_endpoint": "iam"}
"""Settings, and the ids under which a directory knows their addresses (contract/service.md, "Methods and addresses")."""


class Shared:
    """Lets those who waited for a question share its failure, instead of asking one after the other."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._when = -inf
        self._failure: YandexArtError = Unavailable("not asked yet")

    @contextmanager
    def since(self, began: float) -> Iterator[None]:
        """Raise a failure that came after that; or ask, and keep the failure."""
        if self._when > began:
            raise copy(self._failure) from self._failure
        try:
            yield
        except (Unavailable, ConfigurationError) as error:
            self._when, self._failure = self._now(), error
            raise


def locate(settings: Settings) -> Settings:
    """The settings with the addresses that the directory tells. Raises `Unavailable` and `ConfigurationError`."""
    if (place := settings.discovery) is None:
        return settings
    with open_channel(place, settings) as channel, _asking(place):
        answer = ApiEndpointServiceStub(channel).List(ListApiEndpointsRequest(), timeout=_patience(settings))
    return _told(settings, place, answer)


async def alocate(settings: Settings) -> Settings:
    """The same in asyncio."""
    if (place := settings.discovery) is None:
        return settings
    async with open_aio_channel(place, settings) as channel:
        with _asking(place):
            answer = await ApiEndpointServiceStub(channel).List(ListApiEndpointsRequest(), timeout=_patience(settings))
    return _told(settings, place, answer)


def _patience(settings: Settings) -> float:
    return min(TIMEOUT, settings.limits.rpc_timeout)


@contextmanager
def _asking(place: Endpoint) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code, details = failure(error).code(), failure(error).details()
        kind = Unavailable if row(code).error is Unavailable else ConfigurationError
        text = f"discovery: {place} did not tell where the services are: {code.name}: {details}"
        raise kind(text, code=code, details=details) from error


def _told(settings: Settings, place: Endpoint, answer: ListApiEndpointsResponse) -> Settings:
    known = {entry.id: entry.address for entry in answer.endpoints}
    addresses, found = dict[str, Any](), list[str]()
    for name, service in SERVICES.items():
        proofs = name == "iam_endpoint"
        if getattr(settings, name).is_known or (proofs and not isinstance(settings.source, auth.Exchanged)):
            continue  # an argument said it, or nobody needs it
        try:
            address = Endpoint.parse(f"{'http' if place.plaintext else 'https'}://{known[service]}")
        except KeyError:
            found.append(f"{name}: no {service!r} among what it tells")
        except ValueError as error:
            found.append(f"{name}: {error}")
        else:
            if settings.trust:
                found += settings.trust.found_by(place, for_proofs=proofs).problems(name, address)
            addresses[name] = address
    if found:
        raise ConfigurationError(f"discovery: {place} does not help: {'; '.join(found)}")
    return replace(settings, discovery=None, **addresses)
