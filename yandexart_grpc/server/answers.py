"""What is said of operations, in the messages of the contract."""

from collections.abc import Awaitable
from typing import TypeVar

from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode

from yandexart_grpc.errors import Unavailable, YandexArtError, row
from yandexart_grpc.server.store import Row, State, StoreFailure
from yandexart_grpc.stubs import Operation, RetryInfo, Status

Answer = TypeVar("Answer")


async def read(answer: Awaitable[Answer]) -> Answer:
    """What the store answers. Raises `Unavailable` where it cannot be read."""
    try:
        return await answer
    except StoreFailure as error:
        raise Unavailable(f"the store cannot be read: {error}") from error


def to_status(error: YandexArtError) -> Status:
    """How a door, or the `error` of an operation, says an error: its code, or that of its class, and the words it came with."""
    told = status(error.code or row(type(error)).code, error.details or str(error))
    if error.retry_after is not None:
        hint = RetryInfo()
        hint.retry_delay.FromMilliseconds(int(error.retry_after * 1000))
        told.details.add().Pack(hint)
    return told


def status(code: StatusCode, message: str) -> Status:
    """A status, with whatever is no text in the words of a backend replaced."""
    return Status(code=code.value[0], message=message.encode(errors="replace").decode())


def unknown_outcome(entry: Row) -> Status:
    """How an operation ends that may have been bought, and nobody knows."""
    there = f" Its id there is {entry.upstream}." if entry.upstream else ""
    return status(
        StatusCode.ABORTED,
        f"Outcome unknown: the server was stopped after the picture was ordered, and it may have been bought.{there}",
    )


def to_proto(entry: Row) -> Operation:
    """The operation as the contract says it."""
    operation = Operation(id=entry.id, description="Image generation", done=entry.state is State.DONE)
    operation.created_at.FromNanoseconds(int(entry.created * 1e9))
    operation.modified_at.FromNanoseconds(int((entry.ended or entry.started or entry.created) * 1e9))
    if entry.warnings:
        told = Struct()
        told.update({"warnings": list(entry.warnings)})
        operation.metadata.Pack(told)
    if isinstance(entry.outcome, Status):
        operation.error.CopyFrom(entry.outcome)
    elif entry.outcome is not None:
        operation.response.Pack(entry.outcome)
    return operation
