"""The backend of a scripted server: its pictures are ready when the script says so."""

import asyncio
import hashlib
import io

from PIL import Image

from yandexart_grpc.errors import ContentRefused, OperationFailed, row
from yandexart_grpc.request import ImageRequest
from yandexart_grpc.server.backends.base import Upstream
from yandexart_grpc.server.backends.demo import REFUSAL, size_of
from yandexart_grpc.stubs import ImageGenerationResponse
from yandexart_grpc.testing.clock import Alarm, Clock
from yandexart_grpc.testing.ledger import Ledger
from yandexart_grpc.testing.script import Fault, Script


class Course:
    """What is to become of one operation, and how far it is."""

    def __init__(self, prompt: str, born: float, script: Script) -> None:
        self.prompt, self.born = prompt, born
        self.due = born + script.duration
        """When the picture is ready, on the clock."""
        self.reads_left = script.reads_needed
        """How many reads are missing where they decide."""
        self.refused = script.refuses(prompt)
        self.fault: Fault | None = None if self.refused else script.pictures.next()
        self.begun, self.ready = asyncio.Event(), asyncio.Event()
        """Whether the backend has been called, and whether it need not wait any more."""
        self.ended: float | None = None
        """When nothing was left to wait for."""
        self.held = set[Alarm]()
        self.was_handed_over = False


class Courses:
    """The courses of all operations; in the event loop of the server alone."""

    def __init__(self, script: Script, clock: Clock, ledger: Ledger) -> None:
        self._script, self._clock, self._ledger = script, clock, ledger
        self._courses: dict[str, Course] = {}

    def begin(self, operation_id: str, prompt: str) -> Course:
        """The course of an operation, which begins where there is none yet."""
        if operation_id not in self._courses:
            self._courses[operation_id] = course = Course(prompt, self._clock.now(), self._script)
            if not course.refused:
                self._ledger.count("generations", prompt)
        return self._courses[operation_id]

    def get(self, operation_id: str) -> Course | None:
        """The course of an operation, if it has begun."""
        return self._courses.get(operation_id)

    def is_over(self, course: Course) -> bool:
        """Whether the picture is ready, or will never be."""
        return course.ended is not None or self._clock.now() >= course.due

    def end(self, course: Course) -> None:
        """Let nobody wait any more for what has ended, however it did."""
        if course.ended is None:
            course.ended = min(self._clock.now(), course.due)
        course.begun.set()
        course.ready.set()
        self._clock.ring(*course.held)


class ScriptedBackend:
    """Makes pictures of one colour, which follows from prompt and seed."""

    charges = resumable = False

    def __init__(self, courses: Courses, clock: Clock, script: Script) -> None:
        self._courses, self._clock, self._script = courses, clock, script

    async def generate(self, request: ImageRequest, upstream: Upstream) -> ImageGenerationResponse:
        """Make the picture when it is due."""
        course = self._courses.begin(upstream.operation_id, request.prompt)
        try:
            if course.refused:
                raise ContentRefused(REFUSAL, code=row(ContentRefused).code, details=REFUSAL)
            await self._due(course)
        finally:
            self._courses.end(course)
        if fault := course.fault:
            raise OperationFailed(fault.details, code=fault.code, details=fault.details, retry_after=fault.retry_after)
        return ImageGenerationResponse(image=picture(request), model_version="" if self._script.is_yandex else "scripted")

    async def close(self) -> None:
        """Nothing is held open."""

    async def _due(self, course: Course) -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(course.due, lambda: loop.call_soon_threadsafe(course.ready.set), callers=False)
        with self._clock.asleep(alarm):
            course.begun.set()
            if not self._courses.is_over(course):
                await course.ready.wait()


def picture(request: ImageRequest) -> bytes:
    """The picture of a request, a JPEG as large as the real service makes it."""
    digest = hashlib.sha256(f"{request.seed}\n{request.prompt}".encode("utf-8", "surrogatepass")).digest()
    file = io.BytesIO()
    Image.new("RGB", size_of(*request.aspect_ratio), (digest[0], digest[1], digest[2])).save(file, "JPEG")
    return file.getvalue()
