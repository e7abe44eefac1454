"""Everything that is served over HTTP, as one application."""

import asyncio
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from yandexart_grpc.errors import NotFound
from yandexart_grpc.server.callers import Callers
from yandexart_grpc.server.doors.http import Door, app, authorization
from yandexart_grpc.server.doors.openai import OpenAI, nested
from yandexart_grpc.server.doors.openapi import description
from yandexart_grpc.server.doors.page import Page
from yandexart_grpc.server.doors.rest import Rest, flat
from yandexart_grpc.server.operations import Operations

FIGURES = "text/plain; version=0.0.4; charset=utf-8"
"""What Prometheus calls the format of its pages."""


def site(
    operations: Operations, callers: Callers, endpoint: Callable[[], str], figures: Callable[[], bytes] | None = None
) -> Starlette:
    """The OpenAI door below `/v1/`, the page at `/` and below `/page/`, and the REST door everywhere else.

    The page tells the address of the gRPC door, which is known when that is asked for; `figures` makes the page for Prometheus.
    """
    page = Page(operations, callers, endpoint)
    described = JSONResponse(description())

    async def describe(_: Request) -> Response:
        return described

    async def measure(request: Request) -> Response:
        callers.known(authorization(request))
        if figures is None:
            raise NotFound("metrics: this server keeps no figures; start it with --metrics")
        return Response(await asyncio.to_thread(figures), headers={"content-type": FIGURES})

    return app(
        [
            Door("/v1/", nested, OpenAI(operations, callers).routes()),
            Door(
                "/",
                flat,
                [
                    *page.routes(),
                    *Rest(operations, callers).routes(),
                    (("GET",), "/openapi.json", describe),
                    (("GET",), "/metrics", measure),
                ],
            ),
        ]
    )
