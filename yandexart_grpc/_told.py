"""The machines of the core as clients run them: the same, and OpenTelemetry is told of each where the program has loaded it."""

from yandexart_grpc import _submit, _wait
from yandexart_grpc._otel import is_loaded
from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Leave, Steps
from yandexart_grpc.stubs import ImageGenerationRequest


def order(request: ImageGenerationRequest, pace: Pace, deadline: float, key: str) -> Steps:
    """`_wait.order`."""
    return told(_wait.order(request, pace, deadline, key), pace, request)


def submit(request: ImageGenerationRequest, pace: Pace, deadline: float, key: str) -> Steps:
    """`_submit.submit`."""
    return told(_submit.submit(request, pace, deadline, key), pace, request)


def watch(
    operation_id: str,
    pace: Pace,
    deadline: float,
    *,
    model: str | None = None,
    born: float | None = None,
    leave: Leave | None = None,
) -> Steps:
    """`_wait.watch`."""
    return told(_wait.watch(operation_id, pace, deadline, model=model, born=born, leave=leave), pace, operation_id, model)


def told(steps: Steps, pace: Pace, subject: ImageGenerationRequest | str, model: str | None = None) -> Steps:
    """The same machine. Its subject is the request that it orders, or the id of the operation that it waits for."""
    if not is_loaded():
        return steps
    from yandexart_grpc._tale import tell

    return tell(steps, pace, subject, model)
