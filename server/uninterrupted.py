"""Work that has to come to its end although whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Found = TypeVar("Found")


async def uninterrupted(work: Coroutine[Any, Any, Found]) -> Found:
    """What `work` comes to at its end, however often the caller is cancelled; the cancellation comes out afterwards."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    found = task.result()
    if cancelled:
        raise asyncio.CancelledError
    return found
