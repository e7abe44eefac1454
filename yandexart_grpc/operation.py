"""Handles of operations: `Operation` and, name by name the same with `await`, `AsyncOperation`."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from yandexart_grpc import stubs
from yandexart_grpc._pace import Pace
from yandexart_grpc._step import Leave, Step, Steps
from yandexart_grpc._told import watch
from yandexart_grpc._wait import finished, is_cancelled
from yandexart_grpc.errors import ConfigurationError, OperationTimeout, YandexArtError
from yandexart_grpc.failures import about, keyed, translated
from yandexart_grpc.image import Image, outcome
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.settings import Timeout

if TYPE_CHECKING:
    from yandexart_grpc.aio import AsyncYandexArt
    from yandexart_grpc.client import YandexArt


@dataclass(slots=True)
class Order:
    """What is known of an operation here."""

    id: str
    request: ImageRequest | None = None
    """None where it was submitted elsewhere."""
    key: str | None = None
    """The idempotency key that it was submitted with; None where it was submitted elsewhere."""
    request_id: str | None = None
    """What the server calls the order; None where it does not tell, or it was submitted elsewhere."""
    born: float | None = None
    """When it was submitted, on the clock of the client; None where it was submitted elsewhere."""
    leave: Leave | None = None
    """Who is asked before each read of it; only `AsyncYandexArt` can."""
    ended: stubs.Operation | YandexArtError | None = None
    """How it ended, until that is handed over: an image is not kept after that."""

    def saw(self, seen: stubs.Operation) -> stubs.Operation:
        """Take note of what the service says."""
        if finished(seen):
            self.ended = seen
        return seen

    def watch(self, pace: Pace, deadline: float) -> Steps:
        """The machine that waits for it."""
        model = self.request.model_uri if self.request else None
        with keyed(self.key):
            return (yield from watch(self.id, pace, deadline, model=model, born=self.born, leave=self.leave))

    def hand_over(self, ended: stubs.Operation | YandexArtError) -> Image:
        """The image, or its error."""
        self.ended = None
        result = outcome(ended, self.request, key=self.key, request_id=self.request_id)
        if isinstance(result, YandexArtError):
            raise result
        return result


class Operation:
    """An order for one image. Make it with `YandexArt.submit` or `YandexArt.operation`."""

    def __init__(self, client: "YandexArt", order: Order) -> None:
        self._client = client
        self._order = order

    @property
    def id(self) -> str:
        """The id, with which any process can pick the operation up while the service keeps it: about three days."""
        return self._order.id

    def done(self) -> bool:
        """Whether the operation has ended, with an image or an error. Asks the server once, unless that is known already.

        Raises `NotFound` when the service does not know the operation, and `Unavailable` when it cannot be asked.
        """
        if self._order.ended is None:
            asking = _ask(stubs.GetOperationRequest(operation_id=self.id), self._client._pace)
            with translated("reading", self.id):
                self._order.saw(self._client._drive(asking))
        return self._order.ended is not None

    def result(self, timeout: Timeout = ...) -> Image:
        """Wait for the image, at most `timeout` seconds (None: as long as it takes; the client's own where none is given).

        Raises `OperationTimeout`, after which the operation goes on; `ContentRefused`, `OperationFailed`, `OperationCancelled`
        or `OutcomeUnknown` when it ended with an error; `NotFound` when the service does not know it; `ProtocolError` when
        what came is not a whole image.
        """
        watching = self._order.watch(self._client._pace, self._client._deadline(timeout))
        with about(self.id), keyed(self._order.key):
            return self._order.hand_over(self._order.ended or self._client._drive(watching))

    def cancel(self) -> bool:
        """Ask the service not to make the image, and return whether it was cancelled. Too late is not an error.

        Raises `NotFound` when the service does not know the operation, and `Unavailable` when it cannot be asked.
        """
        asking = _ask(stubs.CancelOperationRequest(operation_id=self.id), self._client._pace)
        with translated("cancelling", self.id):
            return is_cancelled(self._order.saw(self._client._drive(asking)))

    def __repr__(self) -> str:
        return f"Operation({self.id!r})"


class AsyncOperation:
    """An order for one image. Make it with `AsyncYandexArt.submit` or `AsyncYandexArt.operation`; awaiting it gives the image."""

    def __init__(self, client: "AsyncYandexArt", order: Order) -> None:
        self._client = client
        self._order = order

    @property
    def id(self) -> str:
        """The id, with which any process can pick the operation up while the service keeps it: about three days."""
        return self._order.id

    async def done(self) -> bool:
        """Whether the operation has ended, as `Operation.done` tells."""
        if self._order.ended is None:
            asking = _ask(stubs.GetOperationRequest(operation_id=self.id), self._client._pace)
            with translated("reading", self.id):
                self._order.saw(await self._client._drive(asking))
        return self._order.ended is not None

    async def result(self, timeout: Timeout = ...) -> Image:
        """Wait for the image, as `Operation.result` does. When the task is cancelled, the operation goes on."""
        watching = self._order.watch(self._client._pace, self._client._deadline(timeout))
        with about(self.id), keyed(self._order.key):
            ended = self._order.ended
            return self._order.hand_over(await self._client._drive(watching) if ended is None else ended)

    async def cancel(self) -> bool:
        """Ask the service not to make the image, as `Operation.cancel` does."""
        asking = _ask(stubs.CancelOperationRequest(operation_id=self.id), self._client._pace)
        with translated("cancelling", self.id):
            return is_cancelled(self._order.saw(await self._client._drive(asking)))

    def __await__(self) -> Generator[Any, None, Image]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"AsyncOperation({self.id!r})"

    async def _join(self, client: "AsyncYandexArt", deadline: float) -> Self:
        """Wait until the operation has ended, and keep how. Raises `OperationTimeout`."""
        if client is not self._client:
            raise ConfigurationError(f"operation {self.id} belongs to another client")
        try:
            self._order.ended = self._order.ended or await client._drive(self._order.watch(client._pace, deadline))
        except OperationTimeout:
            raise
        except YandexArtError as error:
            self._order.ended = error
        return self


def _ask(request: stubs.GetOperationRequest | stubs.CancelOperationRequest, pace: Pace) -> Steps:
    """One question, outside of any plan."""
    answer = yield Step(request=request, timeout=pace.rpc_timeout)
    assert answer is not None  # drivers answer every call
    return answer.operation
