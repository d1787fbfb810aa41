"""The actors of one driver. An idle actor waits a little for the next training of its kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.executors.base import Slot
from server.executors.ray.cluster import Connection, Lost

IDLE_SECONDS = 10.0
"""How long an idle actor holds its node for another training, which then need not load everything again."""
_DEATH_SECONDS = 5.0


@dataclass(eq=False)
class Actor:
    """`handle` is Ray's. `node` is set once a training has begun there. `good`: the actor may take another one."""

    handle: Any
    kind: tuple[int, int | None]
    good: bool = False
    node: str = ""
    beginning: asyncio.Future[str] | None = None
    idle_timer: asyncio.TimerHandle | None = None


class Actors:
    """The pool of actors. Use it from the event loop's thread only."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle: list[Actor] = []
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def take(self, slot: Slot) -> AsyncGenerator[Actor]:
        """An actor for a training in such a slot, kept if it is `good` when the block ends. Raises ExecutorError."""
        kind = (slot.threads, slot.memory_mb)
        for idle in list(self._idle):
            if idle.kind != kind:  # the new training may need its node
                self._discard(idle)
        if self._idle:
            actor = self._idle.pop()
            assert actor.idle_timer is not None
            actor.idle_timer.cancel()
            actor.good = False
        else:
            actor = Actor(await asyncio.to_thread(self._connection.actor, slot), kind)
        try:
            yield actor
        except Lost as lost:
            await asyncio.to_thread(self._connection.kill, actor.handle)
            if lost.blame and actor.node:
                self._connection.avoid(actor.node, lost.blame)
                for idle in [other for other in self._idle if other.node == actor.node]:
                    self._discard(idle)
            raise
        except BaseException:
            await self._connection.end(actor.handle)
            raise
        if actor.good:
            self._idle.append(actor)
            actor.idle_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._discard, actor)
        elif actor.node:
            await self._connection.end(actor.handle)
        else:
            await asyncio.to_thread(self._connection.kill, actor.handle)
            if actor.beginning is not None:  # a training may be at work by now
                await asyncio.wait({actor.beginning}, timeout=_DEATH_SECONDS)

    async def aclose(self) -> None:
        """Ends the idle actors."""
        for actor in list(self._idle):
            self._discard(actor)
        await asyncio.gather(*self._ending)

    def _discard(self, actor: Actor) -> None:
        assert actor.idle_timer is not None
        actor.idle_timer.cancel()
        self._idle.remove(actor)
        task = asyncio.ensure_future(self._connection.end(actor.handle))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
