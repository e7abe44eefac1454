"""What `yandexart generate` makes: one picture or several, all ordered before the first is waited for.

`YandexArt.map` tells the id of an operation only with its image; here each is known before, so that what was interrupted can be
picked up. They are fetched in their order, by calls that Ctrl-C may end at any instant.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from yandexart_grpc import Image, Operation, YandexArt, YandexArtError
from yandexart_grpc.batch.origin import Origin, commented
from yandexart_grpc.cli.progress import Progress
from yandexart_grpc.cli.target import Target
from yandexart_grpc.request import ImageRequest

LEAST = 0.1
"""Seconds that are left to fetch what may be done already, when the time for all is up."""


@dataclass(frozen=True, slots=True)
class Saved:
    """An image and its file."""

    image: Image
    path: Path
    seconds: float
    """From the order to the image."""


class Picture:
    """One picture that is asked for, and what became of it."""

    def __init__(self, request: ImageRequest, target: Target, so_far: Progress, *, metadata: bool) -> None:
        """`metadata` puts into the file, as a comment, where the image comes from."""
        self.operation: Operation | None = None
        """None until it is ordered."""
        self.ended: Saved | YandexArtError | None = None
        """None until it is saved, or has failed."""
        self._request = request
        self._target = target
        self._so_far = so_far
        self._metadata = metadata
        self._start = 0.0

    def check(self) -> None:
        """Find out whether it could be saved."""
        with self._kept():
            self._target.check()

    def order(self, art: YandexArt) -> None:
        """Order it."""
        request, self._start = self._request, time.monotonic()
        with self._kept():
            self._so_far.submitting()
            self.operation = art.submit(
                request.prompt,
                model=request.model_uri,
                aspect_ratio=request.aspect_ratio if any(request.aspect_ratio) else None,
                seed=request.seed,
                mime_type=request.mime_type,
            )
            self._so_far.waiting(self.operation.id)

    def save(self, deadline: float) -> None:
        """Wait for its image until that instant of the monotonic clock, and save it, if it was ordered."""
        if self.operation is None:
            return
        with self._kept():
            image = self.operation.result(timeout=max(round(deadline - time.monotonic(), 1), LEAST))
            seconds = time.monotonic() - self._start
            self._so_far.saving()
            if self._metadata:
                image = replace(image, data=commented(image.data, Origin.of(self._request, image.operation_id)))
            self.ended = Saved(image, self._target.save(image), seconds)

    def interrupt(self) -> None:
        """Ctrl-C came. If it was not ordered yet, there is nothing to say of it."""
        if self._start and self.ended is None:
            self.ended = self._so_far.advise(self._so_far.interrupted())

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error as what became of it."""
        try:
            yield
        except YandexArtError as error:  # stands first because a time-out is an OSError too
            self.ended = self._so_far.advise(error)
        except OSError as error:
            self.ended = self._so_far.advise(self._so_far.not_saved(error))


def make(art: YandexArt, pictures: Sequence[Picture], timeout: float) -> None:
    """Order them, up to the first that cannot be ordered, and save what comes within the `timeout`, in seconds.

    Nothing is ordered unless all could be saved.
    """
    for picture in pictures:
        picture.check()
    if any(picture.ended for picture in pictures):
        return
    for picture in pictures:
        picture.order(art)
        if picture.ended:
            break
    deadline = time.monotonic() + timeout
    for picture in pictures:
        picture.save(deadline)
