"""An Images API that is not ours, written from the documents alone (contract/service.md, "The Images API").

It takes `prompt`, `model` and `size`, and refuses whatever else is sent. One call is one picture, and each is bought.
"""

import base64
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from yandexart_grpc.server.backends.demo import REFUSAL, REFUSED, draw

PATH = "/v1/images/generations"


class BadCall(Exception):
    """A call that is answered with 400."""


class ImagesApi(ThreadingHTTPServer):
    """Draws after `delay` seconds, or answers with `image`; where `hangs_up`, the picture is bought and the answer is lost."""

    def __init__(self, *, delay: float = 0.0, image: bytes | None = None, hangs_up: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.delay, self.image, self.hangs_up = delay, image, hangs_up
        self.bought: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Answer at that address, in a thread of its own."""
        thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self.url
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """What the documents say of the answer. Raises `BadCall`."""
        if unknown := order.keys() - {"prompt", "model", "size"}:
            raise BadCall(f"{', '.join(sorted(unknown))}: not supported")
        size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", order.get("size", "1024x1024"))
        if not (order.get("prompt") and re.fullmatch(r"art://[^/]+/.+", order.get("model", "")) and size):
            raise BadCall("prompt, model or size is wrong")
        if REFUSED in order["prompt"]:
            raise BadCall(REFUSAL)
        self.bought.append(order)
        time.sleep(self.delay)
        drawn = self.image or draw(
            order["prompt"], seed=random.randint(1, 2**31), width_ratio=int(size[1]), height_ratio=int(size[2])
        )
        return {
            "created": int(time.time()),
            "data": [{"b64_json": base64.b64encode(drawn).decode()}],
            "background": "auto",
            "output_format": "jpeg",
            "size": size[0],
            "quality": "auto",
            "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        }


class _Call(BaseHTTPRequestHandler):
    server: ImagesApi

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != PATH or not self.headers.get("authorization"):
            return self._say(404 if self.path != PATH else 401, {"error": {"message": "Unknown api key", "type": "invalid"}})
        try:
            answer = self.server.answer(order)
        except BadCall as error:
            return self._say(400, {"error": {"message": str(error), "type": "invalid_request_error"}})
        return None if self.server.hangs_up else self._say(200, answer)

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
