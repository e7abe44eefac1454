"""The page: a gallery of operations as they live, for people with a browser. It translates; `operations` decides.

What it shows is fetched by its script, below `/page/`, with the key of whoever looks. It orders and cancels at the REST door, as
everybody does. What callers wrote is JSON here and text there, never HTML.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from importlib import resources
from typing import Any, cast, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from yandexart_grpc.again import command_of, program_of
from yandexart_grpc.errors import InvalidRequest, NotFound, QuotaExceeded, YandexArtError, code_of
from yandexart_grpc.image import whole_jpeg
from yandexart_grpc.server.callers import Caller, Callers
from yandexart_grpc.server.doors.http import Endpoint, authorization, object_of, require_known_host
from yandexart_grpc.server.doors.openai import MODEL_NAMES
from yandexart_grpc.server.doors.rest import flat
from yandexart_grpc.server.doors.streams import HEARTBEAT, PAUSE_MARK, event, stream, with_pauses
from yandexart_grpc.server.live import MOST, OVERLAP
from yandexart_grpc.server.operations import Operations
from yandexart_grpc.server.store import Kind, Listed, Row, Selection
from yandexart_grpc.stubs import ImageGenerationResponse, Operation

FILES = {"/": "index.html", "/page/style.css": "style.css", "/page/script.js": "script.js"}
"""What everybody may see: there is nothing of anybody in it."""
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""Say that the page is made of its own files and nothing else, is shown inside no other, tells nobody where it is, and leaves
nothing behind in a browser.
"""
USUAL_LIST, LONGEST_LIST = 50, 200
"""Operations of one answer, where nobody says how many, and at the most."""
LONGEST_SEARCH = 500
"""Characters of a search."""
GATHERING = 0.1
"""Seconds for which news is gathered before it is told, so that a thousand operations a second are ten events."""


