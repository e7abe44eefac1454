"""Who runs accepted operations: tasks of this process."""

import asyncio
from collections.abc import Coroutine


class TaskWorkers:
    """Runs each piece of work as a task under a name."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Begin the work."""
        self._tasks[name] = task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._tasks.pop(name))

    def stop(self, name: str) -> None:
        """Stop the work of that name, if it is still going on."""
        if task := self._tasks.get(name):
            task.cancel()

    async def close(self) -> None:
        """Stop all work, and wait until it has stopped."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
