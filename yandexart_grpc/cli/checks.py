"""The steps from this machine to a picture, each tried by itself, so that the first that fails tells what is wrong.

Nothing is ordered: that a credential is accepted shows a question for an operation that does not exist.
"""

import os
import pkgutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from math import isinf
from pathlib import Path
from typing import NamedTuple

from yandexart_grpc import InvalidRequest, NotFound, Unavailable, YandexArt, YandexArtError, auth
from yandexart_grpc._drive import drive
from yandexart_grpc.address import Endpoint, address_of_proxy
from yandexart_grpc.meaning import RETIRED, RIGHTS, meaning
from yandexart_grpc.settings import Settings

PATIENCE = 5.0
"""Seconds for each step."""
NOBODY = "fbvdoctor00000000000"
"""The id of an operation that does not exist."""
CERTIFICATES = {9: "is not valid yet", 10: "has expired", 62: "is that of another host", 64: "is that of another host"}
"""What OpenSSL's codes say of a certificate; any other says that nobody who is trusted vouches for it."""


class Check(NamedTuple):
    """A step that was tried."""

    step: str
    where: str
    says: str
    error: YandexArtError | None = None


class Pair(NamedTuple):
    """The files of a client certificate and its key."""

    certificate: str | None
    key: str | None


def checks(art: YandexArt, pair: Pair) -> Iterator[Check]:
    """Try the steps one after the other, up to the first that fails."""
    try:
        if directory := art._settings.discovery:
            yield from _reach(directory, art._settings, pair)
            _locate(art, directory)
            yield Check("discovery", str(art._settings.endpoint), "is where the directory sends orders")
        settings = art._settings
        places = [_beyond(settings.endpoint), _beyond(settings.operation_endpoint)]
        if isinstance(settings.source, auth.Exchanged):
            places.append(settings.iam_endpoint)
        for place in dict.fromkeys(places):
            if place.is_known and not place.embedded:
                yield from _reach(place, settings, pair)
        yield from _renew(art)
        yield from _ask(art, settings)
    except _Failed as failed:
        yield failed.check


class _Failed(Exception):
    """The step that ends the tries."""

    def __init__(self, step: str, where: str, error: YandexArtError) -> None:
        super().__init__(str(error))
        self.check = Check(step, where, str(error), error)


def _locate(art: YandexArt, directory: Endpoint) -> None:
    try:
        art._locate()
    except YandexArtError as error:
        raise _Failed("discovery", str(directory), error) from error


def _beyond(endpoint: Endpoint) -> Endpoint:
    """Where the pictures come from in the end."""
    if endpoint.embedded != "images":
        return endpoint
    from yandexart_grpc.server.backends import images  # installed, because it runs in this process

    return Endpoint.parse(endpoint.upstream or images.UPSTREAM)


def _reach(endpoint: Endpoint, settings: Settings, pair: Pair) -> Iterator[Check]:
    """Name, connection, proxy and certificate, as gRPC would go about them."""
    if endpoint.balanced and not endpoint.target.startswith("dns:///"):
        yield Check("name", endpoint.target, "is asked of a name server of its own, and only gRPC does that")
        return
    proxy = address_of_proxy(endpoint, os.environ) if settings.proxy and not endpoint.is_here else None
    near = Endpoint.parse(f"http://{proxy if ':' in proxy else f'{proxy}:80'}") if proxy else endpoint
    yield from _resolve(near)
    with _connect(near, proxy) as connection:
        yield Check("connection", near.target, "is accepted")
        if proxy:
            _tunnel(connection, proxy, endpoint)
            yield Check("proxy", proxy, f"lets through to {endpoint.target}; the environment names it, and --no-proxy uses none")
        if not endpoint.plaintext:
            yield _secure(connection, endpoint, settings, pair)


def _resolve(endpoint: Endpoint) -> Iterator[Check]:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        text = f"no address is known for {endpoint.host!r} ({error}). Is the name right, and is there a way to a name server?"
        raise _Failed("name", endpoint.host, Unavailable(text)) from error
    yield Check("name", endpoint.host, f"is {', '.join(sorted(found))}")


def _connect(endpoint: Endpoint, proxy: str | None) -> socket.socket:
    try:
        return socket.create_connection((endpoint.host, endpoint.port), PATIENCE)
    except OSError as error:
        text = f"no connection to {endpoint.target} ({error}). "
        if proxy:
            text += "That is the proxy which the environment names (https_proxy): mend it, unset it, or use none by --no-proxy"
        else:
            text += "Does a server run there, is that its port, and does no firewall stand between?"
        raise _Failed("connection", endpoint.target, Unavailable(text)) from error


