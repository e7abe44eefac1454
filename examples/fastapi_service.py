"""A web service: POST /images orders an image and answers with its id, GET /images/{id} hands it over when it is ready.

    uvicorn --app-dir examples fastapi_service:app

* The process has one client, made when it starts: all requests share its connection, its budget of reads and what it learned.
* An order is answered with 202 as soon as it has an id. Whoever sends an `Idempotency-Key` may send the order again.
* A read waits until the image is ready, `LONGEST_WAIT` at the most; nobody has to ask every second.
* An error has the HTTP status of the table of errors, and its body says what it means for the money.
* At SIGTERM, uvicorn finishes the requests it has, and then the client is closed. What was ordered goes on.

Whoever knows an id gets its image, and keys are those of all users: put in front what tells them apart.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import ceil
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from yandexart_grpc import (
    AsyncYandexArt,
    ConfigurationError,
    OperationTimeout,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    YandexArtError,
)
from yandexart_grpc.errors import TABLE, row

LONGEST_WAIT = 20.0
"""Seconds that a request takes at the most. Whoever stops the service should give it longer than that."""
OURS = (ConfigurationError, PermissionDenied, Unauthenticated)
"""What is wrong with this service, and nothing that its users could mend."""

log = logging.getLogger("uvicorn.error")


class Order(BaseModel):
    """What a user asks for; whether the values are right is known to the client."""

    prompt: str
    aspect_ratio: str | None = None
    seed: int | None = None


class Ordered(BaseModel):
    """What a user gets for it."""

    id: str
    done: bool = False


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, AsyncYandexArt]]:
    """The client, for as long as the process serves. Where it finds its server is said in the environment."""
    async with AsyncYandexArt() as art:
        with suppress(Unavailable):  # the server may come later; whoever orders meanwhile is told
            await art.warm_up(timeout=5)
        yield {"art": art}


def client(request: Request) -> AsyncYandexArt:
    """The client of this process."""
    art: AsyncYandexArt = request.state.art
    return art


Client = Annotated[AsyncYandexArt, Depends(client)]
app = FastAPI(title="Images", lifespan=lifespan)


@app.post("/images", status_code=202)
async def submit(
    order: Order, art: Client, response: Response, idempotency_key: Annotated[str | None, Header()] = None
) -> Ordered:
    """Order an image."""
    operation = await art.submit(
        order.prompt,
        aspect_ratio=order.aspect_ratio,
        seed=order.seed,
        idempotency_key=idempotency_key,
        timeout=LONGEST_WAIT,
    )
    response.headers["Location"] = f"/images/{operation.id}"
    return Ordered(id=operation.id)


@app.get("/images/{operation_id}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
async def image(operation_id: str, art: Client, wait: Annotated[float, Query(gt=0, le=LONGEST_WAIT)] = LONGEST_WAIT) -> Response:
    """The image; or 202, when it is not ready within `wait` seconds."""
    try:
        ready = await art.operation(operation_id).result(timeout=wait)
    except OperationTimeout:
        return JSONResponse(Ordered(id=operation_id).model_dump(), 202)
    return Response(ready.data, media_type=ready.mime_type)


@app.exception_handler(YandexArtError)
async def failed(_: Request, error: YandexArtError) -> JSONResponse:
    """Say what went wrong, and whether the same order may be sent again."""
    if isinstance(error, OURS):
        log.error("%s", error)
        return JSONResponse({"error": "BadGateway", "message": "The service is not set up as it should be"}, 502)
    said = {"error": type(error).__name__, "message": str(error), "billed": error.billed, "resend": error.resend}
    headers = {} if error.retry_after is None else {"Retry-After": str(ceil(error.retry_after))}
    return JSONResponse(said | {"id": error.operation_id}, status_of(error), headers)


def status_of(error: YandexArtError) -> int:
    """The status of its class and code; of its class alone, where the code is none of those."""
    return next((known.http for known in TABLE if (known.error, known.code) == (type(error), error.code)), row(type(error)).http)
