"""Durations that one process leaves to the next, so that it need not learn them again: a small JSON file."""

import json
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path

from yandexart_grpc._plan import WINDOW

log = logging.getLogger("yandexart_grpc")

FORMAT = 1


def load(path: Path | None) -> dict[str, list[float]]:
    """The durations in the file, in seconds by model URI. A missing file is no news; a damaged one is ignored with a warning."""
    if path is None or not path.exists():
        return {}
    try:
        saved = json.loads(path.read_bytes())
        durations = {str(model): [float(value) for value in values][-WINDOW:] for model, values in saved["durations"].items()}
        if saved["format"] != FORMAT or not all(isfinite(d) and d > 0 for values in durations.values() for d in values):
            raise ValueError("not the durations of this version")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("history %s is ignored: %s", path, error)
        return {}
    return durations


def save(path: Path | None, durations: Mapping[str, list[float]]) -> None:
    """Replace the file as a whole. One that cannot be written is a warning: the images are not affected."""
    if path is None or not durations:
        return
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}.part")
    try:
        part.write_text(json.dumps({"format": FORMAT, "durations": durations}))
        part.replace(path)
    except OSError as error:
        log.warning("history %s cannot be saved: %s", path, error)
        with suppress(OSError):
            part.unlink()
