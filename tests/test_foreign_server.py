"""The client understands a server that is not ours and answers like the real service, whole or broken, and never buys twice."""

import asyncio
import base64
import itertools
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from grpc import StatusCode
from yandex.cloud.ai.foundation_models.v1.image_generation import image_generation_pb2, image_generation_service_pb2

from tests.conftest import Face, collect
from tests.foreign import (
    Answer,
    Foreign,
    Held,
    alone,
    failed,
    finished,
    jpeg,
    nameless,
    neither,
    pictured,
    refused,
    undecodable,
)
from yandexart_grpc import (
    AsyncYandexArt,
    ConfigurationError,
    ContentRefused,
    InvalidRequest,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OperationTimeout,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    YandexArt,
    YandexArtError,
)

Connect = Callable[..., Face]
Serve = Callable[..., Foreign]

PICTURE = jpeg()
ENGLISH = "it is not possible to generate an image from this request because it may violate the terms of use"
RUSSIAN = "Я не могу сгенерировать это изображение. Давайте попробуем другую тему."


@pytest.fixture
def connect(connect: Connect) -> Connect:
    """Makes clients of one kind, as `tests.conftest` does, whose waits end soon where something goes wrong."""
    return lambda **settings: connect(**{"timeout": 10} | settings)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes servers, which answer with `PICTURE` where nothing else is said, and closes them in the end."""
    made: list[Foreign] = []

    def make(**script: Any) -> Foreign:
        made.append(Foreign(**{"image": PICTURE} | script))
        return made[-1]

    yield make
    for server in made:
        server.close()


# From prompt to picture


@pytest.mark.parametrize("pending", [0, 1, 3])
async def test_the_picture_arrives_after_any_number_of_bare_ids(connect: Connect, serve: Serve, pending: int) -> None:
    """A picture arrives from answers that hold an id alone, however many, and then id, done and response."""
    server = serve(reads=[alone] * pending)
    image = await connect(endpoint=server.listen()).generate("a red cat", seed=42)
    assert (image.data, image.width, image.height, image.seed) == (PICTURE, 64, 48, 42)
    assert (image.operation_id, image.model_version, image.prompt) == (f"fbv{0:017}", "", "a red cat")
    assert (len(server.executions), len(server.reads)) == (1, pending + 1)


@pytest.mark.parametrize("size", [1_600_000, 20_000_000])
async def test_a_large_image_arrives_whole(connect: Connect, serve: Serve, size: int) -> None:
    """An image of 1.6 MB and one of 20 MB arrive byte for byte."""
    data = jpeg(size=size)
    image = await connect(endpoint=serve(image=data).listen()).generate("a red cat")
    assert len(image.data) == size
    assert image.data == data


async def test_a_shared_client_gives_each_caller_its_own_picture(connect: Connect, serve: Serve) -> None:
    """Twenty threads or tasks share one client, each gets the picture of its own prompt, and each prompt is submitted once."""
    prompts = [f"cat {number}" for number in range(20)]
    pictures = {prompt: jpeg(seed=number) for number, prompt in enumerate(prompts)}
    server = serve(reads=[alone] * 30, image=lambda request: pictures[request.messages[0].text])
    art = connect(endpoint=server.listen())
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(prompts)))
    images = await asyncio.gather(*(art.generate(prompt) for prompt in prompts))
    assert [image.data for image in images] == list(pictures.values())
    assert sorted(call.request.messages[0].text for call in server.executions) == sorted(prompts)


async def test_the_two_services_may_live_at_two_endpoints(connect: Connect, serve: Serve) -> None:
    """With an `operation_endpoint`, operations are read there and submitted at `endpoint`, as at Yandex."""
    server = serve(reads=[alone])
    generation, operations = server.listen(operations=False), server.listen(generation=False)
    image = await connect(endpoint=generation, operation_endpoint=operations).generate("a red cat")
    assert image.data == PICTURE


async def test_an_operation_is_picked_up_by_its_id(connect: Connect, serve: Serve) -> None:
    """An operation that another process submitted gives its picture, with nothing submitted here."""
    server = serve(reads=[alone])
    operation = await connect(endpoint=server.listen()).operation(server.bought())
    assert (await operation.result()).data == PICTURE
    assert server.executions == []


async def test_done_asks_once(connect: Connect, serve: Serve) -> None:
    """`done` asks the server once a call, until the operation has ended; then the result needs no further question."""
    server = serve(reads=[alone])
    operation = await connect(endpoint=server.listen()).submit("a red cat")
    assert [await operation.done() for _ in range(3)] == [False, True, True]
    assert (await operation.result()).data == PICTURE
    assert len(server.reads) == 2


# What is sent


@pytest.mark.parametrize(
    ("credentials", "authorization"),
    [
        ("AQVNsecret", "Api-Key AQVNsecret"),
        ("t1.secret", "Bearer t1.secret"),
        (" AQVNsecret\n", "Api-Key AQVNsecret"),
        (None, None),
    ],
)
async def test_every_call_carries_the_credential(
    connect: Connect, serve: Serve, credentials: str | None, authorization: str | None
) -> None:
    """An API key and an IAM token are told apart by prefix, and every call carries the one there is."""
    server = serve()
    await connect(endpoint=server.listen(), credentials=credentials).generate("a red cat")
    assert [call.metadata.get("authorization") for call in server.executions + server.reads] == [authorization] * 2


async def test_the_submitted_message_is_what_was_asked(connect: Connect, serve: Serve) -> None:
    """Every argument becomes the field of the contract that means it, and nothing is added."""
    server = serve()
    prompt = ["a red cat", ("on a roof", 0.5), ("dog", -1.0)]
    await connect(endpoint=server.listen(), folder_id="b1gfolder").submit(prompt, aspect_ratio="16:9", seed=42)
    weighted = [("a red cat", 1.0), ("on a roof", 0.5), ("dog", -1.0)]
    assert server.executions[0].request == image_generation_service_pb2.ImageGenerationRequest(
        model_uri="art://b1gfolder/yandex-art/latest",
        messages=[image_generation_pb2.Message(text=text, weight=weight) for text, weight in weighted],
        generation_options=image_generation_pb2.ImageGenerationOptions(
            mime_type="image/jpeg",
            seed=42,
            aspect_ratio=image_generation_pb2.AspectRatio(width_ratio=16, height_ratio=9),
        ),
    )


@pytest.mark.parametrize(
    ("model", "uri"),
    [("yandex-art-2.0", "art://folder/yandex-art-2.0"), ("art://other/yandex-art/latest", "art://other/yandex-art/latest")],
)
async def test_a_model_is_a_name_in_the_folder_or_a_whole_uri(connect: Connect, serve: Serve, model: str, uri: str) -> None:
    """The name of a model is completed with the folder, and a whole URI is sent as it is."""
    server = serve()
    await connect(endpoint=server.listen()).submit("a red cat", model=model)
    assert server.executions[0].request.model_uri == uri


async def test_a_drawn_seed_is_the_one_that_was_sent(connect: Connect, serve: Serve) -> None:
    """Without a seed one is drawn, and the image knows it; the ratio is left to the service."""
    server = serve()
    image = await connect(endpoint=server.listen()).generate("a red cat")
    options = server.executions[0].request.generation_options
    assert image.seed == options.seed > 0
    assert not options.HasField("aspect_ratio")


# Broken answers of Get


class Broken(NamedTuple):
    """A broken answer, and what is raised for it."""

    answer: Answer
    error: type[YandexArtError]
    words: str
    billed: str = "yes"


BROKEN = {
    "neither result": Broken(neither, ProtocolError, "neither response nor error"),
    "Any of another type": Broken(
        finished(image_generation_pb2.Message(text="hello")), ProtocolError, "image_generation.Message"
    ),
    "undecodable": Broken(undecodable(b"\x0a\xff\xff"), ProtocolError, "0a ff ff"),
    "empty image": Broken(pictured(b""), ProtocolError, "empty image"),
    "no JPEG": Broken(pictured(b"\x89PNG\r\n\x1a\n"), ProtocolError, "89 50 4e 47"),
    "Base64 cut off": Broken(pictured(base64.b64encode(PICTURE)[:-1]), ProtocolError, "broken Base64"),
    "Base64 with a stray byte": Broken(pictured(base64.b64encode(PICTURE).replace(b"A", b"!")), ProtocolError, "broken Base64"),
    "Base64 of half a JPEG": Broken(pictured(base64.b64encode(PICTURE[:999])), ProtocolError, "truncated JPEG of 999 bytes"),
    "refusal in English": Broken(failed(3, ENGLISH), ContentRefused, ENGLISH, billed="unknown"),
    "refusal in Russian": Broken(failed(3, RUSSIAN), ContentRefused, RUSSIAN, billed="unknown"),
    "internal error": Broken(failed(13, "Internal error"), OperationFailed, "INTERNAL: Internal error", billed="no"),
    "internal error before done": Broken(failed(13, "Internal error", done=False), OperationFailed, "INTERNAL", billed="no"),
    "another error": Broken(failed(8, "no GPU"), OperationFailed, "RESOURCE_EXHAUSTED: no GPU", billed="unknown"),
    "a code nobody knows": Broken(failed(99, "what?"), OperationFailed, "UNKNOWN: what?", billed="unknown"),
    "cancelled": Broken(failed(1, "cancelled"), OperationCancelled, "cancelled", billed="unknown"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_a_typed_error_at_once(connect: Connect, serve: Serve, broken: Broken) -> None:
    """Whatever is wrong with an answer is raised as its own error, with the id and the words, after a single question."""
    server = serve(reads=[broken.answer])
    operation = await connect(endpoint=server.listen()).operation(server.bought())
    with pytest.raises(YandexArtError) as raised:
        await operation.result()
    error = raised.value
    assert type(error) is broken.error
    assert (error.operation_id, error.billed) == (operation.id, broken.billed)
    assert error.resend == ("safe" if broken.billed == "no" else "unsafe")
    assert operation.id in str(error)
    assert broken.words in str(error)
    assert len(server.reads) == 1


@pytest.mark.parametrize("kept", [2, 4, 160, PICTURE.index(b"\xff\xda"), len(PICTURE) // 2, len(PICTURE) - 2, len(PICTURE) - 1])
async def test_a_truncated_jpeg_is_never_an_image(connect: Connect, serve: Serve, kept: int) -> None:
    """A JPEG that ends too early is a ProtocolError with its first bytes in hex, wherever it was cut off."""
    server = serve(image=PICTURE[:kept])
    operation = await connect(endpoint=server.listen()).operation(server.bought())
    with pytest.raises(ProtocolError, match=f"truncated JPEG of {kept} bytes, first bytes ff d8"):
        await operation.result()


async def test_base64_instead_of_raw_bytes_is_decoded(connect: Connect, serve: Serve) -> None:
    """Base64, of which the documents speak, gives the same image as the raw bytes on the wire."""
    image = await connect(endpoint=serve(image=base64.b64encode(PICTURE)).listen()).generate("a red cat")
    assert image.data == PICTURE


async def test_an_answer_above_the_limit_is_final_and_the_operation_is_not(connect: Connect, serve: Serve) -> None:
    """An image above the receive limit is one error that names the option, and a larger limit gets the same operation."""
    server = serve(image=jpeg(size=5_000_000))
    endpoint = server.listen()
    operation = await connect(endpoint=endpoint, max_message_bytes=4 * 2**20).submit("a red cat")
    with pytest.raises(ConfigurationError, match="max_message_bytes") as raised:
        await operation.result()
    assert (raised.value.operation_id, raised.value.billed, len(server.reads)) == (operation.id, "yes", 1)
    again = await connect(endpoint=endpoint).operation(operation.id)
    assert len((await again.result()).data) == 5_000_000
    assert len(server.executions) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (StatusCode.NOT_FOUND, NotFound),
        (StatusCode.UNAUTHENTICATED, Unauthenticated),
        (StatusCode.PERMISSION_DENIED, PermissionDenied),
        (StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (StatusCode.UNIMPLEMENTED, ProtocolError),
    ],
)
async def test_a_final_failure_of_a_read_is_not_asked_again(
    connect: Connect, serve: Serve, code: StatusCode, error: type[YandexArtError]
) -> None:
    """A status that no repetition mends ends the wait after one question."""
    server = serve(reads=[refused(code, "no use", (("x-request-id", "7f3a"),))])
    operation = await connect(endpoint=server.listen()).operation(server.bought())
    with pytest.raises(error, match="no use") as raised:
        await operation.result()
    assert (raised.value.code, raised.value.details, raised.value.request_id) == (code, "no use", "7f3a")
    assert raised.value.operation_id == operation.id
    assert len(server.reads) == 1


async def test_an_image_tells_what_the_server_calls_its_order(connect: Connect, serve: Serve) -> None:
    """However it was ordered; an operation that was ordered elsewhere has no such name here, and an error has it too."""

    def named(operation: object, context: grpc.ServicerContext) -> None:
        context.send_initial_metadata((("x-request-id", "7f3a"),))

    server = serve(generate=[named] * 5, reads=[*[pictured(PICTURE)] * 4, *[failed(13, "broken")] * 2])
    art = connect(endpoint=server.listen())
    assert (await art.generate("a cat")).request_id == "7f3a"
    operation = await art.submit("a cat")
    assert (await operation.result()).request_id == "7f3a"
    assert [image.request_id for image in await collect(art, "map", ["a cat"])] == ["7f3a"]
    assert (await (await art.operation(operation.id)).result()).request_id is None
    with pytest.raises(OperationFailed) as raised:
        await (await art.submit("a cat")).result()
    assert raised.value.request_id == "7f3a"
    with pytest.raises(OperationFailed) as raised:
        await art.generate("a cat")
    assert raised.value.request_id == "7f3a"


async def test_an_unknown_id_is_not_found_at_once(connect: Connect, serve: Serve) -> None:
    """An id that the service does not know, or no longer, is NotFound after one question."""
    server = serve()
    operation = await connect(endpoint=server.listen()).operation("fbv-expired")
    with pytest.raises(NotFound, match="fbv-expired"):
        await operation.result()
    assert len(server.reads) == 1


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.ABORTED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
    ],
)
async def test_a_passing_failure_of_a_read_is_asked_again(connect: Connect, serve: Serve, code: StatusCode) -> None:
    """After a failure that may pass, the same operation is read again and gives its picture."""
    server = serve(reads=[refused(code), refused(code)])
    operation = await connect(endpoint=server.listen()).operation(server.bought())
    assert (await operation.result()).data == PICTURE
    assert [call.request.operation_id for call in server.reads] == [operation.id] * 3


async def test_an_operation_that_never_finishes_is_left_alive(connect: Connect, serve: Serve) -> None:
    """The end of the wait is a TimeoutError that carries the id, and the id gives the picture once it is there."""
    pending = True
    server = serve(reads=itertools.takewhile(lambda _: pending, itertools.repeat(alone)))
    art = connect(endpoint=server.listen())
    with pytest.raises(OperationTimeout) as raised:
        await art.generate("a red cat", timeout=1)
    assert isinstance(raised.value, TimeoutError)
    assert (raised.value.operation_id, raised.value.billed) == (f"fbv{0:017}", "yes")
    pending = False
    operation = await art.operation(raised.value.operation_id)
    assert (await operation.result()).data == PICTURE
    assert len(server.executions) == 1


async def test_a_server_that_holds_its_answer_back_does_not_hold_the_caller(connect: Connect, serve: Serve) -> None:
    """A read that gets no answer ends with the wait, and the handle gives the picture afterwards."""
    held = Held()
    server = serve(reads=[held])
    operation = await connect(endpoint=server.listen()).submit("a red cat")
    with pytest.raises(OperationTimeout, match=operation.id):
        await operation.result(timeout=0.3)
    held.release.set()
    assert (await operation.result()).data == PICTURE


# Failures of Generate: money


async def test_every_order_has_a_key(connect: Connect, serve: Serve) -> None:
    """An order carries the key that the caller gave, or one of its own, as does each prompt of a map."""
    server = serve()
    art = connect(endpoint=server.listen())
    await art.generate("a red cat", idempotency_key="order-7")
    await art.submit("a red cat", idempotency_key="order-8")
    await art.submit("a red cat")
    await collect(art, "map", ["a red cat", "a blue dog"])
    given, own = keys(server)[:2], keys(server)[2:]
    assert given == ["order-7", "order-8"]
    assert len({uuid.UUID(str(key)) for key in own}) == 3
    assert not [call for call in server.reads if "idempotency-key" in call.metadata]


@pytest.mark.parametrize("key", ["", "a b", "ключ", "line\n", "x" * 256, 7, b"bytes"])
async def test_a_key_that_metadata_cannot_carry_is_refused(connect: Connect, key: Any) -> None:
    """A wrong key is named, with what is allowed, before a connection is made: this address has no server."""
    art = connect(endpoint="http://127.0.0.1:1")
    for order in (art.generate, art.submit):
        with pytest.raises(InvalidRequest, match=r"idempotency_key: .* is not 1 to 255 printable ASCII") as raised:
            await order("a red cat", idempotency_key=key)
        assert repr(key) in str(raised.value)


LOSSES = {
    "UNAVAILABLE": refused(StatusCode.UNAVAILABLE),
    "INTERNAL": refused(StatusCode.INTERNAL),
    "no answer in time": lambda operation, context: time.sleep(0.4),
}


@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES.keys())
async def test_an_answer_that_was_lost_is_had_from_a_server_that_keeps_keys(connect: Connect, serve: Serve, lost: Answer) -> None:
    """Toward a server that announces a scope, the same order with the same key brings the operation that was bought."""
    server = serve(generate=[lost, lost], scope="s1")
    art = connect(endpoint=server.listen(), rpc_timeout=0.3)
    assert (await art.submit("a red cat")).id == f"fbv{0:017}"
    assert (len(server.executions), len(set(keys(server)))) == (1, 1)
    assert len(server.submits) == 3
    assert scope_of(art) == "s1"


async def test_a_server_that_dies_with_an_order_is_asked_again_when_it_is_back(connect: Connect, serve: Serve) -> None:
    """The connection breaks while the order is executed; the server comes back with its store: one operation."""
    held = Held()
    server = serve(generate=[held], scope="s1")
    endpoint = server.listen()
    ordered = asyncio.create_task(connect(endpoint=endpoint).submit("a red cat"))
    assert await asyncio.to_thread(held.asked.wait, 10)
    server.close()
    held.release.set()
    server.listen(port=int(endpoint.rpartition(":")[2]))
    assert (await ordered).id == f"fbv{0:017}"
    assert (len(server.executions), len(set(keys(server)))) == (1, 1)


@pytest.mark.parametrize("scope", ["s2", None])
async def test_a_server_that_lost_its_store_is_not_sent_the_order_again(
    connect: Connect, serve: Serve, scope: str | None
) -> None:
    """When the server announces another store after the answer was lost, or none, the outcome is unknown."""

    def restart(operation: Any, context: grpc.ServicerContext) -> None:
        server.scope = scope
        context.abort(StatusCode.UNAVAILABLE, "restarting")

    server = serve(generate=[restart], scope="s1")
    with pytest.raises(OutcomeUnknown, match=r"restarting; .* not sent again.*'order-7'") as raised:
        await connect(endpoint=server.listen()).generate("a red cat", idempotency_key="order-7")
    assert (raised.value.billed, raised.value.idempotency_key) == ("unknown", "order-7")
    assert len(server.submits) == 1


async def test_the_same_key_asks_again_after_an_unknown_outcome(connect: Connect, serve: Serve) -> None:
    """What the error tells can be done: another client with the key of the error gets the operation that was bought."""
    held = Held()
    server = serve(generate=[held], scope="s1")
    endpoint = server.listen()
    with pytest.raises(OutcomeUnknown, match="no answer came until the timeout") as raised:
        await connect(endpoint=endpoint).submit("a red cat", seed=1, timeout=0.2)
    held.release.set()
    again = connect(endpoint=endpoint)
    assert (await again.submit("a red cat", seed=1, idempotency_key=raised.value.idempotency_key)).id == f"fbv{0:017}"
    assert len(server.executions) == 1


async def test_a_map_loses_nothing_to_lost_answers(connect: Connect, serve: Serve) -> None:
    """Of many orders at once those whose answers are lost are asked for again, each with its own key."""
    server = serve(generate=[refused(StatusCode.UNAVAILABLE)] * 10, scope="s1")
    prompts = [f"cat {number}" for number in range(20)]
    images = await collect(connect(endpoint=server.listen()), "map", prompts)
    assert {image.prompt for image in images} == set(prompts)
    assert (len(server.executions), len(set(keys(server)))) == (20, 20)


async def test_a_quota_is_waited_for(connect: Connect, serve: Serve) -> None:
    """An order that a quota refused goes again with its key when the server says that it may."""
    pushback = (("grpc-retry-pushback-ms", "20"),)
    server = serve(generate=[refused(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed", pushback)] * 2)
    assert (await connect(endpoint=server.listen()).submit("a red cat")).id
    assert (len(server.submits), len(set(keys(server)))) == (3, 1)


async def test_a_quota_that_outlasts_the_wait_is_said_at_once(connect: Connect, serve: Serve) -> None:
    """When the order could go again only after its time, nobody waits for that."""
    pushback = (("grpc-retry-pushback-ms", "20000"),)
    server = serve(generate=[refused(StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed", pushback)])
    with pytest.raises(QuotaExceeded, match="quota limit exceed") as raised:
        await connect(endpoint=server.listen()).generate("a red cat")
    assert (raised.value.billed, len(server.submits)) == ("no", 1)


async def test_every_error_of_an_order_tells_its_key(connect: Connect, serve: Serve) -> None:
    """Whenever an order fails, on its way, in its wait or with its image, the error has the key; of another's it has none."""
    server = serve(
        generate=[refused(StatusCode.PERMISSION_DENIED)], reads=[failed(3, ENGLISH), neither, failed(3, ENGLISH), *[alone] * 99]
    )
    art = connect(endpoint=server.listen())

    async def key_of(error: type[YandexArtError], call: Awaitable[Any]) -> str | None:
        with pytest.raises(error) as raised:
            await call
        return raised.value.idempotency_key

    assert await key_of(InvalidRequest, art.generate("", idempotency_key="k0")) == "k0"
    assert await key_of(PermissionDenied, art.submit("a cat", idempotency_key="k1")) == "k1"
    assert await key_of(ContentRefused, art.generate("a cat", idempotency_key="k2")) == "k2"
    operation = await art.submit("a cat", idempotency_key="k3")
    assert await key_of(ProtocolError, operation.result()) == "k3"
    assert await key_of(NotFound, (await art.operation("fbv-expired")).result()) is None
    [result] = await collect(art, "map", ["a cat"], return_exceptions=True)
    assert (type(result), result.idempotency_key) == (ContentRefused, keys(server)[-1])
    assert await key_of(OperationTimeout, operation.result(timeout=0.05)) == "k3"
    await art.close()
    assert await key_of(ConfigurationError, art.generate("a cat", idempotency_key="k4")) == "k4"
    assert await key_of(ConfigurationError, operation.result()) == "k3"


