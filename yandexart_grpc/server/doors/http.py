"""What the doors over HTTP share: how a request is read, and how an error is answered. What it looks like is left to them."""

import asyncio
import base64
import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from grpc import StatusCode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from yandexart_grpc.address import is_loopback
from yandexart_grpc.errors import InvalidRequest, NotFound, PermissionDenied, Unavailable, YandexArtError, row
from yandexart_grpc.server.callers import Caller

log = logging.getLogger("yandexart_grpc.server")

BODY_LIMIT = 1024 * 1024
"""Bytes that a request may have."""
ARRIVAL = 30.0
"""Seconds within which the head of a request has to be here, and then its body."""

HOLE = "\0"
"""Stands in an answer where an image belongs."""

Endpoint = Callable[[Request], Awaitable[Response]]
Shape = Callable[[YandexArtError], dict[str, Any]]
"""How a door says an error, as JSON."""


class Door(NamedTuple):
    """What is served below a path."""

    prefix: str
    shape: Shape
    routes: Sequence[tuple[tuple[str, ...], str, Endpoint]]
    """Methods, path and endpoint."""


class _Fraction(float):
    """A number with a point or an exponent. It is no integer: protobuf would take 9007199254740993.0 for one, and for another."""

    def is_integer(self) -> bool:
        return False


async def object_of(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries; raises `InvalidRequest` for anything else, and for what can be read in two ways."""
    _require_json(request)
    body = await _body(request)
    try:
        found = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_Fraction)
        if b"\\u" in body:
            json.dumps(found, ensure_ascii=False).encode()  # fails where an escape is half of a character
    except RecursionError as error:
        raise InvalidRequest("body: nested too deeply") from error
    except ValueError as error:  # a UnicodeDecodeError is one
        raise InvalidRequest(f"body: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidRequest("body: not a JSON object")
    return found


def with_images(content: dict[str, Any], images: Sequence[bytes]) -> bytes:
    """The content as JSON, each `HOLE` in it filled with the next image in Base64.

    Nothing in Base64 has to be escaped: to look for it in 2 MB would take twice as long as to make them.
    """
    first, *others = json.dumps(content, separators=(",", ":")).encode().split(json.dumps(HOLE).encode())
    parts = [first]
    for image, piece in zip(images, others, strict=True):
        parts += [b'"', base64.b64encode(image), b'"', piece]
    return b"".join(parts)


def authorization(request: Request) -> str:
    """What the caller sent under that name."""
    return request.headers.get("authorization", "").strip()


def require_known_host(request: Request) -> None:
    """Refuse a request without a credential that came over loopback under a name that is not of this machine.

    It is how a page on the web would reach a server that asks nobody for a key: by a name of its own that leads here. Raises
    `PermissionDenied`.
    """
    host, (bound, _) = request.url.hostname or "", request.scope["server"]
    if not authorization(request) and is_loopback(bound) and not is_loopback(host):
        raise PermissionDenied(
            f"host: {host!r} is not a name of this machine, to which a server on loopback answers without a key; call it"
            " 'localhost', or give the server a key_file"
        )


def sent(request: Request, caller: Caller) -> dict[str, Any]:
    """What `Operations.accept` is told of a request beside its message."""
    key = request.headers.get("idempotency-key")
    return {"key": key, "caller": caller, "authorization": authorization(request), "headers": request.headers}


def answer(error: YandexArtError, shape: Shape, *, status: int | None = None, headers: dict[str, str] | None = None) -> Response:
    """The answer that says an error, with the status of the one table where no other is given."""
    told = dict(headers or {})
    if error.retry_after is not None:
        told["retry-after"] = str(math.ceil(error.retry_after))
    return JSONResponse(shape(error), status or row(error.code or type(error)).http, told)


def app(doors: Sequence[Door]) -> Starlette:
    """All doors as one application; a path belongs to the first whose prefix it has."""

    async def lost(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        shape = next(door.shape for door in doors if request.url.path.startswith(door.prefix))
        what = f"{request.method} {request.url.path!r}"
        error = NotFound(f"{what}: no such path") if problem.status_code == 404 else InvalidRequest(f"{what}: no such method")
        return answer(error, shape, status=problem.status_code, headers=dict(problem.headers or {}))

    routes = [
        Route(path, _guarded(endpoint, door.shape), methods=methods) for door in doors for methods, path, endpoint in door.routes
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: lost})


def _guarded(endpoint: Endpoint, shape: Shape) -> Endpoint:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except YandexArtError as error:
            return answer(error, shape)
        except TimeoutError:
            # What is still to come would be taken for the next request.
            return answer(InvalidRequest(f"body: not here within {ARRIVAL:g} s"), shape, headers={"connection": "close"})
        except ClientDisconnect:
            return Response()
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            # It may have been ordered: the `openai` package is told not to send it again by itself.
            broken = Unavailable("Internal error", code=StatusCode.INTERNAL)
            return answer(broken, shape, headers={"x-should-retry": "false"})

    return guarded


def _require_json(request: Request) -> None:
    """Refuse what is said to be no JSON. What `curl --data` says when it is told nothing is taken, as the service takes it.

    A web page can have a browser send that as well, to whatever address it likes; but then the browser names its origin.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    unsaid = media in ("", "application/x-www-form-urlencoded") and "origin" not in request.headers
    if media != "application/json" and not unsaid:
        raise InvalidRequest(f"content-type: {media!r} is not 'application/json'")
    if "origin" in request.headers:
        require_known_host(request)


async def _body(request: Request) -> bytes:
    """The body. One that is too large is read to its end all the same, and dropped, or its sender would not listen."""
    body, size = bytearray(), 0
    async with asyncio.timeout(ARRIVAL):
        async for part in request.stream():
            size += len(part)
            if size <= BODY_LIMIT:
                body += part
    if size > BODY_LIMIT:
        raise InvalidRequest(f"body: {size} bytes exceed the limit of {BODY_LIMIT}")
    return bytes(body)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
