"""An Images API written from what is documented of it alone, which answers only what the documents say, or what a script says.

It runs in threads of its own behind a real socket, and counts what it was asked for and what it made.
"""

import base64
import json
import math
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Self

import PIL.Image

KEY = "AQVN-the-right-key"
MODEL = "aliceai-image-art-3.0"
PARAMETERS = {"prompt", "model", "size"}
"""What is documented to work; everything else is documented as not supported."""
LIMIT = 500
"""Characters of a prompt."""


class Refused(Exception):
    """A request that is not taken."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Exchange(BaseHTTPRequestHandler):
    """One request."""

    server: "Served"

    def do_POST(self) -> None:
        """Answer by the script as long as it says something, and then by the documents."""
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        upstream = self.server.upstream
        with upstream.lock:
            upstream.asked.append(dict(self.headers.items()))
            upstream.times.append(time.monotonic())
            fault = upstream.script.pop(0) if upstream.script else None
        with suppress(ConnectionError):  # who does not wait for the end is none of ours
            if fault:
                fault(self)
            else:
                self.draw()

    def do_GET(self) -> None:
        """There is nothing to read."""
        self.do_POST()

    def draw(self) -> None:
        """What the documents say."""
        try:
            answer = self.made()
        except Refused as error:
            self.say(error.status, {"error": {"message": str(error), "type": "invalid_request_error"}})
        else:
            self.say(200, answer)

    def made(self) -> dict[str, Any]:
        """The answer to a good request, which is a picture that was bought."""
        asked = self.checked()
        with self.server.upstream.lock:
            self.server.upstream.executions.append(asked)
        width, height = drawn_size(asked["size"])
        return answer(jpeg_of(width, height)) | {"size": f"{width}x{height}"}

    def checked(self) -> dict[str, str]:
        """The request, if it is one of the documents."""
        if (self.command, self.path) != ("POST", "/v1/images/generations"):
            raise Refused(404, "Not found")
        if self.headers.get("authorization") not in (f"Api-Key {KEY}", f"Bearer {KEY}"):
            raise Refused(401, "Unknown api key")
        try:
            asked: dict[str, str] = json.loads(self.body)
        except ValueError:
            raise Refused(400, "Bad JSON") from None
        if unknown := set(asked) - PARAMETERS:
            raise Refused(400, f"Unsupported parameters: {sorted(unknown)}")
        if not isinstance(asked.get("prompt"), str) or not asked["prompt"]:
            raise Refused(400, "prompt is required")
        if len(asked["prompt"]) > LIMIT:
            raise Refused(400, f"Prompt positive size {len(asked['prompt'])} exceeds limit ({LIMIT})")
        if asked.get("model") != f"art://{self.headers.get('openai-project')}/{MODEL}":
            raise Refused(403, f"Access to model {asked.get('model')} denied")
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", asked.get("size", "1x1")):
            raise Refused(400, "size is not WxH")
        return {"size": "1x1"} | asked

    def say(self, status: int, answer: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer JSON."""
        self.write(status, json.dumps(answer).encode(), {"content-type": "application/json"} | dict(headers or {}))

    def write(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer anything."""
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the library's
        """Nothing is logged."""


Fault = Callable[[Exchange], object]
"""What happens instead of the documented answer."""


def says(status: int, answer: object, **headers: str) -> Fault:
    """That JSON; underscores in the names of headers stand for hyphens."""
    return lambda exchange: exchange.say(status, answer, {name.replace("_", "-"): value for name, value in headers.items()})


def makes(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Fault:
    """Those bytes, after the picture was bought."""

    def fault(exchange: Exchange) -> None:
        exchange.made()
        exchange.write(status, body, {"content-type": content_type} | {k.replace("_", "-"): v for k, v in headers.items()})

    return fault


def reset(after: float) -> Fault:
    """The picture is bought, and then the connection is cut."""

    def fault(exchange: Exchange) -> None:
        exchange.made()
        time.sleep(after)
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange.connection.close()

    return fault


def slow(seconds: float) -> Fault:
    """The documented answer, later."""

    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        exchange.draw()

    return fault


def dribbles(exchange: Exchange) -> None:
    """The picture is bought, and its answer comes in drops that never end."""
    exchange.made()
    exchange.write(200, b"", {"content-type": "application/json", "content-length": "100000"})
    while True:
        exchange.wfile.write(b" ")
        time.sleep(0.02)


def floods(exchange: Exchange) -> None:
    """The picture is bought, and its answer never ends."""
    exchange.made()
    exchange.write(200, b'{"data": "', {"content-type": "application/json", "content-length": str(2**40)})
    while True:
        exchange.wfile.write(bytes(2**20))


def answer(image: bytes) -> dict[str, Any]:
    """The answer that holds a picture, with every documented field."""
    return {
        "created": 1_790_000_000,
        "data": [{"b64_json": base64.b64encode(image).decode()}],
        "background": "opaque",
        "output_format": "jpeg",
        "size": "1024x1024",
        "quality": "auto",
        "usage": {"total_tokens": 0},
    }


def jpeg_of(width: int, height: int) -> bytes:
    """A picture of that size."""
    file = BytesIO()
    PIL.Image.new("L", (width, height), 200).save(file, "jpeg")
    return file.getvalue()


def drawn_size(size: str) -> tuple[int, int]:
    """What is drawn: the ratio of the size that was asked, at about a megapixel, in multiples of 64."""
    width, height = map(int, size.split("x"))
    side = math.sqrt(1024 * 1024 / (width * height))
    return max(64, round(width * side / 64) * 64), max(64, round(height * side / 64) * 64)


class Served(ThreadingHTTPServer):
    """The socket and its threads."""

    daemon_threads = True
    block_on_close = False
    upstream: "ImagesUpstream"


class ImagesUpstream:
    """A running Images API. What is in `script` is done first, one entry a request."""

    def __init__(self, script: Iterable[Fault] = (), *, port: int = 0) -> None:
        self.script = list(script)
        self.lock = threading.Lock()
        self.asked: list[dict[str, str]] = []
        """The headers of every request."""
        self.times: list[float] = []
        """When they came."""
        self.executions: list[dict[str, str]] = []
        """The body of every request for which a picture was bought."""
        self._server = Served(("127.0.0.1", port), Exchange)
        self._server.upstream = self
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
