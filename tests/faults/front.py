"""A gRPC proxy that counts the calls of one server, and answers some of them itself."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import grpc

from yandexart_grpc.stubs import GetOperationRequest

CARRIED = ("authorization", "idempotency-key", "prefer")
"""What is passed on of the metadata of a call."""


class Front(grpc.GenericRpcHandler):
    """Passes calls on to `target`, a `host:port`, as they are; unless it `holds`, nobody learns that reads can be held."""

    def __init__(self, target: str, *, holds: bool) -> None:
        self.answered: Counter[str] = Counter()
        """Calls that were answered so far, by the last part of their name."""
        self.planned = 0
        """Questions so far that came neither to be held nor as gRPC's own repetition of another."""
        self.throttled = 0
        """So many of the next questions are refused by a quota."""
        self.expired: set[str] = set()
        """Operations of which nothing is known any more."""
        self._holds = holds
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(target, [("grpc.max_reconnect_backoff_ms", 100)])
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._channel.close()

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(partial(self._pass_on, details.method))

    def _pass_on(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        name = method.rpartition("/")[2]
        if name == "Get":
            self._count(context)
        if name != "Generate" and (operation_id := GetOperationRequest.FromString(request).operation_id) in self.expired:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Operation {operation_id} not found")
        metadata = tuple((key, value) for key, value in context.invocation_metadata() if key in CARRIED)
        call: Any = self._channel.unary_unary(method)
        try:
            answer, call = call.with_call(request, metadata=metadata, timeout=context.time_remaining(), wait_for_ready=True)
        except grpc.RpcError as error:
            call = error
        context.send_initial_metadata(self._shown(call.initial_metadata()))
        if call.code() is not grpc.StatusCode.OK:
            context.set_trailing_metadata(call.trailing_metadata() or ())
            context.abort(call.code(), call.details())
        with self._lock:
            self.answered[name] += 1
        return bytes(answer)

    def _count(self, context: grpc.ServicerContext) -> None:
        """Count a question, and end the call where a quota refuses it."""
        names = {key for key, _ in context.invocation_metadata()}
        with self._lock:
            self.planned += not names & {"prefer", "grpc-previous-rpc-attempts"}
            throttled = self.throttled > 0
            self.throttled -= throttled
        if throttled:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many questions")

    def _shown(self, metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
        return tuple(pair for pair in metadata or () if self._holds or pair[0] != "preference-applied")
