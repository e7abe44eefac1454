"""Where a picture comes from: kept in the file itself, as the comment of a JPEG, so that it is known wherever the file goes."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from yandexart_grpc.request import LARGEST, ImageRequest

_COMMENT, _SCAN = 0xFE, 0xDA
_LARGEST_SEGMENT = 0xFFFF - 2
"""Bytes that fit into a segment of a JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was asked for; None is what is not known."""

    prompt: str | None = None
    """The texts of positive weight, a line each."""
    seed: int | None = None
    model: str | None = None
    """An `art://` URI."""
    aspect_ratio: str | None = None
    """Such as 16:9; empty where the service was left to take 1:1."""
    operation_id: str | None = None
    weighted: bool = False
    """Whether there were several texts, each with a weight: then the prompt does not say all."""

    @classmethod
    def of(cls, request: ImageRequest, operation_id: str | None) -> Self:
        """The origin of what a request brought."""
        width, height = request.aspect_ratio
        return cls(
            prompt=request.prompt,
            seed=request.seed or None,
            model=request.model_uri,
            aspect_ratio=f"{width}:{height}" if width else "",
            operation_id=operation_id,
            weighted=len(request.messages) > 1,
        )

    @classmethod
    def read(cls, found: object) -> Self:
        """The origin in a JSON value of whoever made the file: what does not look as it has to is not known."""
        said: dict[str, Any] = found if isinstance(found, dict) else {}
        texts = {name: said.get(name) for name in ("prompt", "model", "operation_id", "aspect_ratio")}
        known = {name: text.encode(errors="replace").decode() for name, text in texts.items() if isinstance(text, str)}
        if not re.fullmatch(r"([0-9]{1,20}:[0-9]{1,20})?", known.get("aspect_ratio", "")):
            del known["aspect_ratio"]
        seed = said.get("seed")
        is_seed = isinstance(seed, int) and not isinstance(seed, bool) and 0 < seed <= LARGEST
        return cls(seed=seed if is_seed else None, weighted=said.get("weighted") is True, **known)


def commented(data: bytes, origin: Origin) -> bytes:
    """The JPEG with a comment that tells where it comes from, unless that is too long for one."""
    comment = json.dumps(asdict(origin), ensure_ascii=False).encode(errors="replace")
    if len(comment) > _LARGEST_SEGMENT:
        return data
    at = 2
    for marker, _, end in _segments(data):
        if not 0xE0 <= marker <= 0xEF:  # readers look for some of the application segments right at the start
            break
        at = end
    return b"".join([data[:at], b"\xff\xfe", (len(comment) + 2).to_bytes(2), comment, data[at:]])


def origin_of(data: bytes) -> Origin | None:
    """What a JPEG says of where it comes from, if it does."""
    for marker, start, end in _segments(data):
        if marker == _COMMENT:
            try:
                found = json.loads(data[start + 4 : end])
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and "prompt" in found:
                return Origin.read(found)
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Markers of the segments before the first scan, each with where it starts and ends (ITU-T T.81, annex B)."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 4 and data[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        yield data[at + 1], at, end
        at = end
