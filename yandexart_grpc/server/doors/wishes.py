"""What is asked for at the OpenAI door: its parameters, which of them mean something here, and what in the contract's words."""

import re
from dataclasses import dataclass, replace
from typing import Any

from grpc import StatusCode

from yandexart_grpc.errors import InvalidRequest
from yandexart_grpc.request import DEFAULT_MODEL, LARGEST, ImageRequest, Message

IGNORED: dict[str, tuple[object, ...]] = {
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "output_compression": (100,),
    "output_format": ("jpeg",),
    "quality": ("auto",),
    "response_format": ("b64_json",),
    "style": ("vivid",),
}
"""Parameters that say nothing here, and the values that say nothing else (contract/service.md, "The Images API")."""
MOST, MOST_PARTIAL = 10, 3
"""Pictures of one request; sketches of one picture."""
_OUR_NAMES = {"model_uri": "model", "aspect_ratio": "size"}


class BadParameter(InvalidRequest):
    """A parameter that is wrong, with its name."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}", code=StatusCode.INVALID_ARGUMENT)
        self.name = name


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request asks for."""

    requests: tuple[ImageRequest, ...]
    """One for each picture."""
    stream: bool
    partial_images: int
    """How many sketches of the picture to show."""

    @classmethod
    def read(cls, found: dict[str, Any], folder: str) -> "Wish":
        """The wish of a JSON object; `folder` is where a model is looked for that is no URI. Raises `BadParameter`."""
        given = _Parameters({name: value for name, value in found.items() if value is not None})
        count, stream = given.integer("n", 1, MOST) or 1, given.flag("stream")
        partial = given.integer("partial_images", 0, MOST_PARTIAL) or 0
        if partial and not stream:
            raise BadParameter("partial_images", "only a stream has them")
        if stream and count > 1:
            raise BadParameter("n", f"{count} pictures do not go into one stream")
        first = ImageRequest(
            messages=(Message(given.text("prompt")),),
            model_uri=_model_uri(given.text("model") or DEFAULT_MODEL, folder),
            aspect_ratio=_ratio(given.text("size")),
            seed=given.integer("seed", 0, LARGEST) or 0,
        )
        given.text("user")
        given.require_known()
        requests = tuple(replace(first, seed=first.seed and first.seed + at) for at in range(count))
        for problem in requests[-1].problems():
            name, colon, rest = problem.partition(": ")
            raise BadParameter(_OUR_NAMES.get(name, name), rest) if colon else BadParameter("prompt", problem)
        return cls(requests, stream, partial)


class _Parameters:
    """Parameters that are read one by one."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._known = set(IGNORED)

    def text(self, name: str) -> str:
        self._known.add(name)
        value = self._given.get(name, "")
        if not isinstance(value, str):
            raise BadParameter(name, f"{value!r} is not a text")
        return value

    def flag(self, name: str) -> bool:
        self._known.add(name)
        value = self._given.get(name, False)
        if not isinstance(value, bool):
            raise BadParameter(name, f"{value!r} is neither true nor false")
        return value

    def integer(self, name: str, least: int, most: int) -> int | None:
        self._known.add(name)
        value = self._given.get(name)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise BadParameter(name, f"{value!r} is not an integer from {least} to {most}")
        return value

    def require_known(self) -> None:
        for name, value in self._given.items():
            if name not in self._known:
                raise BadParameter(name, "there is no such parameter")
            if name in IGNORED and value not in IGNORED[name]:
                raise BadParameter(name, f"{value!r} is not supported; leave it out, or take {IGNORED[name][0]!r}")


def _model_uri(model: str, folder: str) -> str:
    if model.startswith("art://"):
        return model
    if not folder:
        raise BadParameter("model", f"{model!r} names no folder; take art://<folder>/{model}, or send the header OpenAI-Project")
    return f"art://{folder}/{model}"


def _ratio(size: str) -> tuple[int, int]:
    if size in ("", "auto"):
        return (0, 0)
    found = re.fullmatch(r"([0-9]{1,19})x([0-9]{1,19})", size)
    if not found:
        raise BadParameter("size", f"{size!r} is neither 'auto' nor WIDTHxHEIGHT")
    return (int(found[1]), int(found[2]))
