"""The only two functions that sleep and call. What to call, and when, is decided by the generator they are given.

A generator yields a `Step`, is sent the reply, or has the `grpc.RpcError` thrown into it; what it returns is the result.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from grpc import RpcError

from yandexart_grpc._plan import Step

Reply = TypeVar("Reply")
Result = TypeVar("Result")


def drive(steps: Generator[Step, Reply, Result], call: Callable[[Step], Reply]) -> Result:
    """Run the steps with blocking calls."""
    try:
        step = next(steps)
        while True:
            time.sleep(step.after)
            try:
                reply = call(step)
            except RpcError as error:
                step = steps.throw(error)
            else:
                step = steps.send(reply)
    except StopIteration as finished:
        result: Result = finished.value
        return result


async def adrive(steps: Generator[Step, Reply, Result], call: Callable[[Step], Awaitable[Reply]]) -> Result:
    """Run the steps with awaited calls: the same text as `drive`."""
    try:
        step = next(steps)
        while True:
            await asyncio.sleep(step.after)
            try:
                reply = await call(step)
            except RpcError as error:
                step = steps.throw(error)
            else:
                step = steps.send(reply)
    except StopIteration as finished:
        result: Result = finished.value
        return result
