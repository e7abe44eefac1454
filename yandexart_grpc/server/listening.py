"""Where a server listens: which addresses it may take, the sockets, and the certificates."""

import re
import socket
import ssl
from pathlib import Path

import grpc

from yandexart_grpc.address import is_loopback
from yandexart_grpc.errors import ConfigurationError
from yandexart_grpc.server.settings import ServerSettings

EVERYWHERE = ("0.0.0.0", "[::]")
"""Addresses to bind to, and none to reach anybody at."""
BACKLOG = 2048
"""Connections that may wait to be taken."""


def free(settings: ServerSettings) -> str:
    """The host to listen on, whose port can be had: why it cannot, gRPC tells only to stderr."""
    host, port = address_of("listen", settings.listen, settings)
    bound_at("listen", host, port, settings).close()
    return host


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Let the server listen there, with TLS where it has credentials, and return the port."""
    return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)


def address_of(name: str, where: str, settings: ServerSettings) -> tuple[str, int]:
    """Host and port of the setting of that name."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d{1,5})", where, re.ASCII)
    if not found or int(found[2]) > 65535:
        raise ConfigurationError(f"{name}: {where!r} is not host:port with a port from 0 to 65535")
    if not is_loopback(found[1]) and (danger := _danger(settings)):
        raise ConfigurationError(f"{name}: {found[1]!r} is not loopback, and {danger}")
    return found[1], int(found[2])


def _danger(settings: ServerSettings) -> str | None:
    """Why others than this machine may not reach the server as it is set."""
    if settings.key_file:
        if settings.tls_cert or settings.allow_plaintext:
            return None
        return "keys would cross the network in plaintext; give tls_cert, or allow_plaintext where something in front speaks TLS"
    if settings.client_ca or settings.allow_anonymous:
        return None
    return "whoever reaches it could order; give key_file or client_ca, or permit that by allow_anonymous"


def bound_at(name: str, host: str, port: int, settings: ServerSettings) -> socket.socket:
    """A socket that listens at the address of the setting of that name."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigurationError(f"{name}: {getattr(settings, name)!r} cannot be bound: {error.strerror}") from error
    return bound


def reachable(host: str) -> str:
    """The host under which others reach who listens there."""
    return socket.gethostname() if host in EVERYWHERE else host


def certificate(settings: ServerSettings) -> grpc.ServerCredentials:
    """What the server shows its clients, and wants to see of them. Raises `ConfigurationError`."""
    for name, path in (("tls_key", settings.tls_key), ("tls_cert", settings.tls_cert)):
        if path is None:
            raise ConfigurationError(f"{name}: none given; a certificate and its key are needed together")
    key, cert = Path(str(settings.tls_key)), Path(str(settings.tls_cert))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:  # an SSLError is one
        raise ConfigurationError(f"tls_cert {str(cert)!r}, tls_key {str(key)!r}: {error}") from error
    authority = None if settings.client_ca is None else _authority(settings.client_ca)
    pair = (key.read_bytes(), cert.read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _authority(path: str) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"client_ca {path!r}: {error}") from error
