"""Calls memory from async code: in a worker thread, and always to its end.

A query may wait for another one or for the disk, and the event loop must not wait with it. So an async function hands
one plain function with all its reads and writes to `off_loop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


async def off_loop(function: Callable[[Unpack[Arguments]], Result], *arguments: *Arguments) -> Result:
    """Call `function` in a worker thread and return its result.

    If the caller is cancelled meanwhile, it still waits for the function to end, so that it knows how each write ended.
    The cancellation is raised afterwards.
    """
    return await uninterrupted(anyio.to_thread.run_sync(function, *arguments))


async def uninterrupted(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run `coroutine` to its end, however often the caller is cancelled; the cancellation is raised afterwards."""
    task = asyncio.create_task(coroutine)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # an outer scope cancels repeatedly, and accepts only its own errors
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
