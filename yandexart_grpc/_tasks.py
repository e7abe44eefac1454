"""Runs many tasks and hands over their results in the order in which they end: what `_crowd` is to threads."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class Tasks(Generic[Result]):
    """Tasks under way; those that are so still at the end of the `async with` block are cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Result]] = set()
        self._ended: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, work: Coroutine[Any, Any, Result]) -> None:
        """Start a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended.put_nowait)

    async def next(self) -> Result:
        """Wait until a task has ended, and return its result or raise its error."""
        task = await self._ended.get()
        self._tasks.discard(task)
        return task.result()
