"""Which backend the settings ask for. What those that order elsewhere need is loaded only for whoever asks for it."""

import os
from collections.abc import Callable, Mapping

from yandexart_grpc import auth
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.server.allowance import UNLIMITED, Quota
from yandexart_grpc.server.backends.base import Backend
from yandexart_grpc.server.backends.demo import DemoBackend
from yandexart_grpc.server.settings import ServerSettings


def _demo(settings: ServerSettings) -> Backend:
    return DemoBackend(settings.duration)


def _cloud(settings: ServerSettings) -> Backend:
    from yandexart_grpc.server.backends.cloud import CloudBackend  # it is a whole client

    quota = Quota.parse(settings.quota) if settings.quota else Quota()
    return CloudBackend(
        settings.upstream,
        authorization=_authorization(settings),
        timeout=settings.upstream_timeout,
        reads_per_second=quota.reads_per_second if quota.reads < UNLIMITED else None,
    )


def _images(settings: ServerSettings) -> Backend:
    from yandexart_grpc.server.backends import images  # its HTTP client takes long to import

    return images.ImagesBackend(
        settings.upstream or images.UPSTREAM,
        authorization=_authorization(settings),
        model_map=settings.model_map,
        refuse=settings.on_unsupported == "refuse",
    )


BACKENDS: Mapping[str, Callable[[ServerSettings], Backend]] = {"demo": _demo, "images": _images, "cloud": _cloud}
"""Backends by name."""


def _authorization(settings: ServerSettings) -> str | None:
    """What is sent with every order; None where each goes with that of its caller."""
    if settings.upstream_credentials == "caller":
        return None
    credential = auth.find(None, os.environ)
    if not isinstance(credential, auth.Credential):
        raise ValueError("upstream_credentials: 'server' needs one of YC_API_KEY, YC_IAM_TOKEN in the environment")
    return credential.authorization


def backend_of(settings: ServerSettings) -> Backend:
    """The backend of that name, or the one that was given. Raises `ConfigurationError`."""
    if not isinstance(settings.backend, str):
        return settings.backend
    if settings.backend not in BACKENDS:
        raise ConfigurationError(f"backend: {settings.backend!r} is none of {', '.join(map(repr, BACKENDS))}")
    try:
        return BACKENDS[settings.backend](settings)
    except ImportError as error:
        needed = "pip install 'yandexart-grpc[server]'"
        raise ConfigurationError(f"backend: {settings.backend!r} needs more packages: {needed} ({error})") from error
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
