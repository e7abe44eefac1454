"""A server whose answers are small on the wire and huge in memory: `python -m tests.faults.bomb MEGABYTES` prints its port."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from yandexart_grpc import stubs


class Bomb(stubs.OperationServiceServicer):
    """Answers every question with so many megabytes of zeros."""

    def __init__(self, megabytes: int) -> None:
        self._operation = stubs.Operation(done=True)
        self._operation.response.Pack(stubs.ImageGenerationResponse(image=bytes(megabytes * 2**20)))

    def Get(self, request: stubs.GetOperationRequest, context: object) -> stubs.Operation:
        return self._operation

    def Cancel(self, request: stubs.CancelOperationRequest, context: object) -> stubs.Operation:
        return self._operation


def main(megabytes: int) -> None:
    """Serve until the process is killed."""
    server = grpc.server(ThreadPoolExecutor(1), compression=grpc.Compression.Gzip, options=[("grpc.max_send_message_length", -1)])
    stubs.add_OperationServiceServicer_to_server(Bomb(megabytes), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
