"""Does the work of a database in threads, and commits together what has arrived together: a commit waits for a disk."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

log = logging.getLogger("yandexart_grpc.server")

Answer = TypeVar("Answer")
Work = Callable[[Connection], Answer]
"""Some queries of one transaction. It may be run again after a failure."""


class StoreFailure(Exception):
    """The store could not do what was asked. The message says why."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost
        """Whether the database went away meanwhile: it may have done it. Otherwise it has changed nothing."""


class Commits:
    """Takes work, and does it in a few lanes: each is a thread that makes one transaction of all that waits when it is free."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._arrived = asyncio.Event()
        self._ended = False

    async def do(self, work: Work[Answer]) -> Answer:
        """Do the work, and return its answer once that is committed. Raises `StoreFailure`."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        self._arrived.set()
        return await done

    async def serve(self, threads: Executor) -> None:
        """One lane: do what arrives, until `end`."""
        while not self._ended:
            await self._arrived.wait()
            self._arrived.clear()
            waiting, self._waiting = self._waiting, []
            if waiting and not await self._commit(threads, waiting):
                for one in waiting:  # one that cannot be done does not take the others along
                    await self._commit(threads, [one], last=True)

    def end(self) -> None:
        """Begin nothing more; a lane ends when it has done what it began."""
        self._ended = True
        self._waiting.clear()
        self._arrived.set()

    async def _commit(
        self, threads: Executor, waiting: Sequence[tuple[Work[Any], asyncio.Future[Any]]], *, last: bool = False
    ) -> bool:
        """Whether all of it is settled: failures are, where each piece would fail alone."""
        try:
            answers = await asyncio.get_running_loop().run_in_executor(threads, self._transact, [one for one, _ in waiting])
        except Exception as error:  # whatever it is, somebody waits to hear of it
            log.debug("the store failed", exc_info=True)
            failure = _failure(error)
            last = last or (isinstance(failure, StoreFailure) and failure.lost)
            for _, done in waiting if last else ():
                _settle(done.set_exception, done, failure)
            return last
        for (_, done), answer in zip(waiting, answers, strict=True):
            _settle(done.set_result, done, answer)
        return True

    def _transact(self, works: Sequence[Work[Any]]) -> list[Any]:
        with self._engine.begin() as connection:
            return [work(connection) for work in works]


@asynccontextmanager
async def committing(engine: Engine, threads: ThreadPoolExecutor, lanes: int) -> AsyncIterator[Commits]:
    """Do work in that many lanes as long as the `async with` block lasts."""
    commits = Commits(engine)
    serving = [asyncio.create_task(commits.serve(threads)) for _ in range(lanes)]
    try:
        yield commits
    finally:
        commits.end()
        await asyncio.gather(*serving)


def _failure(error: Exception) -> Exception:
    """What is told of an error. PostgreSQL names by a code what went wrong, and a lost connection has none."""
    reason = error.orig if isinstance(error, DBAPIError) else error.__cause__  # procrastinate puts its own around it
    if not isinstance(error, DBAPIError) and not hasattr(reason, "sqlstate"):
        return error
    state = getattr(reason, "sqlstate", "")
    return StoreFailure(str(reason), lost=state is None or state[:2] in ("08", "57"))


def _settle(settle: Callable[[Any], None], done: asyncio.Future[Any], answer: object) -> None:
    """Tell the answer to whoever still waits for it."""
    if not done.done():
        settle(answer)
