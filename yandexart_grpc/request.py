"""What a user asks for, and the service's rules about it (contract/service.md, "The request").

The client checks these rules before anything is sent, the server when something arrives: both through `ImageRequest.problems`.
"""

import hashlib
import re
import secrets
import sys
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from yandexart_grpc import stubs
from yandexart_grpc.errors import InvalidRequest

DEFAULT_MODEL = "yandex-art/latest"
MIME_TYPE = "image/jpeg"
_KEY = re.compile(r"[!-~]{1,255}")
_MODEL_URI = re.compile(r"art://[^/\s]+/\S+")
PROMPT_LIMIT = 500
"""Characters that the messages of positive weight may have together."""
LARGEST = 2**63 - 1
"""The largest seed, and the largest side of an aspect ratio: both are int64."""


class Message(NamedTuple):
    """One part of a prompt; a negative `weight` says what the picture should not show."""

    text: str
    weight: float = 1.0


Prompt = str | Sequence[str | tuple[str, float]]
"""A prompt: one text, or several, each with a weight where it is not 1."""
AspectRatio = str | tuple[int, int]
"""Width to height: "16:9" or (16, 9)."""


class ImageOptions(TypedDict, total=False):
    """What may be said about an image beside its prompt."""

    model: str
    """A name in the folder, or a whole `art://` URI; `yandex-art/latest` where none is given."""
    aspect_ratio: AspectRatio | None
    """1:1 where none is given."""
    seed: int | None
    """1 to 2**63 - 1; drawn here, from the idempotency key, where none is given, so that the image always knows it."""
    mime_type: str
    """`image/jpeg`, the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One request for an image."""

    messages: tuple[Message, ...]
    model_uri: str
    """`art://<folder>/<model>`."""
    seed: int = 0
    """0 lets the service draw one, and nobody learns which."""
    aspect_ratio: tuple[int, int] = (0, 0)
    """Width and height; (0, 0) leaves it to the service, which takes 1:1."""
    mime_type: str = MIME_TYPE

    @classmethod
    def build(
        cls,
        prompt: Prompt,
        *,
        folder_id: str | None,
        model: str = DEFAULT_MODEL,
        aspect_ratio: AspectRatio | None = None,
        seed: int | None = None,
        mime_type: str = MIME_TYPE,
        key: str | None = None,
    ) -> "ImageRequest":
        """The request for what a user gave. `model` is a name in the folder or a whole URI; without a seed, one is drawn.

        With an idempotency key, it is drawn from that: a key stands for one request, also when it is made once more.

        Raises `InvalidRequest`, which names everything that is wrong at once: field, value and limit.
        """
        request = cls(
            messages=_messages(prompt),
            model_uri=_model_uri(model, folder_id),
            seed=_drawn(key) if seed is None else seed,
            aspect_ratio=_ratio(aspect_ratio),
            mime_type=mime_type,
        )
        found = list(request.problems())
        if seed == 0:
            found.append(f"seed: 0 would let the service draw one; the least is 1, the largest {LARGEST}")
        if found:
            raise InvalidRequest("; ".join(found))
        return request

    @classmethod
    def from_proto(cls, request: stubs.ImageGenerationRequest) -> "ImageRequest":
        """The request that a message holds, right or wrong. A weight of 0 is how the wire says that none was given."""
        options = request.generation_options
        return cls(
            messages=tuple(Message(message.text, message.weight or 1.0) for message in request.messages),
            model_uri=request.model_uri,
            seed=options.seed,
            aspect_ratio=(options.aspect_ratio.width_ratio, options.aspect_ratio.height_ratio),
            mime_type=options.mime_type,
        )

    def to_proto(self) -> stubs.ImageGenerationRequest:
        """The message to send."""
        options = stubs.ImageGenerationOptions(mime_type=self.mime_type, seed=self.seed)
        if self.aspect_ratio != (0, 0):
            options.aspect_ratio.width_ratio, options.aspect_ratio.height_ratio = self.aspect_ratio
        return stubs.ImageGenerationRequest(
            model_uri=self.model_uri,
            messages=[stubs.Message(text=text, weight=weight) for text, weight in self.messages],
            generation_options=options,
        )

    @property
    def prompt(self) -> str:
        """What the picture should show: the texts of positive weight, a line each."""
        return "\n".join(text for text, weight in self.messages if weight > 0)

    @property
    def has_folder(self) -> bool:
        """Whether the model URI names a folder and a model; the service refuses one that does not in misleading words."""
        return isinstance(self.model_uri, str) and _MODEL_URI.fullmatch(self.model_uri) is not None

    @property
    def folder(self) -> str:
        """The folder that the model URI names, which pays."""
        return self.model_uri.removeprefix("art://").partition("/")[0]

    def problems(self) -> Iterator[str]:
        """Everything that is wrong, one sentence a problem."""
        malformed = [text for message in self.messages for text in _problems_of(message)]
        yield from malformed
        if not malformed:
            yield from self._problems_of_prompt()
        if not self.has_folder:
            yield f"model_uri: {self.model_uri!r} is not art://<folder_id>/<model>; give folder_id or a whole URI"
        if not _is_int(self.seed) or not 0 <= self.seed <= LARGEST:
            yield f"seed: {self.seed!r} is not an integer from 1 to {LARGEST}"
        if not _is_ratio(self.aspect_ratio):
            yield f"aspect_ratio: {self.aspect_ratio!r} is not two integers from 1 to {LARGEST}, such as '16:9'"
        if self.mime_type not in ("", MIME_TYPE):
            yield f"mime_type: {self.mime_type!r} is not {MIME_TYPE!r}"

    def _problems_of_prompt(self) -> Iterator[str]:
        size = sum(len(text) for text, weight in self.messages if weight > 0)
        if size > PROMPT_LIMIT:
            yield f"Prompt positive size {size} exceeds limit ({PROMPT_LIMIT})"  # the service's own words
        if not self.prompt.strip():
            yield "prompt: empty; at least one message of positive weight needs a text"