def _tunnel(connection: socket.socket, proxy: str, endpoint: Endpoint) -> None:
    target = endpoint.target.rpartition("/")[2]
    answer = ""
    with suppress(OSError):
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        answer = connection.recv(4096).decode(errors="replace").split("\r\n")[0]
    if " 200" not in answer:
        text = (
            f"the proxy {proxy}, which the environment names (https_proxy), does not let through: {answer or 'no answer'}."
            f" Use none (--no-proxy, proxy=False), add {endpoint.host} to no_proxy, or have the proxy allow it"
        )
        raise _Failed("proxy", proxy, Unavailable(text))


def _secure(connection: socket.socket, endpoint: Endpoint, settings: Settings, pair: Pair) -> Check:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=_authorities(settings))
    if pair.certificate:
        context.load_cert_chain(pair.certificate, pair.key)
    try:
        with context.wrap_socket(connection, server_hostname=endpoint.host) as secured:
            with suppress(TimeoutError):
                if not secured.recv(1):  # a server that wants a certificate is not content only after the handshake
                    raise ConnectionResetError("the server hung up after the handshake")
            return Check("certificate", endpoint.host, f"is good, over {secured.version()}")
    except OSError as error:
        raise _Failed("certificate", endpoint.host, Unavailable(_untrusted(endpoint, error, settings))) from error


def _authorities(settings: Settings) -> str:
    """Those that gRPC trusts."""
    if settings.root_certificates is not None:
        return settings.root_certificates.decode()
    named = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    brought = Path(named).read_bytes() if named else pkgutil.get_data("grpc", "_cython/_credentials/roots.pem")
    return (brought or b"").decode()


def _untrusted(endpoint: Endpoint, error: OSError, settings: Settings) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = CERTIFICATES.get(error.verify_code, "is vouched for by nobody who is trusted here")
        text = f"the certificate of {endpoint.host} {fault} ({error.verify_message}). "
        if error.verify_code in (9, 10):
            now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            return f"{text}The clock of this machine says {now}: set the clock if that is wrong, else renew the certificate"
        if fault.endswith("host"):
            return f"{text}Call the server by the name that stands in it"
        given = "--root-certificates holds another" if settings.root_certificates else "name a file with its own"
        return f"{text}It needs the right authority: {given} (root_certificates=, a PEM file)"
    reason = getattr(error, "reason", None) or str(error)
    if "NO_APPLICATION_PROTOCOL" in reason:
        return f"{endpoint.target} speaks no HTTP/2, and so no gRPC ({reason}): is the port right?"
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason:
        return f"{endpoint.target} speaks no TLS ({reason}): http://{endpoint.target} would be its address"
    if isinstance(error, ConnectionError) or "CERTIFICATE" in reason or "HANDSHAKE" in reason:
        which = "another certificate" if settings.client_certificate else "a certificate"
        return f"{endpoint.target} wants {which} of this client ({reason}): --client-certificate and --client-key show one"
    return f"no secure connection to {endpoint.target} ({reason})"


def _renew(art: YandexArt) -> Iterator[Check]:
    """The first token, which the steps after this one use."""
    if art._tokens is None:
        return
    source = repr(art._settings.source)
    try:
        held = drive(art._tokens.current(PATIENCE), art._call, art._naps.nap)
    except YandexArtError as error:
        raise _Failed("token", source, error) from error
    left = held.end - art._pace.now()
    yield Check("token", source, "gave one" if isinf(left) else f"gave one that holds for {left:.0f} s")


def _ask(art: YandexArt, settings: Settings) -> Iterator[Check]:
    """What the server says: to anybody, and to the credential."""
    target, credential = settings.endpoint.target or str(settings.endpoint), settings.trust is not None
    try:
        art.warm_up(timeout=2 * PATIENCE)
    except YandexArtError as error:
        raise _Failed("server", target, error) from error
    yield Check("server", target, "answers")
    try:
        art.operation(NOBODY).done()
    except NotFound:
        pass  # which tells that the credential may ask
    except YandexArtError as error:
        if not isinstance(error, InvalidRequest) or (error.code and meaning(error.code, error.details or "")):
            raise _Failed("credential", target, error) from error
    if settings.endpoint.embedded:
        says = "is not tried: it would take an order" if settings.endpoint.embedded == "images" else "is not needed"
    else:
        says = f"is accepted; that it may order pictures ({RIGHTS}) shows an order alone" if credential else "is not wanted"
    yield Check("credential", target, says)
    if settings.folder_id is None:
        yield Check("folder", "", "is not set; a model needs one: --folder-id, folder_id= or YC_FOLDER_ID")
    if settings.endpoint.is_yandex:
        yield Check("model", target, RETIRED)
