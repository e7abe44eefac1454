"""Both clients against the embedded server."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.conftest import Face
from yandexart_grpc import (
    AsyncYandexArt,
    ConfigurationError,
    ContentRefused,
    InvalidRequest,
    NotFound,
    OperationCancelled,
    OperationTimeout,
    YandexArt,
)
from yandexart_grpc.server import Embedded, embedded

Connect = Callable[..., Face]


async def test_a_prompt_becomes_an_image(connect: Connect) -> None:
    """A prompt goes in, and the image comes back with its provenance."""
    image = await connect().generate("a red cat", aspect_ratio="16:9", seed=42)
    assert (image.width, image.height, image.seed, image.prompt) == (1344, 768, 42, "a red cat")
    assert image.open().format == "JPEG"
    assert len(image.operation_id) == 20


async def test_a_seed_makes_the_same_image_again(connect: Connect) -> None:
    """The seed that was drawn here makes the same image when it is given."""
    art = connect()
    first = await art.generate("a red cat")
    again = await art.generate("a red cat", seed=first.seed)
    other = await art.generate("a red cat")
    assert first.data == again.data
    assert first.data != other.data


async def test_a_key_stands_for_one_request(connect: Connect) -> None:
    """An order without a seed that is made again with its key, is the same operation; with another prompt, it is refused."""
    first = await connect().submit("a red cat", idempotency_key="order-7")
    again = await connect().submit("a red cat", idempotency_key="order-7")
    assert again.id == first.id
    assert (await again.result()).seed == (await first.result()).seed
    with pytest.raises(InvalidRequest, match="stands for another request"):
        await connect().submit("a blue dog", idempotency_key="order-7")


async def test_an_operation_is_a_handle(connect: Connect) -> None:
    """Submit gives an id; the handle says when it is done and gives its image as often as it is asked."""
    operation = await connect().submit("a red cat", seed=1)
    image = await operation.result(timeout=10)
    assert image.operation_id == operation.id
    assert await operation.done() is True
    assert (await operation.result()).data == image.data
    assert repr(operation.behind) == f"{type(operation.behind).__name__}({operation.id!r})"


async def test_an_operation_is_picked_up_by_its_id(connect: Connect) -> None:
    """Another client, told only the id, gets the same image, and does not guess what it was asked for."""
    submitted = await connect().submit("a red cat", seed=1)
    image = await (await connect().operation(submitted.id)).result()
    assert image.data == (await submitted.result()).data
    assert image.seed is None


async def test_a_refusal_is_content_refused(connect: Connect) -> None:
    """The content rules refuse in the words of the service."""
    with pytest.raises(ContentRefused, match="terms of use") as caught:
        await connect().generate("refuse this prompt")
    assert caught.value.operation_id


async def test_a_wrong_request_is_not_sent(connect: Connect) -> None:
    """What is wrong is said before a connection is made: this address has no server."""
    with pytest.raises(InvalidRequest, match="prompt: empty"):
        await connect(endpoint="http://127.0.0.1:1").generate("")
    with pytest.raises(InvalidRequest, match="timeout: 0"):
        await connect(endpoint="http://127.0.0.1:1").generate("a cat", timeout=0)


async def test_an_unknown_id_is_not_found_at_once(connect: Connect) -> None:
    """An id that the server does not know is final; one that is none is refused here."""
    art = connect()
    operation = await art.operation("fbv00000000000000000")
    for ask in (operation.done, operation.result, operation.cancel):
        with pytest.raises(NotFound, match="fbv00000000000000000"):
            await ask()
    with pytest.raises(InvalidRequest, match="operation_id: ''"):
        await art.operation("")


async def test_a_timeout_leaves_the_operation_alive(connect: Connect) -> None:
    """When the wait ends early the error carries the id, and the handle can still be used."""
    with embedded(duration="fixed:1") as slow:
        art = connect(endpoint=slow.endpoint)
        with pytest.raises(TimeoutError) as caught:
            await art.generate("a red cat", timeout=0.5)
        assert isinstance(caught.value, OperationTimeout)
        assert (caught.value.billed, caught.value.resend) == ("yes", "unsafe")
        operation = await art.operation(caught.value.operation_id)
        assert (await operation.result()).width == 1024
        await art.close()


async def test_a_running_operation_can_be_cancelled(connect: Connect) -> None:
    """Cancelling stops a picture that is not done, and is too late for one that is."""
    with embedded(duration="fixed:60") as slow:
        art = connect(endpoint=slow.endpoint)
        operation = await art.submit("a red cat")
        assert await operation.done() is False
        assert await operation.cancel() is True
        with pytest.raises(OperationCancelled):
            await operation.result()
        await art.close()
    done = await connect().submit("a red cat")
    await done.result()
    assert await done.cancel() is False


async def test_a_closed_client_says_so(connect: Connect) -> None:
    """A closed client refuses to work, and closing it again is harmless."""
    art = connect()
    operation = await art.submit("a red cat")
    await art.close()
    await art.close()
    for ask in (lambda: art.submit("a red cat"), operation.result, operation.done, operation.cancel):
        with pytest.raises(ConfigurationError, match="closed"):
            await ask()


async def test_an_image_above_the_limit_can_be_fetched_with_a_higher_one(connect: Connect) -> None:
    """An answer above max_message_bytes is an error that names the setting; the operation is still there."""
    with pytest.raises(ConfigurationError, match="max_message_bytes") as caught:
        await connect(max_message_bytes=10_000).generate("a red cat")
    assert (await (await connect().operation(caught.value.operation_id)).result()).width == 1024


async def test_logs_hold_ids_and_states_only(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells which operation was submitted and done, and nothing of the prompt or the credential."""
    with caplog.at_level(logging.DEBUG, logger="yandexart_grpc"):
        image = await connect(credentials="AQVN-secret").generate("a red cat")
    assert f"operation {image.operation_id} submitted" in caplog.messages
    assert "red cat" not in caplog.text
    assert "secret" not in caplog.text