def known_id(operation_id: str) -> str:
    """The id of an operation; raises `InvalidRequest` when it is none."""
    if not isinstance(operation_id, str) or not operation_id.strip():
        raise InvalidRequest(f"operation_id: {operation_id!r} is not the id of an operation")
    return operation_id.strip()


def folded(text: str) -> str:
    """A text as it is searched: in one case and one way to write each character, without NUL, which PostgreSQL cannot keep."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\0", "")


def _drawn(key: str | None) -> int:
    luck = secrets.token_bytes(8) if key is None else hashlib.sha256(key.encode()).digest()[:8]
    return int.from_bytes(luck) % LARGEST + 1


def known_key(given: str | None) -> str:
    """The idempotency key of an order, a new one where none is given; raises `InvalidRequest` when it is none."""
    if given is None:
        return str(uuid.uuid4())
    for problem in problems_of_key(given):
        raise InvalidRequest(problem)
    return given


def problems_of_key(key: str) -> Iterator[str]:
    """What is wrong with an idempotency key."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        yield f"idempotency_key: {key!r} is not 1 to 255 printable ASCII characters without spaces"


def require_positive(name: str, value: int) -> None:
    """Raise `InvalidRequest` unless the value is a positive integer."""
    if not _is_int(value) or value < 1:
        raise InvalidRequest(f"{name}: {value!r} is not an integer from 1")


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    parts = prompt if isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes) else [prompt]
    return tuple(
        Message(*part) if isinstance(part, tuple) and len(part) == 2 else Message(part) for part in parts
    )  # judged by problems()


def _model_uri(model: str, folder_id: str | None) -> str:
    is_name = isinstance(model, str) and not model.startswith("art://")
    return f"art://{folder_id or ''}/{model}" if is_name else model


def _problems_of(message: Message) -> Iterator[str]:
    text, weight = message
    if not isinstance(text, str):
        yield f"prompt: {text!r} is not a text"
    elif not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield f"prompt: {text!r} holds half of a character (a lone surrogate)"
    if not isinstance(weight, int | float) or not 0 < abs(weight) <= sys.float_info.max:
        yield f"weight: {weight!r} is not a finite number other than 0"


def _ratio(given: AspectRatio | None) -> tuple[int, int]:
    """The two numbers; what cannot be read as two is passed on for `problems` to name."""
    if given is None:
        return (0, 0)
    if isinstance(given, str) and (found := re.fullmatch(r"([0-9]{1,20}):([0-9]{1,20})", given.strip())):
        return (int(found[1]), int(found[2]))
    return given  # type: ignore[return-value]  # judged by problems()


def _is_ratio(ratio: tuple[int, int]) -> bool:
    if not isinstance(ratio, tuple) or len(ratio) != 2 or not all(map(_is_int, ratio)):
        return False
    return ratio == (0, 0) or all(1 <= side <= LARGEST for side in ratio)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
