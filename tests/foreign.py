"""A server that is not ours: the stubs of `yandexcloud`, and answers as the real service was seen to give them.

`Generate` answers an id and nothing else, `Get` the id alone as long as the script says so, and then id, done and response. No
timestamps, no metadata, no model version (contract/service.md, "The answer"). Whatever else a caller sends is ignored.

Where it is told to, it honours idempotency keys, as the real service does not: it announces where it keeps them, in the initial
metadata of `Generate`, before the work, and of `Health/Check`.

`python -m tests.foreign --ledger FILE` runs it in a process of its own.
"""

import argparse
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import grpc
import PIL.Image
from google.protobuf.message import Message
from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2 import (
    ImageGenerationRequest,
    ImageGenerationResponse,
)
from yandex.cloud.ai.foundation_models.v1.image_generation.image_generation_service_pb2_grpc import (
    ImageGenerationAsyncServiceServicer,
    add_ImageGenerationAsyncServiceServicer_to_server,
)
from yandex.cloud.operation.operation_pb2 import Operation
from yandex.cloud.operation.operation_service_pb2 import CancelOperationRequest, GetOperationRequest
from yandex.cloud.operation.operation_service_pb2_grpc import OperationServiceServicer, add_OperationServiceServicer_to_server

Answer = Callable[[Operation, grpc.ServicerContext], object]
"""Turns an operation that has only its id into what is answered, or ends the call."""


def alone(operation: Operation, context: grpc.ServicerContext) -> None:
    """The id, and nothing else."""


def nameless(operation: Operation, context: grpc.ServicerContext) -> None:
    """Not even an id."""
    operation.ClearField("id")


def neither(operation: Operation, context: grpc.ServicerContext) -> None:
    """Done, with neither response nor error."""
    operation.done = True


def finished(response: Message) -> Answer:
    """Done, with that response."""

    def answer(operation: Operation, context: grpc.ServicerContext) -> None:
        operation.done = True
        operation.response.Pack(response)

    return answer


def pictured(data: bytes) -> Answer:
    """Done, with that image."""
    return finished(ImageGenerationResponse(image=data))


def undecodable(value: bytes) -> Answer:
    """Done, with a response of the right type whose bytes are these."""

    def answer(operation: Operation, context: grpc.ServicerContext) -> None:
        pictured(b"")(operation, context)
        operation.response.value = value

    return answer


def failed(code: int, message: str, *, done: bool = True) -> Answer:
    """Ended with that error; the real service may set it before `done`."""

    def answer(operation: Operation, context: grpc.ServicerContext) -> None:
        operation.done = done
        operation.error.code, operation.error.message = code, message

    return answer