class Page:
    """Shows callers their operations."""

    def __init__(self, operations: Operations, callers: Callers, endpoint: Callable[[], str]) -> None:
        """`endpoint` tells the address of the gRPC door."""
        self._operations, self._callers, self._endpoint = operations, callers, endpoint
        self._gallery = operations.gallery

    def routes(self) -> list[tuple[tuple[str, ...], str, Endpoint]]:
        """Everything that is served: methods, path and endpoint."""
        one = "/page/operations/{id}"
        shown = {
            "/page/session": self.session,
            "/page/figures": self.figures,
            "/page/news": self.news,
            one: self.get,
            f"{one}/thumbnail": self.thumbnail,
            f"{one}/image": self.image,
            f"{one}/sketches": self.sketches,
        }
        files = [(("GET",), path, _file(name)) for path, name in FILES.items()]
        return [*files, (("POST",), "/page/list", self.list), *((("GET",), path, endpoint) for path, endpoint in shown.items())]

    async def session(self, request: Request) -> Response:
        """Who looks, and what he may order."""
        caller = self._known(request)
        told = {"caller": caller.name, "folder": caller.folder, "keys": self._callers.are_named}
        return _json({**told, "charges": self._operations.charges, "models": MODEL_NAMES})

    async def list(self, request: Request) -> Response:
        """The caller's newest operations. What is searched for may be a prompt, so it stands in a body and in no address."""
        caller = self._known(request)
        selection = _selection(await object_of(request))
        found = await self._gallery.listed(selection, caller)
        return _json({"operations": [_told(one) for one in found], "now": time.time()})

    async def get(self, request: Request) -> Response:
        """One operation, with the command and the program that make its picture again."""
        row = await self._row(request)
        again = {"endpoint": self._endpoint(), "name": row.id}
        told: dict[str, Any] = {"command": command_of(row.request, **again), "program": program_of(row.request, **again)}
        with suppress(NotFound):
            data, width, height = _picture(row)
            told |= {"bytes": len(data), "width": width, "height": height}
        if isinstance(row.outcome, ImageGenerationResponse):
            told["modelVersion"] = row.outcome.model_version
        return _json(_told(Listed.of(row)) | told)

    async def image(self, request: Request) -> Response:
        """The picture."""
        data, width, height = _picture(await self._row(request))
        return _jpeg(data, width, height)

    async def thumbnail(self, request: Request) -> Response:
        """The picture made small; the headers tell how large it is."""
        caller = self._known(request)
        small = await self._gallery.thumbnail(request.path_params["id"], caller)
        return _jpeg(small.image, small.width, small.height)

    async def figures(self, request: Request) -> Response:
        """Lag and reads of the caller's last pictures on this server, and what is left of quotas."""
        caller = self._known(request)
        lags, reads = self._gallery.figures.of(caller.name)
        left = await self._gallery.left(caller, request.query_params.get("folder", ""))
        quotas = [{"folder": one.folder, "minute": one.minute, "day": one.day, "ends": one.ends} for one in left]
        return _json({"lags": lags, "reads": reads, "quotas": quotas})

    async def news(self, request: Request) -> Response:
        """The caller's operations as something happens to them, and those of after `since`."""
        caller = self._known(request)
        since = _number(request, "since")
        return self._stream(caller, self._news(caller, since))

    async def sketches(self, request: Request) -> Response:
        """The sketches of a picture as they are made, and then the operation."""
        caller = self._known(request)
        row = await self._gallery.row(request.path_params["id"], caller)
        return self._stream(caller, self._drawn(row.id, caller))

    def _known(self, request: Request) -> Caller:
        require_known_host(request)
        return self._callers.known(authorization(request))

    async def _row(self, request: Request) -> Row:
        caller = self._known(request)
        return await self._gallery.row(request.path_params["id"], caller)

    def _stream(self, caller: Caller, events: AsyncGenerator[bytes, None]) -> Response:
        if not self._operations.may_hold(caller):
            raise QuotaExceeded("too many reads and pages are held already; try again later", retry_after=HEARTBEAT)
        return stream(self._seated(caller, events), HEADERS)

    async def _seated(self, caller: Caller, events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        with self._operations.held(caller):
            try:
                async with aclosing(events):
                    async for told in events:
                        yield told
            except YandexArtError as error:
                yield event("error", json.dumps(flat(error)).encode())

    async def _news(self, caller: Caller, since: float | None) -> AsyncGenerator[bytes, None]:
        with self._gallery.live.viewed(caller.name) as viewer:
            missed = list[Listed]()
            if since is not None:
                selection = Selection(since=since - OVERLAP, limit=MOST)
                missed = await self._gallery.listed(selection, caller)
            yield _news_of(missed, more=len(missed) == MOST)
            while not viewer.closed:
                news, more = await viewer.news(HEARTBEAT)
                yield _news_of(news, more=more)
                await asyncio.sleep(GATHERING)

    async def _drawn(self, operation_id: str, caller: Caller) -> AsyncGenerator[bytes, None]:
        async for news in with_pauses(self._operations.follow(operation_id, caller=caller), HEARTBEAT):
            if news is None:
                yield PAUSE_MARK
            elif isinstance(news, Operation):
                row = await self._gallery.row(operation_id, caller)
                yield event("operation", _dumped(_told(Listed.of(row))))
            else:
                with suppress(ValueError):  # a sketch that is none is not shown
                    yield event("sketch", _dumped({"image": base64.b64encode(whole_jpeg(news)[0]).decode()}))


def _file(name: str) -> Endpoint:
    content = resources.files(__package__).joinpath("static", name).read_bytes()
    kind = TYPES[name.rpartition(".")[2]]

    async def file(_: Request) -> Response:
        return Response(content, headers=HEADERS | {"cache-control": "no-cache"}, media_type=kind)

    return file


def _selection(asked: dict[str, Any]) -> Selection:
    """What a list is asked for. Raises `InvalidRequest`."""
    kind, search, limit, before = (asked.pop(name, None) for name in ("kind", "search", "limit", "before"))
    for name in asked:
        raise InvalidRequest(f"{name}: there is no such field")
    if kind is not None and kind not in get_args(Kind):
        raise InvalidRequest(f"kind: {kind!r} is none of {', '.join(map(repr, get_args(Kind)))}")
    if not isinstance(search, str | None) or len(search or "") > LONGEST_SEARCH:
        raise InvalidRequest(f"search: not a text of up to {LONGEST_SEARCH} characters")
    if limit is not None and (type(limit) is not int or not 1 <= limit <= LONGEST_LIST):
        raise InvalidRequest(f"limit: {limit!r} is not an integer from 1 to {LONGEST_LIST}")
    match before:
        case None:
            place = None
        case [int() | float() as created, str() as name] if abs(created) < 2**53:
            place = (float(created), name)
        case _:
            raise InvalidRequest("before: not the time and the id of an operation, [1763640000.5, 'fbv…']")
    return Selection(before=place, kind=cast("Kind | None", kind), search=search or "", limit=limit or USUAL_LIST)


def _number(request: Request, name: str) -> float | None:
    if (given := request.query_params.get(name)) is None:
        return None
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not abs(number) < 2**53:
        raise InvalidRequest(f"{name}: {given!r} is not a number")
    return number


def _told(one: Listed) -> dict[str, Any]:
    """An operation as the page is told of it. A seed is a text: a script would round it."""
    folder, _, model = one.request.model_uri.removeprefix("art://").partition("/")
    width, height = one.request.aspect_ratio
    error = one.error and {"code": code_of(one.error.code).name, "message": one.error.message}
    return {
        "id": one.id,
        "caller": one.caller,
        "prompt": one.request.prompt,
        "messages": [{"text": text, "weight": weight} for text, weight in one.request.messages],
        "folder": folder,
        "model": model,
        "seed": str(one.request.seed or ""),
        "ratio": f"{width}:{height}" if width else "",
        "kind": one.kind,
        "created": one.created,
        "started": one.started,
        "ended": one.ended,
        "charged": one.charged,
        "attempts": one.attempts,
        "warnings": one.warnings,
        "error": error,
    }


def _picture(row: Row) -> tuple[bytes, int, int]:
    """The picture of an operation, with width and height. Raises `NotFound` where it has none."""
    if not isinstance(row.outcome, ImageGenerationResponse):
        raise NotFound(f"Operation {row.id!r} has no picture")
    try:
        return whole_jpeg(row.outcome.image)
    except ValueError as error:
        raise NotFound(f"Operation {row.id!r} holds {error}") from error


def _jpeg(data: bytes, width: int, height: int) -> Response:
    return Response(data, headers=HEADERS | {"x-image-size": f"{width}x{height}"}, media_type="image/jpeg")


def _json(content: Any) -> Response:
    return JSONResponse(content, headers=HEADERS)


def _news_of(news: list[Listed], *, more: bool) -> bytes:
    return event("news", _dumped({"operations": [_told(one) for one in news], "more": more, "now": time.time()}))


def _dumped(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
