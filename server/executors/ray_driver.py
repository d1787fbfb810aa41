"""The process between an owner and a Ray cluster: python -m server.executors.ray_driver CLUSTER, a `Cluster` as JSON.

A driver shares the fate of its cluster: it ends when that does. So it is a process of its own, and the owner lives on.
stdin takes a line each of {"id", "directory", "slot", "task"}, {"id", "end": "cancelled"}, {"end": "closing"} for all
that is under way and {"end": "leaving"} for the driver itself. stdout answers {"ready": true} or {"refused": why} once,
and for each id {"exit": …}, {"error": why} or {"cancelled": true}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.executors.base import ExecutorError, Exit, Slot
from server.executors.ray_actors import Actor, Actors
from server.executors.ray_cluster import Cluster, Connection, Gone, Lost
from server.executors.ray_files import RunFiles, code, dataset
from trainers.spec import RESUME_FILE, Task

FAREWELL_SECONDS = 6.0
ATTEMPTS = 4
"""Nodes that a training may try, one after the other, where the earlier ones were lost."""
PING_SECONDS = 5.0
"""News that are under way for so long may be large, or never come."""
STATE_BYTES_A_SECOND = 5e6
"""How much of the state that it keeps a training sends at most, on average."""


class Run:
    """One run directory on its way through the cluster, until `work` has its answer."""

    def __init__(self, connection: Connection, actors: Actors, directory: Path, slot: Slot, task: Task) -> None:
        self._connection = connection
        self._actors = actors
        self._cluster = connection.cluster
        self._slot = slot
        self._task: Task = task
        self._files = RunFiles(directory, task)
        self._began: float | None = None
        self._state_from = 0.0
        self._how = ""
        self._asked_to_end = asyncio.Event()

    def end(self, how: str) -> None:
        """`cancelled`, or `closing`: the owner ends."""
        self._how = how
        self._asked_to_end.set()

    async def work(self) -> dict[str, Any]:
        """The answer to the owner: exit, error or cancelled."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._on_a_node()
            except Lost as lost:
                if self._how:
                    return self._given_up()
                if not left:
                    return {"error": f"The training was lost {ATTEMPTS} times, at last because {lost}."}
                await asyncio.to_thread(self._files.note, f"lost: {lost}; another node goes on")
            except ExecutorError as failed:
                return {"error": str(failed), "gone": isinstance(failed, Gone)}
            except OSError as error:
                name = self._files.directory.name
                return {"error": f"The run directory of {name} cannot be used: {error.strerror or error}."}
        raise AssertionError

    async def _on_a_node(self) -> dict[str, Any]:
        files = await asyncio.to_thread(self._files.to_send)
        while not self._how:
            node_lost = self._connection.node_lost
            async with self._actors.take(self._slot) as actor:
                if await self._begun(actor, files, node_lost):
                    found = await self._watched(actor.handle)
                    actor.good = "error" not in found
                    return found
        return self._given_up()

    async def _begun(self, actor: Actor, files: dict[str, bytes], node_lost: asyncio.Event) -> bool:
        """Whether the training has begun; it waits for as long as the cluster is busy.

        Not where it is asked to end, or where a node is lost meanwhile: it may be the one that this waits for.
        """
        parcels = [
            await asyncio.to_thread(code),
            await asyncio.to_thread(dataset, self._cluster.datasets, self._files.needs.dataset_hash),
        ]
        sent = [await asyncio.to_thread(self._connection.reference, one) for one in parcels if one is not None]
        told = {
            "directory": self._files.directory.name,
            "dataset": parcels[-1].name if parcels[-1] else "",
            "task": self._task,
            "slot": self._remaining().model_dump(),
            "command": self._cluster.command,
            "folder": str(self._cluster.folder or ""),
        }
        patience = self._cluster.heartbeat_seconds if actor.node else None
        begin = self._connection.ask(actor.handle.begin, told, files, sent, seconds=patience)
        beginning = actor.beginning = asyncio.ensure_future(begin)
        others = {asyncio.ensure_future(one.wait()) for one in (self._asked_to_end, node_lost)}
        await asyncio.wait({beginning, *others}, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        if not beginning.done():
            beginning.add_done_callback(_forgotten)
            return False
        actor.node = beginning.result()
        self._began = self._began or time.monotonic()
        return True

    async def _watched(self, actor: Any) -> dict[str, Any]:
        """Keeps what the training leaves until it is over."""
        told = False
        while True:
            if self._how and not told:
                await self._connection.ask(actor.end, self._how, seconds=self._cluster.heartbeat_seconds)
                told = True
            news = await self._news(actor)
            await asyncio.to_thread(self._files.take, news["grown"], news["whole"])
            if RESUME_FILE in news["whole"]:
                seconds = len(news["whole"][RESUME_FILE]) / STATE_BYTES_A_SECOND
                self._state_from = time.monotonic() + seconds
            if found := {name: news[name] for name in ("exit", "error", "cancelled") if name in news}:
                return found

    async def _news(self, actor: Any) -> dict[str, Any]:
        """Large files may take as long as they need, while the actor is there."""
        with_state = time.monotonic() >= self._state_from
        news = asyncio.ensure_future(self._connection.ask(actor.news, with_state, seconds=None))
        try:
            while not (await asyncio.wait({news}, timeout=PING_SECONDS))[0]:
                await self._connection.ask(actor.ping, seconds=self._cluster.heartbeat_seconds)
        except BaseException:
            news.add_done_callback(_forgotten)
            raise
        return news.result()

    def _remaining(self) -> Slot:
        """The slot, with what is left until its deadline."""
        if self._slot.deadline_seconds is None or self._began is None:
            return self._slot
        left = max(0.0, self._slot.deadline_seconds - (time.monotonic() - self._began))
        return self._slot.model_copy(update={"deadline_seconds": left})

    def _given_up(self) -> dict[str, Any]:
        if self._how == "cancelled":
            return {"cancelled": True}
        return {"exit": Exit(cause="killed", message="the owner ended").model_dump()}


def _forgotten(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, whatever it comes to."""
    if not answer.cancelled():
        answer.exception()


class Driver:
    """Takes the owner's lines, and answers through `say`."""

    def __init__(self, connection: Connection, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._connection = connection
        self._actors = Actors(connection)
        self._say = say
        self._runs: dict[int, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.gone = asyncio.Event()

    def take(self, line: bytes) -> None:
        """Begins or ends what the line says."""
        asked = json.loads(line)
        if asked.get("end") == "leaving":
            self.gone.set()
        elif how := asked.get("end"):
            named = self._runs if how == "closing" else [asked["id"]]
            for number in list(named):
                if number in self._runs:
                    self._runs[number].end(how)
        else:
            self._begin(asked)

    async def aclose(self) -> None:
        """Ends what waits on the nodes for trainings to come."""
        await self._actors.aclose()

    def _begin(self, asked: Mapping[str, Any]) -> None:
        slot = Slot.model_validate(asked["slot"])
        run = Run(self._connection, self._actors, Path(asked["directory"]), slot, asked["task"])
        self._runs[asked["id"]] = run
        task = asyncio.ensure_future(self._answered(asked["id"], run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, number: int, run: Run) -> None:
        answer: dict[str, Any] = {"error": "The driver of the Ray cluster failed; ray.log in the home says why."}
        try:
            answer = await run.work()
        finally:
            del self._runs[number]
            self._say({"id": number, **answer})
            if answer.get("gone"):
                self.gone.set()


async def serve(cluster: Cluster, requests: int, say: Callable[[Mapping[str, Any]], None]) -> int:
    """Works until stdin ends, or the cluster does; returns only where there is no connection."""
    try:
        connection = await asyncio.to_thread(Connection, cluster)
        await connection.take_over()
    except ExecutorError as failed:
        say({"refused": str(failed)})
        return 1
    say({"ready": True})
    driver = Driver(connection, say)
    hearing = asyncio.ensure_future(_hear(driver, requests))
    leaving = asyncio.ensure_future(driver.gone.wait())
    await asyncio.wait({hearing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await driver.aclose()
            await asyncio.to_thread(connection.close)
    os._exit(0)  # threads that wait for a cluster that is gone would wait for ever


async def _hear(driver: Driver, requests: int) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(requests, "rb"))
    async for line in reader:
        driver.take(line)


def main() -> int:
    """Nothing but answers may reach the reader of stdout, and Ray likes to print."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def say(values: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            os.write(answers, json.dumps(values).encode() + b"\n")

    return asyncio.run(serve(Cluster.model_validate_json(sys.argv[1]), requests, say))


if __name__ == "__main__":
    sys.exit(main())