def refused(code: grpc.StatusCode, details: str = "refused", metadata: tuple[tuple[str, str], ...] = ()) -> Answer:
    """The call ends with that status."""

    def answer(operation: Operation, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(metadata)
        context.abort(code, details)

    return answer


def counted(answer: Answer, ledger: Path) -> Answer:
    """That answer, after a line in a file."""

    def count(operation: Operation, context: grpc.ServicerContext) -> None:
        with ledger.open("a") as file:
            file.write(f"{operation.id}\n")
        answer(operation, context)

    return count


class Held:
    """An answer that waits: the id alone, and not before `release` is set. `asked` tells that the question has arrived."""

    def __init__(self) -> None:
        self.asked, self.release = threading.Event(), threading.Event()

    def __call__(self, operation: Operation, context: grpc.ServicerContext) -> None:
        self.asked.set()
        self.release.wait(30)


class Call(NamedTuple):
    """One request that reached the server."""

    request: Any
    metadata: Mapping[str, str | bytes]
    at: float
    """When, on the monotonic clock."""


class _Counting(grpc.ServerInterceptor):
    """Rings for each call."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self._ring()
        return continuation(handler_call_details)


class Foreign(ImageGenerationAsyncServiceServicer, OperationServiceServicer):
    """Both services, told what to answer, and what they were asked.

    `generate` and `reads` are answered in their order, whichever operation is meant; after them every submit is accepted and
    every operation is done, with `image`, which may depend on the request. With a `scope`, a key that is known there is not
    executed again. `stranger` is what a question for an unknown operation gets. `submits` are all calls of `Generate`,
    `executions` those that bought something. Where it has `keys`, a call with another `authorization` is refused, and collected.
    """

    def __init__(
        self,
        *,
        generate: Iterable[Answer] = (),
        reads: Iterable[Answer] = (),
        image: bytes | Callable[[ImageGenerationRequest], bytes] = b"",
        scope: str | None = None,
        stranger: Answer | None = None,
    ) -> None:
        self.scope = scope
        self._stranger = stranger
        self.keys: set[str | bytes] | None = None
        self.refused: list[Call] = []
        self.submits: list[Call] = []
        self.executions: list[Call] = []
        self.reads: list[Call] = []
        self.calls: Counter[str] = Counter()
        """How many calls came to each host."""
        self._generate = iter(generate)
        self._reads = iter(reads)
        self._image = image
        self._requests: dict[str, ImageGenerationRequest] = {}
        self._known: dict[tuple[str, str | bytes], str] = {}
        self._ids = (f"fbv{number:017}" for number in itertools.count())
        self._lock = threading.Lock()
        self._servers: dict[grpc.Server, str] = {}

    def listen(
        self,
        *,
        generation: bool = True,
        operations: bool = True,
        credentials: grpc.ServerCredentials | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> str:
        """Open one more port for these services, and return its endpoint. With credentials it speaks TLS."""
        counting: Any = _Counting(lambda: self.calls.update([host]))
        server = grpc.server(ThreadPoolExecutor(16), interceptors=[counting])
        if generation:
            add_ImageGenerationAsyncServiceServicer_to_server(self, server)
        if operations:
            add_OperationServiceServicer_to_server(self, server)
        if self.scope is not None:
            check: Any = grpc.unary_unary_rpc_method_handler(self._check)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),))
        listen = f"{host}:{port}"
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
        server.start()
        self._servers[server] = host
        return f"{'https' if credentials else 'http'}://{host}:{port}"

    def script(self, *reads: Answer) -> None:
        """Answer the next reads so."""
        self._reads = iter(reads)

    def bought(self, request: ImageGenerationRequest | None = None) -> str:
        """The id of a new operation; without a request, one that somebody else has submitted."""
        with self._lock:
            operation_id = next(self._ids)
            self._requests[operation_id] = request or ImageGenerationRequest()
        return operation_id

    def close(self, host: str | None = None) -> None:
        """Close every port, or those of one host."""
        for server, where in self._servers.items():
            if host in (None, where):
                server.stop(None).wait()

    def Generate(self, request: ImageGenerationRequest, context: grpc.ServicerContext) -> Operation:
        call, scope = self._admitted(request, context), self.scope
        self._announce(context)
        with self._lock:
            self.submits.append(call)
            answer = next(self._generate, alone)
            name = (scope, call.metadata["idempotency-key"]) if scope else None  # some who call have no key
            known = self._known.get(name) if name else None
        if known is None:
            self.executions.append(call)
            known = self.bought(request)
            if name:
                self._known[name] = known
        operation = Operation(id=known)
        answer(operation, context)
        return operation

    def Get(self, request: GetOperationRequest, context: grpc.ServicerContext) -> Operation:
        call = self._admitted(request, context)
        with self._lock:
            self.reads.append(call)
            submitted = self._requests.get(request.operation_id)
            if submitted is None and self._stranger:
                self._stranger(Operation(), context)
            if submitted is None:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Operation {request.operation_id} not found")
            answer = next(self._reads, None)
        operation = Operation(id=request.operation_id)
        answer = answer or pictured(self._image if isinstance(self._image, bytes) else self._image(submitted))
        answer(operation, context)
        return operation

    def Cancel(self, request: CancelOperationRequest, context: grpc.ServicerContext) -> Operation:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "nobody has seen the real service cancel an image")

    def _admitted(self, request: Message, context: grpc.ServicerContext) -> Call:
        call = Call(request, dict(context.invocation_metadata()), time.monotonic())
        if self.keys is not None and call.metadata.get("authorization") not in self.keys:
            self.refused.append(call)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Token is invalid or has expired.")
        return call

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._announce(context)
        return b""

    def _announce(self, context: grpc.ServicerContext) -> None:
        if self.scope is not None:
            context.send_initial_metadata((("idempotency-scope", self.scope),))


def jpeg(*, size: int = 0, seed: int = 1) -> bytes:
    """A valid JPEG of 64 to 48 pixels, filled up with comments to exactly `size` bytes where that is larger. All is noise."""
    random, file = Random(seed), BytesIO()
    PIL.Image.frombytes("RGB", (64, 48), random.randbytes(64 * 48 * 3)).save(file, "jpeg")
    start, rest = file.getvalue()[:2], file.getvalue()[2:]
    missing, comments = size - len(file.getvalue()), []
    while missing > 0:
        length = missing if missing < 60_004 else 60_000  # a comment takes four bytes at least
        comments.append(b"\xff\xfe" + (length - 2).to_bytes(2) + random.randbytes(length - 4))
        missing -= length
    return b"".join([start, *comments, rest])


def main(arguments: Sequence[str]) -> None:
    """Serve until the process is killed; print the address once it can be reached. An order is done with an image, or never."""
    parser = argparse.ArgumentParser(prog="foreign")
    parser.add_argument("--ledger", type=Path, required=True, help="gets a line for each picture that is bought")
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--image", type=Path, help="the picture of each order, which is done at once")
    does.add_argument("--lose", action="store_true", help="buy each picture, and answer that the server is not there")
    given = parser.parse_args(arguments)
    answer = pictured(given.image.read_bytes()) if given.image else refused(grpc.StatusCode.UNAVAILABLE) if given.lose else alone
    server = Foreign(generate=itertools.repeat(counted(answer, given.ledger)), reads=itertools.repeat(alone))
    print(server.listen(), flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
