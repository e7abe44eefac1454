"""Errors: one tree, one table, and what survives a trip to another process."""

import pickle

import grpc
import pytest
from grpc import StatusCode

import yandexart_grpc
from tests.test_core import Failed, Unreached
from yandexart_grpc import ContentRefused, OperationCancelled, OperationFailed, OutcomeUnknown, YandexArtError, errors
from yandexart_grpc.failures import DOMAIN, from_operation, from_rpc, with_bill
from yandexart_grpc.stubs import ErrorInfo, Operation, RequestInfo, Status

NAMES = [getattr(yandexart_grpc, name) for name in yandexart_grpc.__all__]
PUBLIC = [
    value for value in NAMES if isinstance(value, type) and issubclass(value, YandexArtError) and value is not YandexArtError
]


def test_every_code_has_a_row() -> None:
    """Every gRPC code but OK becomes an error."""
    assert {row.code for row in errors.TABLE} == set(StatusCode) - {StatusCode.OK}


@pytest.mark.parametrize("error", PUBLIC)
def test_every_public_error_has_a_row(error: type[YandexArtError]) -> None:
    """Every public error has a code, an HTTP status and an exit code, and stands in the tree of the docstring."""
    row = errors.row(error)
    assert 400 <= row.http < 600
    assert 2 <= row.exit < 100
    assert f"── {error.__name__} " in (errors.__doc__ or "")


def test_exit_codes_tell_errors_apart() -> None:
    """One exit code stands for one kind of error; wrong settings and wrong requests share that of wrong usage."""
    by_exit: dict[int, set[str]] = {}
    for row in errors.TABLE:
        by_exit.setdefault(row.exit, set()).add(row.error.__name__)
    assert by_exit.pop(2) == {"ConfigurationError", "InvalidRequest"}
    assert all(len(names) == 1 for names in by_exit.values())


@pytest.mark.parametrize("error", PUBLIC)
def test_an_error_survives_pickling(error: type[YandexArtError]) -> None:
    """Text and attributes reach another process."""
    sent = error("text", code=StatusCode.ABORTED, details="d", operation_id="o", request_id="r", billed="yes")
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is error
    assert (str(got), vars(got)) == (str(sent), vars(sent))


def test_the_id_that_a_server_gave_a_call_is_found() -> None:
    """In the metadata at either end of the call, or in the details of the status (google.rpc.RequestInfo)."""
    told = Status(code=14)
    told.details.add().Pack(RequestInfo(request_id="r2"))
    known, early = Failed(StatusCode.UNAVAILABLE), Failed(StatusCode.UNAVAILABLE)
    detailed = Failed(StatusCode.UNAVAILABLE, grpc_status_details_bin=told.SerializeToString())
    early.initial, early.trailing, detailed.trailing = [("x-server-trace-id", "r0")], [], detailed.trailing[1:]
    failures = (early, known, detailed, Unreached())
    assert [from_rpc(error, "reading").request_id for error in failures] == ["r0", "r1", "r2", None]


@pytest.mark.parametrize(
    ("code", "text", "kind", "billed"),
    [
        (3, "because it may violate the terms of use", ContentRefused, "unknown"),
        (3, "Я не могу сгенерировать это изображение. Давайте попробуем другую тему.", ContentRefused, "unknown"),
        (3, "something else", OperationFailed, "unknown"),
        (13, "internal", OperationFailed, "no"),
        (1, "cancelled", OperationCancelled, "unknown"),
        (10, "lost", OutcomeUnknown, "unknown"),
        (999, "from the future", OperationFailed, "unknown"),
    ],
)
def test_an_operation_that_failed_says_how(code: int, text: str, kind: type[YandexArtError], billed: str) -> None:
    """The error of an operation becomes the class that fits, with the id, the words and what is known about money."""
    error = from_operation(Operation(id="x", error=Status(code=code, message=text)))
    assert type(error) is kind
    assert (error.operation_id, error.details, error.billed) == ("x", text, billed)


@pytest.mark.parametrize(
    ("code", "text", "is_explained"),
    [
        (StatusCode.PERMISSION_DENIED, "Access to model art://b1g/yandex-art/latest denied", True),
        (StatusCode.FAILED_PRECONDITION, "Model aliceai-image-art-3.0 is not allowed", True),
        (StatusCode.PERMISSION_DENIED, "Permission denied", False),
        (StatusCode.PERMISSION_DENIED, "Access to model art:///yandex-art/latest denied", False),
        (StatusCode.INVALID_ARGUMENT, "not allowed", False),
        (StatusCode.PERMISSION_DENIED, "The Images API answered 403: Access to model art://b1g/x denied", False),
    ],
)
def test_a_retired_model_is_explained(code: StatusCode, text: str, is_explained: bool) -> None:
    """In a refusal and in the error of an operation: what is known, and what works. `details` stay the server's own words."""
    call = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)
    ended = Operation(id="x", error=Status(code=code.value[0], message=text))
    for error in (from_rpc(call, "submitting"), from_operation(ended)):
        assert error.details == text
        for words in ("September 2026", "endpoint='images://'", "generate --endpoint images://", "serve --backend images"):
            assert (words in str(error)) is is_explained


@pytest.mark.parametrize("billed", ["no", "yes", "unknown"])
@pytest.mark.parametrize("code", [StatusCode.INTERNAL, StatusCode.UNAVAILABLE])
def test_a_server_of_ours_tells_what_became_of_the_money(code: StatusCode, billed: errors.Billed) -> None:
    """Whatever the code of the operation's error."""
    status = with_bill(Status(code=code.value[0], message="m"), billed)
    assert from_operation(Operation(id="x", error=status)).billed == billed


def test_details_that_cannot_be_read_tell_nothing() -> None:
    """Neither those of others nor broken ones."""
    status = Status(code=StatusCode.UNAVAILABLE.value[0])
    status.details.add().Pack(ErrorInfo(reason="BILLED_NO", domain="elsewhere"))
    status.details.add().Pack(ErrorInfo(reason="SOMETHING", domain=DOMAIN))
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    assert from_operation(Operation(id="x", error=status)).billed == "unknown"
