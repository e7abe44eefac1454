"""What comes between the callers and the gRPC door of a scripted server: the ledger, the faults, and reads held by its clock."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from yandexart_grpc.errors import ContentRefused, YandexArtError, row
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server.answers import to_status
from yandexart_grpc.server.backends.demo import REFUSAL
from yandexart_grpc.server.doors.promises import HOLDS, LONGEST_HOLD, preferred_wait
from yandexart_grpc.stubs import CancelOperationRequest, GetOperationRequest, ImageGenerationRequest, Operation
from yandexart_grpc.testing.backend import Course, Courses
from yandexart_grpc.testing.clock import Alarm, Clock
from yandexart_grpc.testing.ledger import Ledger
from yandexart_grpc.testing.script import Fault, Script

Door = Callable[[Any, Any], Awaitable[Any]]
"""What the door does with a request and its context."""
OF_OURS = ("idempotency-key", "prefer")
"""Metadata that means nothing to Yandex."""


class _Seen:
    """The context of a call as the door sees it: as if only we asked to be held, and without a word to the caller beforehand."""

    def __init__(self, context: Any, *, prefer: str | None = None) -> None:
        self._context, self._prefer = context, prefer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        sent = [pair for pair in self._context.invocation_metadata() if pair[0] not in OF_OURS]
        return [*sent, ("prefer", self._prefer)] if self._prefer else sent

    async def send_initial_metadata(self, metadata: object) -> None:
        """Announce nothing."""


class Wire(grpc.aio.ServerInterceptor):
    """Counts what arrives, breaks what is to break, and passes all else on to the door."""

    def __init__(self, script: Script, courses: Courses, clock: Clock, ledger: Ledger) -> None:
        self._script, self._courses, self._clock, self._ledger = script, courses, clock, ledger
        self._methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "ImageGenerationAsyncService/Generate": self._generate,
            "OperationService/Get": self._get,
            "OperationService/Cancel": self._cancel,
            "Health/Check": self._check,
        }

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = self._methods.get(handler_call_details.method.rpartition(".")[2])
        return handler._replace(unary_unary=partial(method, handler.unary_unary)) if handler and method else handler

    async def _generate(self, door: Door, message: ImageGenerationRequest, context: Any) -> Operation:
        prompt = ImageRequest.from_proto(message).prompt
        self._ledger.count("submits", prompt)
        await _end(context, self._script.submits.next())
        if self._script.is_yandex and self._script.refuses(prompt):
            await context.abort(row(ContentRefused).code, REFUSAL)
        operation: Operation = await door(message, self._seen(context))
        course = self._courses.begin(operation.id, prompt)
        if self._script.loses():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "scripted: the answer was lost")
        return self._told(operation, course)

    async def _get(self, door: Door, message: GetOperationRequest, context: Any) -> Operation:
        course = self._courses.get(message.operation_id)
        self._ledger.count("reads", course.prompt if course else "")
        await _end(context, self._script.reads.next())
        if course is None:
            return await door(message, self._seen(context))  # type: ignore[no-any-return]  # which knows no such operation
        preferences = [str(value) for name, value in context.invocation_metadata() if name == "prefer"]
        hold = 0.0 if self._script.is_yandex else preferred_wait(preferences)
        if hold:
            await context.send_initial_metadata((HOLDS,))
        await self._wait(course, message.operation_id, hold)
        until_written = f"wait={LONGEST_HOLD:.0f}" if self._courses.is_over(course) else None
        operation: Operation = await door(message, _Seen(context, prefer=until_written))
        if operation.HasField("response") and not course.was_handed_over:
            course.was_handed_over = True
            self._ledger.count("pictures", course.prompt)
        return self._told(operation, course)

    async def _cancel(self, door: Door, message: CancelOperationRequest, context: Any) -> Operation:
        operation: Operation = await door(message, self._seen(context))
        if (course := self._courses.get(message.operation_id)) is None:
            return operation
        if operation.done:
            self._courses.end(course)
        return self._told(operation, course)

    async def _check(self, door: Door, message: Any, context: Any) -> Any:
        return await door(message, self._seen(context))

    async def _wait(self, course: Course, operation_id: str, hold: float) -> None:
        """Let pass what has to pass before a read is answered."""
        await course.begun.wait()
        if course.reads_left is not None:
            course.reads_left -= 1
            if not course.reads_left:
                course.due = self._clock.now()
                course.ready.set()
        elif self._clock.asking(operation_id) <= len(course.held):
            self._clock.reach(course.due)  # whoever is not on the clock waits in a time of his own
        elif hold and not self._courses.is_over(course):
            await self._hold(course, hold)

    async def _hold(self, course: Course, seconds: float) -> None:
        bell, loop = asyncio.Event(), asyncio.get_running_loop()
        end = min(self._clock.now() + seconds, course.due)
        alarm = Alarm(end, lambda: loop.call_soon_threadsafe(bell.set), callers=True)
        course.held.add(alarm)
        try:
            with self._clock.asleep(alarm):
                await bell.wait()
        finally:
            course.held.discard(alarm)

    def _seen(self, context: Any) -> Any:
        """The context as the door sees it."""
        return _Seen(context) if self._script.is_yandex else context

    def _told(self, operation: Operation, course: Course) -> Operation:
        """The operation as the caller sees it: in the time of the clock, or without what Yandex does not tell."""
        if self._script.is_yandex:
            for field in ("description", "created_at", "modified_at", "metadata"):
                operation.ClearField(field)
        elif course.ended is not None:
            lasted = int((course.ended - course.born) * 1e9)
            operation.modified_at.FromNanoseconds(operation.created_at.ToNanoseconds() + lasted)
        return operation


async def _end(context: Any, fault: Fault | None) -> None:
    """Let the call fail, if it is to."""
    if fault is not None:
        status = to_status(YandexArtError(fault.details, code=fault.code, retry_after=fault.retry_after))
        details = (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()
        await context.abort(fault.code, fault.details, details)
