"""The OpenAI door: the Images API as the `openai` package speaks it. It translates; `operations` decides.

One request is as many operations as it asks for pictures. They go on when the caller hangs up, and answer the same request with
the same `Idempotency-Key`. Their ids stand in `x-request-id`: the REST door knows them.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from yandexart_grpc.errors import ContentRefused, OperationTimeout, Unavailable, YandexArtError, row
from yandexart_grpc.image import Image
from yandexart_grpc.server.answers import to_status
from yandexart_grpc.server.callers import Caller, Callers
from yandexart_grpc.server.doors.http import HOLE, Endpoint, answer, authorization, object_of, sent, with_images
from yandexart_grpc.server.doors.promises import LONGEST_HOLD
from yandexart_grpc.server.doors.streams import HEARTBEAT, PAUSE_MARK, event, stream, with_pauses
from yandexart_grpc.server.doors.wishes import BadParameter, Wish
from yandexart_grpc.server.operations import Operations
from yandexart_grpc.stubs import ImageGenerationResponse, Operation

GENERATIONS, MODELS = "/v1/images/generations", "/v1/models"
MODEL_NAMES = ("yandex-art/latest", "yandex-art-2.0", "aliceai-image-art-3.0")
"""The models of the service (contract/service.md, "The request")."""
LONGEST_WAIT = 900.0
"""Seconds after which a caller is not held any longer; the operations go on."""
PAUSE = 1.0
"""Seconds from one look to the next, where too many are held for one more."""
NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Tokens are not counted here."""
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
"""What an error is called, by its status; others below 500 are faults of the request, and above of the server."""


class OpenAI:
    """Takes requests, and waits for their pictures."""

    def __init__(self, operations: Operations, callers: Callers) -> None:
        self._operations, self._callers = operations, callers

    def routes(self) -> list[tuple[tuple[str, ...], str, Endpoint]]:
        """Everything that is served: methods, path and endpoint."""
        return [(("POST",), GENERATIONS, self.generate), (("GET",), MODELS, self.models)]

    async def models(self, request: Request) -> Response:
        """The names of the models."""
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "yandex"} for name in MODEL_NAMES]
        return JSONResponse({"object": "list", "data": models})

    async def generate(self, request: Request) -> Response:
        """Have pictures made, and hand them over."""
        caller = self._callers.known(authorization(request))
        wish = Wish.read(await object_of(request), request.headers.get("openai-project", "").strip() or caller.folder or "")
        given, ids = sent(request, caller), list[str]()
        try:
            for at, one in enumerate(wish.requests):
                key = f"{given['key']}/{at}" if given["key"] and at else given["key"]
                ids.append((await self._operations.accept(one.to_proto(), **(given | {"key": key}))).id)
            headers = {"x-request-id": ",".join(ids)}
            if wish.stream:
                events = self._events(ids[0], caller, wish.partial_images)
                return stream(events, headers)
            images = [Image.from_operation(await self._finished(one, caller, request), None) for one in ids]
            return Response(_answer(images), headers=headers, media_type="application/json")
        except YandexArtError as error:
            if not ids:
                raise
            # The `openai` package sends again by itself what may pass: without a key, that would order again.
            retry = {} if given["key"] else {"x-should-retry": "false"}
            return answer(error, nested, headers={"x-request-id": ",".join(ids), **retry})

    async def _finished(self, operation_id: str, caller: Caller, request: Request | None = None) -> Operation:
        """The operation once it is done; a caller who hangs up is not waited for."""
        until = time.monotonic() + LONGEST_WAIT
        hold = min(LONGEST_HOLD, LONGEST_WAIT)
        while not (operation := await self._operations.look(operation_id, hold, caller=caller)).done:
            if self._operations.stopping:
                raise _stopping(operation_id)
            if time.monotonic() >= until:
                raise OperationTimeout(f"operation {operation_id} is not done after {LONGEST_WAIT:g} s, and goes on")
            if request is not None and await request.is_disconnected():
                raise ClientDisconnect
            if not self._operations.may_hold(caller):
                await asyncio.sleep(PAUSE)
        return operation

    async def _news(self, operation_id: str, caller: Caller, partial_images: int) -> AsyncIterator[bytes | Operation]:
        """What a stream tells: so many sketches, and then the finished operation."""
        if partial_images:
            async for news in self._operations.follow(operation_id, caller=caller):
                if isinstance(news, Operation):
                    yield news
                elif partial_images:
                    partial_images -= 1
                    yield news
        else:
            yield await self._finished(operation_id, caller)

    async def _events(self, operation_id: str, caller: Caller, partial_images: int) -> AsyncIterator[bytes]:
        """The stream of one picture."""
        index = 0
        try:
            async for news in with_pauses(self._news(operation_id, caller, partial_images), HEARTBEAT):
                if news is None:
                    yield PAUSE_MARK
                elif isinstance(news, bytes):
                    sketch = Image.from_operation(_sketched(operation_id, news), None)
                    yield _event("image_generation.partial_image", sketch, partial_image_index=index)
                    index += 1
                elif not news.done:
                    raise _stopping(operation_id)
                else:
                    yield _event("image_generation.completed", Image.from_operation(news, None), usage=NO_USAGE)
        except YandexArtError as error:
            yield event("error", json.dumps({"type": "error", **nested(error)}).encode())


def nested(error: YandexArtError) -> dict[str, Any]:
    """An error in the shape that the `openai` package reads."""
    entry = row(error.code or type(error))
    kind = KINDS.get(entry.http, "invalid_request_error" if entry.http < 500 else "server_error")
    code = "content_policy_violation" if isinstance(error, ContentRefused) else entry.code.name.lower()
    param = error.name if isinstance(error, BadParameter) else None
    return {"error": {"message": to_status(error).message, "type": kind, "param": param, "code": code}}


def _answer(images: Sequence[Image]) -> bytes:
    data = [{"b64_json": HOLE}] * len(images)
    content = {"created": int(time.time()), "data": data, **_look(images[0]), "usage": NO_USAGE}
    return with_images(content, [image.data for image in images])


def _look(image: Image) -> dict[str, str]:
    kind, size = image.mime_type.removeprefix("image/"), f"{image.width}x{image.height}"
    return {"background": "opaque", "output_format": kind, "quality": "high", "size": size}


def _event(kind: str, image: Image, **more: object) -> bytes:
    content = {"type": kind, "b64_json": HOLE, "created_at": int(time.time()), **_look(image), **more}
    return event(kind, with_images(content, [image.data]))


def _sketched(operation_id: str, sketch: bytes) -> Operation:
    """What the operation would be if it were done with that, so that a sketch is checked as a picture is."""
    operation = Operation(id=operation_id, done=True)
    operation.response.Pack(ImageGenerationResponse(image=sketch))
    return operation


def _stopping(operation_id: str) -> Unavailable:
    return Unavailable(f"the server stops; operation {operation_id} is kept, and goes on when the server is back")
