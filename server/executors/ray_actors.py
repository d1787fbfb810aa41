"""The actors of one driver: one that has nothing to do waits a little for the next training of its kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.executors.base import Slot
from server.executors.ray_cluster import Connection, Lost

IDLE_SECONDS = 10.0
"""How long a node is held for a training that may come: what is loaded there need not be loaded again."""
_DEATH_SECONDS = 5.0


@dataclass(eq=False)
class Actor:
    """`handle` is Ray's. `node`: where it is, known once a training has begun there. `good`: so may another."""

    handle: Any
    kind: tuple[int, int | None]
    good: bool = False
    node: str = ""
    beginning: asyncio.Future[str] | None = None
    given_up: asyncio.TimerHandle | None = None


class Actors:
    """Must be used from the event loop's thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._idle: list[Actor] = []
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def take(self, slot: Slot) -> AsyncGenerator[Actor]:
        """One for a training in such a slot, kept if it is `good` at the end of the block. Raises ExecutorError."""
        kind = (slot.threads, slot.memory_mb)
        for idle in list(self._idle):
            if idle.kind != kind:  # its node may be wanted
                self._give_up(idle)
        if self._idle:
            actor = self._idle.pop()
            assert actor.given_up is not None
            actor.given_up.cancel()
            actor.good = False
        else:
            actor = Actor(await asyncio.to_thread(self._connection.actor, slot), kind)
        try:
            yield actor
        except Lost as lost:
            await asyncio.to_thread(self._connection.kill, actor.handle)
            if lost.blame and actor.node:
                self._connection.avoid(actor.node, lost.blame)
                for idle in [one for one in self._idle if one.node == actor.node]:
                    self._give_up(idle)
            raise
        except BaseException:
            await self._connection.end(actor.handle)
            raise
        if actor.good:
            self._idle.append(actor)
            actor.given_up = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._give_up, actor)
        elif actor.node:
            await self._connection.end(actor.handle)
        else:
            await asyncio.to_thread(self._connection.kill, actor.handle)
            if actor.beginning is not None:  # it may have got so far that a training is at work
                await asyncio.wait({actor.beginning}, timeout=_DEATH_SECONDS)

    async def aclose(self) -> None:
        """Ends those that have nothing to do."""
        for actor in list(self._idle):
            self._give_up(actor)
        await asyncio.gather(*self._ending)

    def _give_up(self, actor: Actor) -> None:
        assert actor.given_up is not None
        actor.given_up.cancel()
        self._idle.remove(actor)
        task = asyncio.ensure_future(self._connection.end(actor.handle))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