async def test_warm_up_learns_where_keys_are_kept(connect: Connect, serve: Serve) -> None:
    """Before the first order nothing is known of the server's store; `warm_up` asks, and Yandex has none to tell."""
    art = connect(endpoint=serve(scope="s1").listen())
    assert scope_of(art) is None
    await art.warm_up()
    assert scope_of(art) == "s1"
    yandex = connect(endpoint=serve().listen())
    await yandex.submit("a red cat")
    assert scope_of(yandex) is None


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.ABORTED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
    ],
)
async def test_a_submit_that_may_have_been_accepted_is_never_sent_again(connect: Connect, serve: Serve, code: StatusCode) -> None:
    """After a status that tells nothing about the purchase, the outcome is unknown and the request is left at one."""
    server = serve(generate=[refused(code, "try later")])
    with pytest.raises(OutcomeUnknown, match="try later") as raised:
        await connect(endpoint=server.listen()).generate("a red cat")
    assert (raised.value.code, raised.value.billed, raised.value.resend) == (code, "unknown", "unsafe")
    assert [raised.value.idempotency_key] == keys(server)
    assert f"idempotency_key={raised.value.idempotency_key!r} asks again" in str(raised.value)


async def test_a_submit_without_an_answer_in_time_is_never_sent_again(connect: Connect, serve: Serve) -> None:
    """When the answer of a submit is lost by the deadline, the outcome is unknown and the request is left at one."""
    held = Held()
    server = serve(generate=[held])
    with pytest.raises(OutcomeUnknown) as raised:
        await connect(endpoint=server.listen(), rpc_timeout=0.3).generate("a red cat")
    held.release.set()
    assert (raised.value.billed, raised.value.resend) == ("unknown", "unsafe")
    assert len(server.executions) == 1


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        (StatusCode.INVALID_ARGUMENT, ENGLISH, ContentRefused),
        (StatusCode.INVALID_ARGUMENT, RUSSIAN, ContentRefused),
        (StatusCode.INVALID_ARGUMENT, "Specified folder ID 'x' does not match", InvalidRequest),
        (StatusCode.FAILED_PRECONDITION, "Using this model is not allowed", InvalidRequest),
        (StatusCode.PERMISSION_DENIED, "Permission denied", PermissionDenied),
        (StatusCode.RESOURCE_EXHAUSTED, "quota limit exceed: allowed 5000 requests per day", QuotaExceeded),
        (StatusCode.UNAUTHENTICATED, "Unknown api key", Unauthenticated),
    ],
)
async def test_a_refused_submit_is_not_billed(
    connect: Connect, serve: Serve, code: StatusCode, words: str, error: type[YandexArtError]
) -> None:
    """A submit that the service refuses has its own error, the service's own words, and no bill."""
    server = serve(generate=[refused(code, words)])
    with pytest.raises(YandexArtError, match=words) as raised:
        await connect(endpoint=server.listen()).generate("a red cat")
    assert type(raised.value) is error
    assert (raised.value.code, raised.value.details) == (code, words)
    assert (raised.value.billed, raised.value.resend) == ("no", "safe")
    assert len(server.executions) == 1


