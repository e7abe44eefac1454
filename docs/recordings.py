"""Record the real command line in a real terminal, as animated pictures in docs/images.

    .venv/bin/python -m docs.recordings [NAME...]        (`make recordings`)

Bash runs in a pseudo-terminal, in an empty folder, and is typed to. What is recorded is the list at the top.
"""

import os
import re
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pexpect
import pyte

from docs.film import film, shot
from tests.processes import program

IMAGES = Path(__file__).parent / "images"
CTRL_C = "\x03"


class Step(NamedTuple):
    """What a person types, and which text on the screen he waits for; by default, the next prompt."""

    typed: str
    until: str | None = None


@dataclass(frozen=True)
class Recording:
    """One picture."""

    title: str
    steps: tuple[Step, ...]
    server: str | None = None
    """How long the demo server takes to which the environment points; without it, the environment points nowhere."""
    files: dict[str, str] = field(default_factory=dict)
    """What lies in the folder."""
    lines: int = 36
    """Of the terminal."""


COLOURS = ("red", "blue", "green", "white", "black", "grey", "brown", "pink")
BATCH = "yandexart batch prompts.txt --output pictures --in-flight 2"

RECORDINGS = {
    "generate": Recording(
        "yandexart generate",
        (Step('yandexart generate "a red cat in the rain" --demo --seed 42 --output cat.jpeg --show'),),
        lines=26,
    ),
    "batch": Recording(
        "yandexart batch, interrupted by Ctrl-C and continued",
        (Step("wc -l prompts.txt"), Step(BATCH, until=r"[3-7]/8"), Step(CTRL_C), Step(BATCH), Step("ls pictures")),
        server="uniform:0.5,1.5",
        files={"prompts.txt": "".join(f"a {colour} cat\n" for colour in COLOURS)},
    ),
    "history": Recording(
        "yandexart sheet and yandexart history",
        (
            Step(BATCH),
            Step("yandexart sheet pictures"),
            Step("yandexart history list --ledger pictures/ledger.db"),
            Step("yandexart history search white --ledger pictures/ledger.db"),
        ),
        server="fixed:0.2",
        files={"prompts.txt": "".join(f"a {colour} cat\n" for colour in COLOURS[:5])},
    ),
    "serve": Recording(
        "yandexart serve and yandexart doctor",
        (
            Step("yandexart serve &", until="serving on"),
            Step("\r"),
            Step("yandexart doctor --endpoint http://127.0.0.1:50051"),
            Step("kill %1; wait"),
        ),
    ),
}
"""What is recorded, by the name of its picture: docs/images/terminal-NAME.svg."""

COLUMNS = 104
FRAME = 0.1
"""Seconds: of what is shown within, the last is seen."""
TYPING = 0.04
"""Seconds from key to key."""
PAUSE = 1.2
"""Seconds for which a screen on which nothing moves is shown, however long that really takes."""
PATIENCE = 60.0
"""Seconds after which a step that does not come to its end is given up."""


class Terminal:
    """A Bash in a pseudo-terminal, and what its screen has shown."""

    def __init__(self, folder: str, environment: dict[str, str], lines: int) -> None:
        options = ["--norc", "--noprofile"]
        self._bash = pexpect.spawn("bash", options, cwd=folder, env=environment, dimensions=(lines, COLUMNS), encoding="utf-8")
        self._bash.delaybeforesend = None
        self._screen = pyte.Screen(COLUMNS, lines)
        self._stream = pyte.Stream(self._screen)
        self._now = self._still = 0.0
        self.shots = [shot(0.0, self._screen)]

    def close(self) -> None:
        """Hang up."""
        self._bash.close(force=True)

    def perform(self, step: Step) -> None:
        """Type, and watch until what is waited for is seen."""
        for letter in step.typed:
            self._bash.send(letter)
            self._watch(TYPING)
        if step.typed.isprintable():
            self._bash.send("\r")
        self.wait(step.until)

    def wait(self, until: str | None = None) -> None:
        """Watch until the text is on the screen, or else a prompt at which nothing is typed. Raises `TimeoutError`."""
        deadline = time.monotonic() + PATIENCE
        while not (re.search(until, self._text()) if until else self._prompted()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not seen within {PATIENCE} s: {until or 'a prompt'}\n{self._text()}")
            self._watch(FRAME)

    def _text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    def _prompted(self) -> bool:
        return str(self._screen.display[self._screen.cursor.y]).rstrip() == "$"

    def _watch(self, span: float) -> None:
        """Take what is shown within so many seconds as one shot."""
        deadline = time.monotonic() + span
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._stream.feed(self._bash.read_nonblocking(65_536, timeout=left))
            except pexpect.TIMEOUT:
                break
        taken = shot(self._now + span, self._screen)
        if taken.lines != self.shots[-1].lines:
            self.shots.append(taken)
            self._still = 0.0
        self._still += span
        if self._still <= PAUSE:
            self._now += span


def record(recording: Recording) -> str:
    """The SVG of one."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        home = stack.enter_context(tempfile.TemporaryDirectory())
        for name, text in recording.files.items():
            Path(folder, name).write_text(text)
        environment = {
            "COLORTERM": "truecolor",
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PS1": r"\[\e[32m\]$\[\e[0m\] ",
            "TERM": "xterm-256color",
        }
        if recording.server:
            server = stack.enter_context(program("--store", "sqlite://", "--demo-duration", recording.server))
            environment |= {"YANDEXART_ENDPOINT": server.endpoint, "YC_FOLDER_ID": "b1g"}
        terminal = stack.enter_context(closing(Terminal(folder, environment, recording.lines)))
        terminal.wait()
        for step in recording.steps:
            terminal.perform(step)
    return film(terminal.shots, COLUMNS, recording.title)


def main() -> None:
    """Record what is named, or all."""
    IMAGES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or RECORDINGS:
        path = IMAGES / f"terminal-{name}.svg"
        path.write_text(record(RECORDINGS[name]))
        print(f"{path.name}: {path.stat().st_size} bytes")  # noqa: T201  # it is a script


if __name__ == "__main__":
    main()
