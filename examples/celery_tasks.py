"""A Celery task that makes an image, however often it has to be tried, and buys one.

    cd examples
    celery --app celery_tasks worker
    celery --app celery_tasks call celery_tasks.make_image --args '["a red cat"]'

* The id of the task is the idempotency key of its order. So a task that is tried again, or that is given to another worker
  because its own has died (`acks_late`, `reject_on_worker_lost`), finds the image that it has ordered already.
* That takes a server which keeps these keys, `yandexart serve --store …`; the task refuses to work with another.
* Each process of a worker has a client of its own, which its first task makes: a connection does not survive a fork.
* Only what passes is tried again. An order that may have been bought, and of which nobody knows, is left to people.

Where broker and results are is told by Celery's own variables, `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`.
"""

import os
from functools import cache
from pathlib import Path

from celery import Celery, Task

from yandexart_grpc import ConfigurationError, OperationTimeout, QuotaExceeded, Unavailable, YandexArt

IMAGES = Path(os.environ.get("IMAGES", "images"))
"""The folder that the images are written to, as `<id of the task>.jpeg`."""
PASSING = (OperationTimeout, QuotaExceeded, Unavailable)
"""What may be over when the task is tried again."""

app = Celery("celery_tasks")
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@cache
def client() -> YandexArt:
    """The client of this process."""
    art = YandexArt()
    art.warm_up()
    if art.idempotency_scope is None:
        art.close()
        raise ConfigurationError(
            "YANDEXART_ENDPOINT: that server keeps no idempotency keys, so a task tried again would buy again"
        )
    return art


@app.task(  # type: ignore[untyped-decorator]  # Celery comes without types
    bind=True, acks_late=True, reject_on_worker_lost=True, autoretry_for=PASSING, retry_backoff=True, max_retries=10
)
def make_image(self: Task, prompt: str) -> str:
    """Make an image of the prompt, and return the file it is in."""
    image = client().generate(prompt, idempotency_key=self.request.id)
    IMAGES.mkdir(parents=True, exist_ok=True)
    return str(image.save(IMAGES / f"{self.request.id}.jpeg", overwrite=True))
