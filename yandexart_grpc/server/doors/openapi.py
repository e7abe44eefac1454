"""What the doors over HTTP serve, in the words of OpenAPI 3.1: `/openapi.json`. What a parameter may say is told by `wishes`."""

from typing import Any

from yandexart_grpc._version import __version__
from yandexart_grpc.request import LARGEST, MIME_TYPE, PROMPT_LIMIT
from yandexart_grpc.server.doors.openai import GENERATIONS, MODEL_NAMES, MODELS
from yandexart_grpc.server.doors.rest import CANCEL, GENERATE, OPERATION
from yandexart_grpc.server.doors.wishes import IGNORED, MOST, MOST_PARTIAL

Schema = dict[str, Any]


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _integer(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _perhaps(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string"}
PROMPT: Schema = {"type": "string", "pattern": r"\S", "maxLength": PROMPT_LIMIT}
TIME: Schema = {"type": "string", "format": "date-time"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": MIME_TYPE}
MODEL_URI: Schema = {"type": "string", "pattern": r"^art://[^/\s]+/\S+$"}
INT64: Schema = {"anyOf": [_integer(1, LARGEST), {"type": "string", "pattern": r"^[1-9][0-9]{0,17}$"}]}
SIZE: Schema = {"type": "string", "pattern": r"^(auto|[1-9][0-9]{0,17}x[1-9][0-9]{0,17})$"}

EVENT = _object(("event", "data"), event=TEXT, data=TEXT)
"""One event of a stream; its data is JSON."""
LOOK = {"background": TEXT, "output_format": TEXT, "quality": TEXT, "size": TEXT}
"""What the OpenAI door says of a picture."""
SCHEMAS: dict[str, Schema] = {
    "ImageGenerationRequest": _object(
        ("modelUri", "messages"),
        modelUri=MODEL_URI,
        messages=_array(_object(("text",), text=PROMPT, weight={"type": "number"})) | {"minItems": 1},
        generationOptions=_object(
            mimeType={"enum": ["", MIME_TYPE]},
            seed=INT64,
            aspectRatio=_object(("widthRatio", "heightRatio"), widthRatio=INT64, heightRatio=INT64),
        ),
    ),
    "Operation": _object(
        ("id", "done"),
        id=TEXT,
        description=TEXT,
        createdAt=TIME,
        createdBy=TEXT,
        modifiedAt=TIME,
        done={"type": "boolean"},
        metadata={"type": "object"},
        error=_object(("code", "message"), code={"type": "integer"}, message=TEXT, details=_array({"type": "object"})),
        response=_object(("@type", "image"), **{"@type": TEXT}, image=BASE64, modelVersion=TEXT),
    ),
    "Error": _object(
        ("error", "code", "message"), error=TEXT, code={"type": "integer"}, message=TEXT, details=_array({"type": "object"})
    ),
    "ImagesRequest": _object(
        ("prompt", "model"),
        prompt=PROMPT,
        model={"anyOf": [MODEL_URI, {"enum": list(MODEL_NAMES)}]},
        size=_perhaps(SIZE),
        n=_perhaps(_integer(1, MOST)),
        seed=_perhaps(_integer(0, LARGEST - MOST)),
        user=_perhaps(TEXT),
        stream=_perhaps({"type": "boolean"}),
        partial_images=_perhaps(_integer(0, MOST_PARTIAL)),
        **{name: _perhaps({"enum": list(values)}) for name, values in IGNORED.items()},
    )
    | {"additionalProperties": False},
    "Images": _object(
        ("created", "data", *LOOK, "usage"),
        created={"type": "integer"},
        data=_array(_object(("b64_json",), b64_json=BASE64)),
        usage={"type": "object"},
        **LOOK,
    ),
    "Models": _object(
        ("object", "data"),
        object={"const": "list"},
        data=_array(
            _object(("id", "object", "created", "owned_by"), id=TEXT, object=TEXT, created={"type": "integer"}, owned_by=TEXT)
        ),
    ),
    "OpenAIError": _object(
        ("error",), error=_object(("message", "type", "param", "code"), message=TEXT, type=TEXT, param=_perhaps(TEXT), code=TEXT)
    ),
}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[a-z0-9]{1,50}$"}}
KEY = _header("Idempotency-Key", "The same key stands for the same operation.") | {
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"}
}
HOLD = _header("Prefer", "`wait=<seconds>` holds the answer until the operation is done.")
FOLDER = _header("OpenAI-Project", "The folder of a model that is no URI.")


def _call(summary: str, answer: str, error: str, *parameters: Schema, body: str = "", stream: bool = False) -> Schema:
    content: Schema = {"application/json": {"schema": _ref(answer)}}
    call: Schema = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": answer, "content": content | ({"text/event-stream": {"schema": EVENT}} if stream else {})},
            "default": {"description": "An error", "content": {"application/json": {"schema": _ref(error)}}},
        },
    }
    return call | {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}}} if body else call


def description() -> Schema:
    """The whole document."""
    cancel = _call("Stop an operation where that saves something", "Operation", "Error", ID)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "yandexart-grpc",
            "version": __version__,
            "description": "The REST of the service, and OpenAI's Images API",
        },
        "paths": {
            GENERATE: {"post": _call("Order a picture", "Operation", "Error", KEY, body="ImageGenerationRequest")},
            OPERATION: {"get": _call("Read an operation", "Operation", "Error", ID, HOLD)},
            CANCEL: {"get": cancel, "post": cancel},
            GENERATIONS: {
                "post": _call("Have pictures made", "Images", "OpenAIError", KEY, FOLDER, body="ImagesRequest", stream=True)
            },
            MODELS: {"get": _call("List the models", "Models", "OpenAIError")},
        },
        "components": {"schemas": SCHEMAS},
    }
