"""The rows of a batch: reads and judges them before anything is sent, and gives each a key that says what it asks for.

The key is made of what is asked for and of nothing else, so that inserting lines, or putting them into another order, changes
none; and a row without a seed gets one that follows from its key, so that each run asks for exactly the same.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Unpack

from yandexart_grpc.errors import ConfigurationError, InvalidRequest
from yandexart_grpc.request import LARGEST, ImageOptions, ImageRequest

Form = Literal["txt", "jsonl", "csv", "tsv"]
FIELDS = ("prompt", "id", "seed", "aspect_ratio", "model")

_Fields = dict[str, Any]
_Lines = Iterator[tuple[int, _Fields | str]]
"""The number of a line, and what it gives, or what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image that is asked for."""

    line: int
    """Where it begins in its source, from 1."""
    key: str
    """64 hexadecimal digits: SHA-256 of what is asked for and of the `id`, or else of how many equal rows stand before it."""
    request: ImageRequest


class Reading(NamedTuple):
    """What `check_rows` found."""

    source: str
    rows: list[Row]
    problems: list[str]
    """A text for each row that is wrong: line, field, value and limit."""

    def right(self) -> list[Row]:
        """The rows. Raises `InvalidRequest`, which lists every row that is wrong, where there is one."""
        if self.problems:
            count = f"{len(self.problems)} of {len(self.problems) + len(self.rows)} rows"
            raise InvalidRequest("\n".join([f"{self.source}: {count} cannot be ordered, so nothing was", *self.problems]))
        return self.rows


def read_rows(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    form: Form | None = None,
    folder_id: str | None = None,
    **image: Unpack[ImageOptions],
) -> list[Row]:
    """Read the rows of a file or of an open binary file.

    `form` is "txt" (a prompt a line; blank lines are skipped), "jsonl" (objects with `prompt`, which is a text or a list of
    texts and `[text, weight]`, and, where they are wanted, `id`, `seed`, `aspect_ratio` and `model`), "csv" or "tsv" (a
    header with these names in any case; other columns are ignored). Without it the extension of the file tells, and an open
    file is "txt". All are UTF-8. `folder_id` is the folder that pays, `YC_FOLDER_ID` where none is given; `image` holds for
    rows that say nothing else, as in `YandexArt.submit`.

    Raises `ConfigurationError` when the file cannot be read, and `InvalidRequest`, which lists every row that is wrong, a line
    of text for each.
    """
    return check_rows(source, form=form, folder_id=folder_id, **image).right()


def check_rows(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    form: Form | None = None,
    folder_id: str | None = None,
    **image: Unpack[ImageOptions],
) -> Reading:
    """What `read_rows` does, but rows that are wrong are returned as `problems`. Raises where no row can be read at all."""
    text, read = _open(source, form)
    folder_id = folder_id or os.environ.get("YC_FOLDER_ID")
    rows, problems, lines, seen = list[Row](), list[str](), dict[str, int](), Counter[str]()
    for line, given in read(text):
        try:
            row = _row(line, given, folder_id, image, seen)
            if (first := lines.setdefault(row.key, line)) != line:
                raise InvalidRequest(f"id: that of line {first}, which asks for the same")
        except InvalidRequest as error:
            problems.append(f"line {line}: {error}")
        else:
            rows.append(row)
    if not rows and not problems:
        raise InvalidRequest(f"{_name(source)}: there is no row in it")
    return Reading(_name(source), rows, problems)


def _row(line: int, given: _Fields | str, folder_id: str | None, image: ImageOptions, seen: Counter[str]) -> Row:
    if isinstance(given, str):
        raise InvalidRequest(given)
    name = _id(given.pop("id", None))
    fields: _Fields = {"prompt": None, **image, **given}
    request = ImageRequest.build(folder_id=folder_id, **fields)
    if name is None:
        content = _digest(request, fields.get("seed"), None)
        seen[content] += 1
        key = _digest(request, fields.get("seed"), seen[content])
    else:
        key = _digest(request, fields.get("seed"), name)
    if fields.get("seed") is None:
        request = replace(request, seed=int(key[:16], 16) % LARGEST + 1)
    return Row(line=line, key=key, request=request)


def _digest(request: ImageRequest, seed: int | None, name: str | int | None) -> str:
    messages = [[text, float(weight)] for text, weight in request.messages]
    content = [messages, request.model_uri, request.aspect_ratio, seed, request.mime_type, name]
    return sha256(json.dumps(content).encode()).hexdigest()


def _id(given: object) -> str | None:
    if given is None or (isinstance(given, str) and given.strip()):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise InvalidRequest(f"id: {given!r} is neither a text nor an integer")


# ── the forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open(source: str | os.PathLike[str] | BinaryIO, form: Form | None) -> tuple[str, Callable[[str], _Lines]]:
    """The text of a source, and what reads it."""
    if isinstance(source, str | os.PathLike):
        found = form or Path(source).suffix[1:].lower()
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{_name(source)}: cannot be read: {error.strerror}") from error
    else:
        found, data = form or "txt", source.read()
    if found not in _READERS:
        raise ConfigurationError(f"{_name(source)}: {found!r} is none of the forms {', '.join(_READERS)}")
    try:
        return data.decode("utf-8-sig"), _READERS[found]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(f"{_name(source)}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8") from error


def _name(source: str | os.PathLike[str] | BinaryIO) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "rows"))


def _filled(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if stripped := line.strip():
            yield number, stripped


def _txt(text: str) -> _Lines:
    for number, line in _filled(text):
        yield number, {"prompt": line}


def _jsonl(text: str) -> _Lines:
    for number, line in _filled(text):
        try:
            found = json.loads(line)
            json.dumps(found, ensure_ascii=False).encode()  # an escape may stand for half of a character
        except (ValueError, RecursionError) as error:
            yield number, f"{line[:40]!r} is not JSON: {error}"
        else:
            yield number, _object(found)


def _object(found: object) -> _Fields | str:
    if not isinstance(found, dict):
        return f"{str(found)[:40]!r} is not an object with a prompt"
    if unknown := [name for name in found if name not in FIELDS]:
        return f"{', '.join(map(repr, unknown))}: not among {', '.join(FIELDS)}"
    fields = {name: value for name, value in found.items() if value is not None}
    if isinstance(prompt := fields.get("prompt"), list):
        fields["prompt"] = tuple(tuple(part) if isinstance(part, list) else part for part in prompt)
    if isinstance(ratio := fields.get("aspect_ratio"), list):
        fields["aspect_ratio"] = tuple(ratio)
    return fields


def _table(text: str, delimiter: str) -> _Lines:
    cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(cells, [])
        names = [name.strip().lower() for name in header]
        if wrong := [name for name in FIELDS if names.count(name) > 1 or (name == "prompt" and name not in names)]:
            raise InvalidRequest(f"line 1: {', '.join(wrong)}: not exactly one column of this name in {header}")
        line = cells.line_num + 1
        for row in cells:
            if any(map(str.strip, row)):
                yield line, _cells(names, row, delimiter)
            line = cells.line_num + 1
    except csv.Error as error:
        yield line, f"cannot be read, nor can what follows: {error}"


def _cells(names: list[str], row: list[str], delimiter: str) -> _Fields | str:
    if len(row) > len(names):
        return f"{len(row)} cells, where the header has {len(names)}; a text that holds {delimiter!r} needs quotes around it"
    fields: _Fields = {name: cell.strip() for name, cell in zip(names, row, strict=False) if name in FIELDS and cell.strip()}
    if re.fullmatch("-?[0-9]{1,30}", fields.get("seed", "")):
        fields["seed"] = int(fields["seed"])
    return fields


def _csv(text: str) -> _Lines:
    return _table(text, ",")


def _tsv(text: str) -> _Lines:
    return _table(text, "\t")


_READERS: dict[str, Callable[[str], _Lines]] = {"txt": _txt, "jsonl": _jsonl, "csv": _csv, "tsv": _tsv}