async def test_an_operation_without_an_id_breaks_the_contract(connect: Connect, serve: Serve) -> None:
    """An answer of Generate without an id is a ProtocolError: something may have been bought that nobody can read."""
    server = serve(generate=[nameless])
    with pytest.raises(ProtocolError, match="no id") as raised:
        await connect(endpoint=server.listen()).submit("a red cat")
    assert (raised.value.billed, raised.value.resend) == ("unknown", "unsafe")
    assert len(server.executions) == 1


# The connection


async def test_a_closed_port_is_told_at_once(connect: Connect) -> None:
    """Where nobody listens, the error comes long before any time is up, with the address, and nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = "{}:{}".format(*closed.getsockname())
    start = time.monotonic()
    with pytest.raises(Unavailable, match=address) as raised:
        await connect(endpoint=f"http://{address}").generate("a red cat")
    assert time.monotonic() - start < 2
    assert (raised.value.billed, raised.value.resend) == ("no", "safe")


async def test_a_server_that_never_speaks_is_given_up(connect: Connect) -> None:
    """A server that takes the connection and says nothing is Unavailable after `rpc_timeout`: nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        art = connect(endpoint=f"http://{address}", rpc_timeout=0.3)
        with pytest.raises(Unavailable, match=f"{address}.*no answer within 0.3 s") as raised:
            await art.generate("a red cat")
    assert (raised.value.billed, raised.value.resend) == ("no", "safe")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that nobody else knows."""
    return trustme.CA()


async def test_a_server_with_its_own_authority_is_trusted_when_told(
    connect: Connect, serve: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    """With `root_certificates`, a picture comes over TLS from a server that no public authority vouches for."""
    server = serve(reads=[alone])
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    endpoint = server.listen(credentials=certified(authority))
    image = await connect(endpoint=endpoint, root_certificates=tmp_path / "ca.pem").generate("a red cat")
    assert image.data == PICTURE


async def test_a_certificate_that_is_not_trusted_is_told(
    connect: Connect, serve: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    """A server whose authority is another one is Unavailable, the text blames the certificate, and nothing was sent."""
    server = serve()
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    endpoint = server.listen(credentials=certified(authority))
    with pytest.raises(Unavailable, match=r"(?i)certificate") as raised:
        await connect(endpoint=endpoint, root_certificates=tmp_path / "ca.pem").generate("a red cat")
    assert (raised.value.billed, server.executions) == ("no", [])


# Cancellation


async def test_a_cancelled_task_leaves_handle_and_client_usable(serve: Serve) -> None:
    """Cancelling a task that waits gives CancelledError untouched; handle and client go on to give pictures."""
    held = Held()
    server = serve(reads=[held])
    async with AsyncYandexArt(endpoint=server.listen(), folder_id="folder") as art:
        operation = await art.submit("a red cat")
        await cancelled(asyncio.create_task(operation.result()), held)
        held.release.set()
        assert (await operation.result()).data == PICTURE
        assert (await art.generate("a red cat")).data == PICTURE


@pytest.mark.parametrize("during", ["generate", "reads"])
async def test_a_cancelled_generate_leaves_the_client_usable(serve: Serve, during: str) -> None:
    """Cancelling `generate`, while it submits or while it waits, gives CancelledError untouched and a client that works."""
    held = Held()
    server = serve(**{during: [held]})
    async with AsyncYandexArt(endpoint=server.listen(), folder_id="folder") as art:
        await cancelled(asyncio.create_task(art.generate("a red cat")), held)
        held.release.set()
        assert (await art.generate("a red cat")).data == PICTURE


def keys(server: Foreign) -> list[str | bytes]:
    """The key of every order that arrived."""
    return [call.metadata["idempotency-key"] for call in server.submits]


def scope_of(face: Face) -> str | None:
    """What the client tells of the server's store."""
    assert isinstance(face.behind, YandexArt | AsyncYandexArt)
    return face.behind.idempotency_scope


async def cancelled(task: "asyncio.Task[Any]", held: Held) -> None:
    """Cancel the task once its call has reached the server, and see it end as cancelled, with nothing wrapped around."""
    assert await asyncio.to_thread(held.asked.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert type(raised.value) is asyncio.CancelledError


def certified(authority: trustme.CA) -> grpc.ServerCredentials:
    """What a server on the loopback shows who it is with."""
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    return grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
