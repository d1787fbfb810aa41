"""memory.off_loop: the function runs to its end, whoever is cancelled meanwhile, and nobody else is."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from memory.off_loop import off_loop

SECONDS = 30.0


class Held:
    """A function that waits in its thread until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self) -> str:
        self.entered.set()
        self.let_go.wait(SECONDS)
        self.calls += 1
        return "done"


@pytest.fixture
def run() -> Callable[..., object]:
    return asyncio.run


def test_it_answers_what_the_function_returns_and_raises_what_it_raises(run: Callable[..., object]) -> None:
    assert run(off_loop(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        run(off_loop(divmod, 7, 0))


def test_a_cancelled_task_hears_of_it_once_the_function_has_run(run: Callable[..., object]) -> None:
    async def scenario() -> int:
        held = Held()
        task = asyncio.create_task(off_loop(held))
        await asyncio.to_thread(held.entered.wait, SECONDS)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        held.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return held.calls

    assert run(scenario()) == 1


def test_a_cancelled_scope_ends_its_own_call_and_no_other(run: Callable[..., object]) -> None:
    async def scenario() -> tuple[int, list[str]]:
        held, scope, ended = Held(), anyio.CancelScope(), list[str]()

        async def cancelled() -> None:
            with scope:
                await off_loop(held)
                await anyio.lowlevel.checkpoint()
                ended.append("never")

        async def beside() -> None:
            ended.append(await off_loop(str, "beside"))

        async with anyio.create_task_group() as group:
            group.start_soon(cancelled)
            await asyncio.to_thread(held.entered.wait, SECONDS)
            scope.cancel()
            group.start_soon(beside)
            await anyio.lowlevel.checkpoint()
            held.let_go.set()
        assert scope.cancelled_caught
        return held.calls, ended

    assert run(scenario()) == (1, ["beside"])
