"""Everything that is served over HTTP, as one application."""

from starlette.applications import Starlette

from yandexart_grpc.server.doors.http import Door, app
from yandexart_grpc.server.doors.openai import OpenAI, nested
from yandexart_grpc.server.doors.rest import Rest, flat
from yandexart_grpc.server.operations import Operations


def site(operations: Operations) -> Starlette:
    """The OpenAI door below `/v1/`, and the REST door everywhere else."""
    return app([Door("/v1/", nested, OpenAI(operations).routes()), Door("/", flat, Rest(operations).routes())])
