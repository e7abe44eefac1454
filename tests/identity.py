"""Who gives tokens at Yandex, on this machine: an IAM service, a metadata service, and a program called `yc`.

The IAM service is made of the stubs of `yandexcloud`, and checks what it is shown as the real one does (contract/service.md, "Who
may call").
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from yandex.cloud.iam.v1.iam_token_service_pb2 import CreateIamTokenRequest, CreateIamTokenResponse, RevokeIamTokenResponse
from yandex.cloud.iam.v1.iam_token_service_pb2_grpc import IamTokenServiceServicer, add_IamTokenServiceServicer_to_server

OAUTH = "y0_oauth"
"""The one OAuth token that the IAM service knows."""
KEY, ACCOUNT = "ajekey", "ajeaccount"


class Account:
    """A service account with one key, as Yandex gives it out."""

    @cached_property
    def _pair(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def file(self) -> dict[str, str]:
        """What is in the file."""
        pem = self._pair.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        warning = f"PLEASE DO NOT REMOVE THIS LINE! Yandex.Cloud SA Key ID <{KEY}>\n"
        return {"id": KEY, "service_account_id": ACCOUNT, "created_at": "2026-11-20T10:00:00Z", "private_key": warning + pem}

    def problem(self, token: str) -> str | None:
        """What is wrong with a JWT."""
        header = jwt.get_unverified_header(token)
        if (header["alg"], header["kid"]) != ("PS256", KEY):
            return f"wrong header {header}"
        try:
            claims = jwt.decode(
                token,
                self._pair.public_key(),
                algorithms=["PS256"],
                audience="https://iam.api.cloud.yandex.net/iam/v1/tokens",
                issuer=ACCOUNT,
                options={"require": ["iss", "aud", "iat", "exp"]},
            )
        except jwt.PyJWTError as error:
            return str(error)
        return None if 0 < claims["exp"] - claims["iat"] <= 3600 else "lives for too long"


Answer = Callable[[CreateIamTokenResponse, grpc.ServicerContext], object]
"""Changes the token that is answered, or ends the call."""


def ends_in(seconds: float) -> Answer:
    """A token of that life, by the clock of the service."""

    def answer(token: CreateIamTokenResponse, context: grpc.ServicerContext) -> None:
        token.expires_at.FromNanoseconds(int((time.time() + seconds) * 1e9))

    return answer


def fails(code: grpc.StatusCode, details: str = "said IAM") -> Answer:
    """The call ends with that status."""

    def answer(token: CreateIamTokenResponse, context: grpc.ServicerContext) -> None:
        context.abort(code, details)

    return answer


class Iam(IamTokenServiceServicer):
    """Gives out `t1.0`, `t1.1`, … that live for twelve hours; `answers` change the first ones."""

    def __init__(self, *answers: Answer) -> None:
        self.account = Account()
        self.asked = 0
        """How often it was asked."""
        self._answers = iter(answers)
        self._lock = threading.Lock()

    def Create(self, request: CreateIamTokenRequest, context: grpc.ServicerContext) -> CreateIamTokenResponse:
        with self._lock:
            number, self.asked = self.asked, self.asked + 1
            answer = next(self._answers, ends_in(12 * 3600))
        known = request.yandex_passport_oauth_token == OAUTH
        problem = None if known else self.account.problem(request.jwt) if request.jwt else "wrong OAuth token"
        if problem:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, problem)
        token = CreateIamTokenResponse(iam_token=f"t1.{number}")
        answer(token, context)
        return token

    def CreateForServiceAccount(self, request: object, context: grpc.ServicerContext) -> CreateIamTokenResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not asked for")

    def Revoke(self, request: object, context: grpc.ServicerContext) -> RevokeIamTokenResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not asked for")

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Its endpoint."""
        server = grpc.server(ThreadPoolExecutor(8))
        add_IamTokenServiceServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop(None).wait()


class Metadata:
    """The metadata service of a virtual machine; answers with `status` and `body`."""

    def __init__(self, body: bytes | None = None, status: int = 200) -> None:
        self.body, self.status = body, status
        self.asked = 0

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Its address."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wrong = self.path != "/computeMetadata/v1/instance/service-accounts/default/token"
                status = 404 if wrong else 403 if self.headers["Metadata-Flavor"] != "Google" else service.status
                told = {"access_token": f"t1.{service.asked}", "expires_in": 43200, "token_type": "Bearer"}
                service.asked += 1
                self.send_response(status)
                self.end_headers()
                self.wfile.write(service.body or json.dumps(told).encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()


def write_yc(folder: Path, script: str) -> None:
    """Put a program `yc` into a folder."""
    program = folder / "yc"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
