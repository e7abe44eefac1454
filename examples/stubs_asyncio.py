"""gRPC and the stubs, nothing else: order an image, ask until it is done, take it out. With asyncio.

    python examples/stubs_asyncio.py "a red cat" cat.jpeg

What a client does beside (when to ask, what a lost answer costs, whether the image is whole) is yours to do here.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import grpc

from yandexart_grpc.stubs import (
    GetOperationRequest,
    ImageGenerationAsyncServiceAsyncStub,
    ImageGenerationAsyncServiceStub,
    ImageGenerationRequest,
    ImageGenerationResponse,
    Message,
    OperationServiceAsyncStub,
    OperationServiceStub,
)

ENDPOINT = os.environ.get("YANDEXART_ENDPOINT", "")
ORDERS = ENDPOINT or "https://llm.api.cloud.yandex.net:443"
OPERATIONS = ENDPOINT or "https://operation.api.cloud.yandex.net:443"
"""At Yandex, operations are read at another address."""
FOLDER = os.environ["YC_FOLDER_ID"]
AUTHORIZATION = ("authorization", f"Api-Key {os.environ['YC_API_KEY']}")
HELD = ("prefer", "wait=30")
"""Ours answers when the image is ready, or after 30 s. A server that knows nothing of this answers at once."""
LARGEST = ("grpc.max_receive_message_length", 32 * 2**20)
"""An image may have more than the 4 MiB that gRPC takes by itself."""
PAUSE, LONGEST = 1.0, 300.0
"""Seconds between two questions, and for the whole."""


def channel(url: str) -> grpc.aio.Channel:
    """A channel over TLS; in plaintext where the address says so."""
    scheme, _, target = url.rpartition("://")
    if scheme == "http":
        return grpc.aio.insecure_channel(target, [LARGEST])
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), [LARGEST])


async def main(prompt: str, path: Path) -> None:
    """Make an image of the prompt."""
    request = ImageGenerationRequest(model_uri=f"art://{FOLDER}/yandex-art/latest", messages=[Message(text=prompt, weight=1)])
    async with channel(ORDERS) as orders, channel(OPERATIONS) as operations:
        # Each call of Generate buys an image: when its answer is lost, nobody knows whether there will be one.
        generation: ImageGenerationAsyncServiceAsyncStub = ImageGenerationAsyncServiceStub(orders)
        operation = await generation.Generate(request, timeout=30, metadata=(AUTHORIZATION,))
        print("ordered", operation.id)
        reads: OperationServiceAsyncStub = OperationServiceStub(operations)
        end = time.monotonic() + LONGEST
        while not operation.done:
            if time.monotonic() > end:
                sys.exit(f"operation {operation.id} is not done after {LONGEST:g} s; it goes on")
            await asyncio.sleep(PAUSE)
            question = GetOperationRequest(operation_id=operation.id)
            try:
                operation = await reads.Get(question, timeout=40, metadata=(AUTHORIZATION, HELD))
            except grpc.aio.AioRpcError as error:  # to read again costs nothing
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
    if operation.WhichOneof("result") != "response":
        sys.exit(f"operation {operation.id} ended without an image: {operation.error.message}")
    response = ImageGenerationResponse()
    operation.response.Unpack(response)
    await asyncio.to_thread(path.write_bytes, response.image)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