def test_threads_share_a_client(server: Embedded) -> None:
    """Many threads use one client at the same time, each with its own result."""
    seeds: list[int | None] = []
    with YandexArt(endpoint=server.endpoint, folder_id="folder") as art:
        threads = [
            threading.Thread(target=lambda seed=seed: seeds.append(art.generate("a red cat", seed=seed).seed))
            for seed in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seed for seed in seeds if seed) == list(range(1, 9))


async def test_tasks_share_a_client_and_await_operations(server: Embedded) -> None:
    """Many tasks use one client at the same time; awaiting an operation gives its image."""
    async with AsyncYandexArt(endpoint=server.endpoint, folder_id="folder") as art:
        operations = await asyncio.gather(*(art.submit("a red cat", seed=seed) for seed in range(1, 9)))
        images = await asyncio.gather(*operations)
    assert [image.seed for image in images] == list(range(1, 9))


async def test_a_cancelled_task_leaves_client_and_operation_usable() -> None:
    """Cancelling a wait raises CancelledError untouched; the operation goes on and the client still works."""
    with embedded(duration="fixed:0.3") as slow:
        async with AsyncYandexArt(endpoint=slow.endpoint, folder_id="folder") as art:
            operation = await art.submit("a red cat")
            waiting = asyncio.create_task(operation.result())
            await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await operation).width == 1024


def test_an_async_client_belongs_to_its_event_loop(server: Embedded) -> None:
    """Used from a second event loop, the client says what to do instead of hanging."""
    art = AsyncYandexArt(endpoint=server.endpoint, folder_id="folder")

    async def first() -> None:
        await art.generate("a red cat")

    async def second() -> None:
        with pytest.raises(ConfigurationError, match="one client for each loop"):
            await art.generate("a red cat")

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("kind", ["YandexArt", "AsyncYandexArt"])
def test_demo_needs_no_server_and_no_close(kind: str) -> None:
    """`demo://` makes a picture in a process that has nothing else, which ends though nobody closed the client."""
    script = f"""
import asyncio, inspect
from yandexart_grpc import {kind}
async def main():
    image = {kind}(endpoint="demo://").generate("a red cat", aspect_ratio=(2, 1))
    image = await image if inspect.isawaitable(image) else image
    print(image.width, image.height)
asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (run.stdout, run.returncode) == ("1408 704\n", 0)
    assert "Traceback" not in run.stderr
