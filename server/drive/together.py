"""Runs several jobs at once, and raises the first failure as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

Result = TypeVar("Result")


async def run_together(jobs: Sequence[Callable[[], Awaitable[Result]]], at_once: int) -> list[Result]:
    """The results of the jobs, in their order; at most `at_once` are under way. A failure ends the others."""
    results: dict[int, Result] = {}
    failures: list[Exception] = []
    admitted = anyio.CapacityLimiter(at_once)

    async def run_job(place: int, job: Callable[[], Awaitable[Result]], group: anyio.abc.TaskGroup) -> None:
        try:
            async with admitted:
                results[place] = await job()
        except Exception as error:
            failures.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for place, job in enumerate(jobs):
            group.start_soon(run_job, place, job, group)
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(jobs))]
