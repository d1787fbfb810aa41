"""Several things at once, of which the first failure is raised as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

Found = TypeVar("Found")


async def together(jobs: Sequence[Callable[[], Awaitable[Found]]], at_once: int) -> list[Found]:
    """What each job came to, in their order; at most `at_once` are under way. A failure ends the others."""
    found: dict[int, Found] = {}
    failures: list[Exception] = []
    admitted = anyio.CapacityLimiter(at_once)

    async def one(place: int, job: Callable[[], Awaitable[Found]], group: anyio.abc.TaskGroup) -> None:
        try:
            async with admitted:
                found[place] = await job()
        except Exception as error:
            failures.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for place, job in enumerate(jobs):
            group.start_soon(one, place, job, group)
    if failures:
        raise failures[0]
    return [found[place] for place in range(len(jobs))]
