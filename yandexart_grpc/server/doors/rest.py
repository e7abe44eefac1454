"""The REST door: the messages of the contract as JSON, on the paths of the service. It translates; `operations` decides."""

from typing import Any

from google.protobuf import duration_pb2, json_format, struct_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from starlette.requests import Request
from starlette.responses import Response

from yandexart_grpc.errors import InvalidRequest, YandexArtError
from yandexart_grpc.server.answers import to_status
from yandexart_grpc.server.callers import Callers
from yandexart_grpc.server.doors.http import HOLE, Endpoint, authorization, object_of, sent, with_images
from yandexart_grpc.server.doors.promises import HOLDS, preferred_wait
from yandexart_grpc.server.operations import Operations
from yandexart_grpc.stubs import POOL, ImageGenerationRequest, ImageGenerationResponse, Operation

GENERATE = "/foundationModels/v1/imageGenerationAsync"
OPERATION = "/operations/{id}"
CANCEL = "/operations/{id}:cancel"

# What stands in an `Any` is looked up in one pool, and these live in another: warnings, and the time to come back.
for _file in (struct_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
    POOL.AddSerializedFile(_file.serialized_pb)


class Rest:
    """Takes requests, and tells what became of them."""

    def __init__(self, operations: Operations, callers: Callers) -> None:
        self._operations, self._callers = operations, callers

    def routes(self) -> list[tuple[tuple[str, ...], str, Endpoint]]:
        """Everything that is served: methods, path and endpoint."""
        return [
            (("POST",), GENERATE, self.generate),
            (("GET", "POST"), CANCEL, self.cancel),
            (("GET",), OPERATION, self.get),
        ]

    async def generate(self, request: Request) -> Response:
        """Take a request."""
        caller = self._callers.known(authorization(request))
        message = _message(await object_of(request))
        return _said(await self._operations.accept(message, **sent(request, caller)), dict([HOLDS]))

    async def get(self, request: Request) -> Response:
        """The operation as it is now, or when it is done."""
        caller = self._callers.known(authorization(request))
        hold = preferred_wait(request.headers.getlist("prefer")) if self._operations.may_hold(caller) else 0.0
        operation = await self._operations.look(request.path_params["id"], hold, caller=caller)
        return _said(operation, dict([HOLDS]) if hold else {})

    async def cancel(self, request: Request) -> Response:
        """Stop the operation where that saves something."""
        caller = self._callers.known(authorization(request))
        return _said(await self._operations.cancel(request.path_params["id"], caller=caller), {})


def flat(error: YandexArtError) -> dict[str, Any]:
    """An error in the shape of the service's REST (contract/service.md, "Errors seen")."""
    status = _json(to_status(error))
    return {"error": status["message"], **status}


def _message(found: dict[str, Any]) -> ImageGenerationRequest:
    """The message that a JSON object says; names that the contract does not have are ignored, as protobuf does."""
    _require_objects(found, ImageGenerationRequest.DESCRIPTOR, "body")
    try:
        return json_format.ParseDict(found, ImageGenerationRequest(), ignore_unknown_fields=True, descriptor_pool=POOL)
    except (json_format.ParseError, ValueError, OverflowError) as error:  # protobuf lets some of Python's through
        raise InvalidRequest(f"body: {error}") from error


def _require_objects(found: object, kind: Descriptor, name: str) -> None:
    """Refuse anything else where the contract has a message: protobuf takes "16:9" for an object with four unknown names."""
    if not isinstance(found, dict):
        raise InvalidRequest(f"{name}: {found!r} is not an object")
    for field in kind.fields:
        inside, repeated = field.message_type, field.default_value == []
        for name in {field.name, field.json_name} & found.keys() if inside else ():
            for part in found[name] if repeated and isinstance(found[name], list) else [found[name]]:
                if inside and part is not None:
                    _require_objects(part, inside, name)


def _said(operation: Operation, headers: dict[str, str]) -> Response:
    response, images = ImageGenerationResponse(), list[bytes]()
    if operation.response.Unpack(response):
        images.append(response.image)
        response.ClearField("image")
        operation.response.Pack(response)
    content = _json(operation)
    if images:
        content["response"]["image"] = HOLE
    return Response(with_images(content, images), headers=headers, media_type="application/json")


def _json(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True, descriptor_pool=POOL)
