"""Workers on many machines: procrastinate's. A job is the id of an operation; `operations` decides what is done for it.

Whatever becomes of a worker, no job is lost. One that stopped on the way goes back to the queue, and so does one whose worker is
not heard of any more, or does not know it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
import psycopg
from procrastinate import PsycopgConnector, RetryStrategy
from procrastinate.connector import Notify
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job
from procrastinate.manager import JobManager
from procrastinate.worker import Worker

from yandexart_grpc.server.postgres import QUEUE, RESCUE_LOCK, TASK
from yandexart_grpc.server.workers import Work

log = logging.getLogger("yandexart_grpc.server")

BEAT = 3.0
"""Seconds from one sign of life of a worker to the next."""
STALLED = 12.0
"""Seconds of silence after which a worker is suspected to be dead."""
CHECK = 4.0
"""Seconds from one look at the suspects to the next. Who is seen twice is dead: after the database was away, all are silent."""
POLL = 1.0
"""Seconds after which to look for jobs that nothing was heard of, to count those that wait, and to try again."""
FORGOTTEN = 3600.0
"""Seconds after which a dead worker is removed from the list; until then it is only that."""
PARTING = 5.0
"""Seconds that a worker may take to sign off when its time is over: the database may be away."""
CONNECTIONS = 3
"""How many it takes beside the one on which it listens."""


class JobWorkers:
    """Runs jobs on the tables of procrastinate, so many at a time; none, where this server only takes orders."""

    shared = True

    def __init__(self, app: procrastinate.App, pool: "_Connector", *, concurrency: int, works: bool) -> None:
        self._app = app
        self._pool = pool
        self._concurrency = concurrency
        self._works = works
        self._worker: Worker | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._suspects: set[tuple[int | None, int | None]] = set()
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._working: asyncio.Task[None] | None = None
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many jobs had not begun, on all machines, when they were counted last."""
        return self._waiting

    @property
    def running(self) -> int:
        """How many jobs are done here now."""
        return len(self._running)

    def open(self, run: Callable[[str], Awaitable[None]]) -> None:
        """Begin to work: `run` is called with the id of each operation whose turn it is."""

        @self._app.task(name=TASK, queue=QUEUE, retry=RetryStrategy(wait=int(POLL)))
        async def picture(operation_id: str) -> None:
            self._running[operation_id] = task = asyncio.ensure_future(run(operation_id))
            try:
                await asyncio.wait([task])
            finally:
                del self._running[operation_id]
                await _cancelled(task)
            if not task.cancelled():  # by `stop`, because there is nothing left to do
                task.result()

        self._tasks = [asyncio.create_task(self._often(self._count, POLL))]
        if self._works:
            self._tasks += [asyncio.create_task(self._often(*care)) for care in ((self._beat, BEAT), (self._rescue, CHECK))]
            self._working = asyncio.create_task(self._work())

    def start(self, name: str, work: Work, rank: int = 0) -> None:
        """Nothing: the job was kept with the operation, and comes up here or elsewhere."""

    def stop(self, name: str) -> None:
        """Stop the work for that operation, if it is done here."""
        if task := self._running.get(name):
            task.cancel()

    async def drain(self, grace: float) -> None:
        """Begin nothing more, and let what has begun go on for `grace` seconds; the rest goes back to the queue."""
        self._draining = True
        if self._worker and self._working:
            self._worker.shutdown_graceful_timeout = grace
            self._worker.stop()
            await asyncio.wait([self._working], timeout=grace + PARTING)
        await _cancelled(*self._tasks)

    async def _work(self) -> None:
        while not self._draining:
            self._worker = Worker(
                self._app,
                queues=[QUEUE],
                name=None,
                concurrency=self._concurrency,
                fetch_job_polling_interval=POLL,
                delete_jobs="always",
                install_signal_handlers=False,
                # Its own signs of life end when it is told to stop, and its work does not: `_beat` gives them.
                update_heartbeat_interval=FORGOTTEN,
                stalled_worker_timeout=FORGOTTEN,
            )
            try:
                await self._worker.run()
            except ConnectorException as error:
                log.warning("the worker failed, and another takes over: %r", error.__cause__ or error)
                await asyncio.sleep(POLL)

    async def _often(self, care: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            try:
                await care()
            except (ConnectorException, psycopg.Error) as error:
                log.warning("the jobs cannot be reached: %r", error.__cause__ or error)
            await asyncio.sleep(pause)

    async def _beat(self) -> None:
        if self._worker and self._worker.worker_id is not None:
            await self._app.job_manager.update_heartbeat(self._worker.worker_id)

    async def _count(self) -> None:
        async with self._pool.pool.connection() as connection:
            query = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = %s"
            found = await (await connection.execute(query, (QUEUE,))).fetchone()
            self._waiting = found[0] if found else 0

    async def _rescue(self) -> None:
        """Put back what nobody works on. One server at a time looks, so that what another has put back is not put back again."""
        async with self._pool.pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (RESCUE_LOCK,))
            found = {(job.id, job.worker_id): job for job in await self._stalled()}
            for who in self._suspects & found.keys():
                log.warning("operation %s stalled, and goes back to the queue", found[who].task_kwargs["operation_id"])
                await self._app.job_manager.retry_job(found[who])
            self._suspects = set(found)

    async def _stalled(self) -> Iterable[Job]:
        """The jobs of silent workers, and those that were given to this one and that it does not know: the answer was lost."""
        stalled = list(await self._app.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=STALLED))
        if self._worker and (worker_id := self._worker.worker_id):
            given = await self._app.job_manager.list_jobs_async(queue=QUEUE, status="doing", worker_id=worker_id)
            stalled += [job for job in given if job.task_kwargs["operation_id"] not in self._running]
        return stalled


class _Connector(PsycopgConnector):
    """Waits for a database that is away. The work in progress goes on meanwhile."""

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        while True:
            try:
                await super().listen_notify(on_notification, channels)
            except ConnectorException as error:
                log.warning("the jobs are not heard: %r", error.__cause__)
                await asyncio.sleep(POLL)


class _Jobs(JobManager):
    """The same for the question for work: whatever the answer was, `_rescue` finds it."""

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        try:
            return await super().fetch_job(queues, worker_id)
        except ConnectorException as error:
            if not isinstance(error.__cause__, psycopg.OperationalError):
                raise
            log.warning("no job can be fetched: %s", error.__cause__)
            await asyncio.sleep(POLL)
            return None


@asynccontextmanager
async def open_workers(parameters: Mapping[str, Any], *, concurrency: int, works: bool) -> AsyncIterator[JobWorkers]:
    """Workers on the database to which these parameters of psycopg lead."""
    connector = _Connector(kwargs=dict(parameters), min_size=1, max_size=CONNECTIONS)
    app = procrastinate.App(connector=connector)
    app.job_manager = _Jobs(connector)
    async with app.open_async():
        yield JobWorkers(app, connector, concurrency=concurrency, works=works)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
