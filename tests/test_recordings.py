"""The recordings of the terminal: what they show was on a real screen, and a picture needs nothing but itself."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from docs.recordings import IMAGES, RECORDINGS, Recording, Step, record

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = {name: IMAGES / f"terminal-{name}.svg" for name in RECORDINGS}


def lines(svg: str, *, last: bool) -> list[str]:
    """The text of each line that is shown, or only of those that the last screen has, without spaces."""
    root = ET.fromstring(svg)
    contents = {group.get("id"): "".join(group.itertext()).replace(" ", "") for group in root.iter(f"{SVG}g")}
    uses = [use for use in root.iter(f"{SVG}use") if not last or "h" not in use.get("class", "").split()]
    return [contents[use.get("href", "").removeprefix("#")] for use in uses]


def test_a_recording_shows_what_happened() -> None:
    """It shows the command as it is typed, the wait, and at the end what was made."""
    svg = record(RECORDINGS["generate"])
    shown = lines(svg, last=False)
    assert "$yand" in shown
    assert any(re.search(r"waitingforoperationfbv\w+$", line) for line in shown)
    assert re.match(r"cat\.jpeg:1024x1024,seed42,operationfbv\w+,", lines(svg, last=True)[1])


def test_pictures_in_the_terminal_are_drawn() -> None:
    """A character of two halves in two colours is two surfaces; text keeps its colour and its bold."""
    command = r"printf '\e[38;2;255;0;0;48;2;0;0;255m▀▀\e[0;1;31mbold\e[0m\n'"
    svg = record(Recording("colours", (Step(command),)))
    assert '<path fill="#f80000" d="M0 0h16v9h-16z"/><path fill="#0000f8" d="M0 9h16v9h-16z"/>' in svg
    assert '<text x="16" y="13" textLength="32" fill="#cf222e" class="b">bold</text>' in svg


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_picture_needs_nothing_but_itself(picture: Path) -> None:
    """Each of the list is there, is small, and loads neither script nor font nor anything from elsewhere."""
    svg = picture.read_text()
    assert len(svg.encode()) < 150_000
    assert not re.search(r"<script|<image|src=|href=\"[^#]|@import|@font-face|url\(", svg)
    assert "$" in lines(svg, last=True)


def test_every_picture_is_recorded() -> None:
    """No picture of a terminal is there that the script does not make."""
    assert set(IMAGES.glob("terminal-*.svg")) == set(PICTURES.values())
