"""The process between an owner and a Ray cluster: python -m server.executors.ray.driver CLUSTER, a `Cluster` as JSON.

A driver ends when its cluster does, so it is a separate process and the owner lives on. Each line on stdin is
{"id", "directory", "slot", "task"}, {"id", "end": "cancelled"}, {"end": "closing"} for everything under way, or
{"end": "leaving"} for the driver itself. stdout answers {"ready": true} or {"refused": why} once, and for each id
{"exit": …}, {"error": why} or {"cancelled": true}.
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

from server.executors.base import ExecutorError, Exit, Slot, reason
from server.executors.ray.actors import Actor, Actors
from server.executors.ray.cluster import Cluster, Connection, Gone, Lost
from server.executors.ray.files import RunFiles, code, dataset
from trainers.contract.wire import RESUME_FILE, ChildTask

FAREWELL_SECONDS = 6.0
ATTEMPTS = 4
"""How many nodes a training may try, one after the other, when the earlier ones were lost."""
PING_SECONDS = 5.0
"""How long to wait for news before a ping: the news may be large, or may never come."""
STATE_BYTES_A_SECOND = 5e6
"""Limit on the average rate at which a training sends its resume state."""


class Run:
    """One run directory on its way through the cluster, until `work` returns its answer."""

    def __init__(self, connection: Connection, actors: Actors, directory: Path, slot: Slot, task: ChildTask) -> None:
        self._connection = connection
        self._actors = actors
        self._cluster = connection.cluster
        self._slot = slot
        self._task: ChildTask = task
        self._files = RunFiles(directory, task)
        self._began: float | None = None
        self._state_from = 0.0
        self._end_reason = ""
        self._asked_to_end = asyncio.Event()

    def end(self, reason: str) -> None:
        """Asks the run to end; `reason` is `cancelled`, or `closing` where the owner ends."""
        self._end_reason = reason
        self._asked_to_end.set()

    async def work(self) -> dict[str, Any]:
        """Runs the training to its end; returns the answer to the owner: exit, error or cancelled."""
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._on_a_node()
            except Lost as lost:
                if self._end_reason:
                    return self._ended_early()
                if not left:
                    return {"error": f"The training was lost {ATTEMPTS} times, at last because {lost}."}
                await asyncio.to_thread(self._files.note, f"lost: {lost}; another node goes on")
            except ExecutorError as failed:
                return {"error": str(failed), "gone": isinstance(failed, Gone)}
            except OSError as error:
                name = self._files.directory.name
                return {"error": f"The run directory of {name} cannot be used: {reason(error)}."}
        raise AssertionError

    async def _on_a_node(self) -> dict[str, Any]:
        files = await asyncio.to_thread(self._files.to_send)
        while not self._end_reason:
            node_lost = self._connection.node_lost
            async with self._actors.take(self._slot) as actor:
                if await self._begin_on(actor, files, node_lost):
                    ending = await self._watch(actor.handle)
                    actor.good = "error" not in ending
                    return ending
        return self._ended_early()

    async def _begin_on(self, actor: Actor, files: dict[str, bytes], node_lost: asyncio.Event) -> bool:
        """Whether the training has begun; waits for as long as the cluster is busy.

        False where the run is asked to end, or where a node is lost meanwhile: it may be the one awaited.
        """
        parcels = [
            await asyncio.to_thread(code),
            await asyncio.to_thread(dataset, self._cluster.datasets, self._files.directory, self._task),
        ]
        references = [
            await asyncio.to_thread(self._connection.reference, parcel) for parcel in parcels if parcel is not None
        ]
        request = {
            "directory": self._files.directory.name,
            "dataset": parcels[-1].name if parcels[-1] else "",
            "task": self._task,
            "slot": self._remaining().model_dump(),
            "command": self._cluster.command,
            "folder": str(self._cluster.folder or ""),
        }
        patience = self._cluster.heartbeat_seconds if actor.node else None
        begin = self._connection.ask(actor.handle.begin, request, files, references, seconds=patience)
        beginning = actor.beginning = asyncio.ensure_future(begin)
        others = {asyncio.ensure_future(event.wait()) for event in (self._asked_to_end, node_lost)}
        await asyncio.wait({beginning, *others}, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        if not beginning.done():
            beginning.add_done_callback(_ignore_outcome)
            return False
        actor.node = beginning.result()
        self._began = self._began or time.monotonic()
        return True

    async def _watch(self, actor: Any) -> dict[str, Any]:
        """Writes what the training produces until it is over; returns its exit, error or cancellation."""
        end_sent = False
        while True:
            if self._end_reason and not end_sent:
                await self._connection.ask(actor.end, self._end_reason, seconds=self._cluster.heartbeat_seconds)
                end_sent = True
            news = await self._news(actor)
            await asyncio.to_thread(self._files.take, news["grown"], news["whole"])
            if RESUME_FILE in news["whole"]:
                seconds = len(news["whole"][RESUME_FILE]) / STATE_BYTES_A_SECOND
                self._state_from = time.monotonic() + seconds
            if ending := {name: news[name] for name in ("exit", "error", "cancelled") if name in news}:
                return ending

    async def _news(self, actor: Any) -> dict[str, Any]:
        """The actor's next news. Large files may take as long as they need while the actor answers pings."""
        with_state = time.monotonic() >= self._state_from
        news = asyncio.ensure_future(self._connection.ask(actor.news, with_state, seconds=None))
        try:
            while not (await asyncio.wait({news}, timeout=PING_SECONDS))[0]:
                await self._connection.ask(actor.ping, seconds=self._cluster.heartbeat_seconds)
        except BaseException:
            news.add_done_callback(_ignore_outcome)
            raise
        return news.result()

    def _remaining(self) -> Slot:
        """The slot, with the time that is left until its deadline."""
        if self._slot.deadline_seconds is None or self._began is None:
            return self._slot
        left = max(0.0, self._slot.deadline_seconds - (time.monotonic() - self._began))
        return self._slot.model_copy(update={"deadline_seconds": left})

    def _ended_early(self) -> dict[str, Any]:
        if self._end_reason == "cancelled":
            return {"cancelled": True}
        return {"exit": Exit(cause="killed", message="the owner ended").model_dump()}


def _ignore_outcome(answer: asyncio.Future[Any]) -> None:
    """Retrieves the outcome of a future that nobody awaits any more, so that asyncio does not report it."""
    if not answer.cancelled():
        answer.exception()


class Driver:
    """Takes the owner's lines and answers through `say`."""

    def __init__(self, connection: Connection, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._connection = connection
        self._actors = Actors(connection)
        self._say = say
        self._runs: dict[int, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.gone = asyncio.Event()

    def take(self, line: bytes) -> None:
        """Begins or ends the runs that a line names."""
        request = json.loads(line)
        if request.get("end") == "leaving":
            self.gone.set()
        elif reason := request.get("end"):
            numbers = self._runs if reason == "closing" else [request["id"]]
            for number in list(numbers):
                if number in self._runs:
                    self._runs[number].end(reason)
        else:
            self._begin(request)

    async def aclose(self) -> None:
        """Ends the actors that wait on the nodes for further trainings."""
        await self._actors.aclose()

    def _begin(self, request: Mapping[str, Any]) -> None:
        slot = Slot.model_validate(request["slot"])
        run = Run(self._connection, self._actors, Path(request["directory"]), slot, request["task"])
        self._runs[request["id"]] = run
        task = asyncio.ensure_future(self._work_and_answer(request["id"], run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_and_answer(self, number: int, run: Run) -> None:
        answer: dict[str, Any] = {"error": "The driver of the Ray cluster failed; ray.log in the home says why."}
        try:
            answer = await run.work()
        finally:
            del self._runs[number]
            self._say({"id": number, **answer})
            if answer.get("gone"):
                self.gone.set()


async def serve(cluster: Cluster, requests: int, say: Callable[[Mapping[str, Any]], None]) -> int:
    """Works until stdin or the cluster ends, then ends the process; returns only where there is no connection."""
    try:
        connection = await asyncio.to_thread(Connection, cluster)
        await connection.take_over()
    except ExecutorError as failed:
        say({"refused": str(failed)})
        return 1
    say({"ready": True})
    driver = Driver(connection, say)
    hearing = asyncio.ensure_future(_read_requests(driver, requests))
    leaving = asyncio.ensure_future(driver.gone.wait())
    await asyncio.wait({hearing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await driver.aclose()
            await asyncio.to_thread(connection.close)
    os._exit(0)  # threads that wait for a lost cluster would wait for ever


async def _read_requests(driver: Driver, requests: int) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(requests, "rb"))
    async for line in reader:
        driver.take(line)


def main() -> int:
    """Runs the driver with stdout redirected, since Ray prints and only answers may reach the owner."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def say(values: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            os.write(answers, json.dumps(values).encode() + b"\n")

    return asyncio.run(serve(Cluster.model_validate_json(sys.argv[1]), requests, say))


if __name__ == "__main__":
    sys.exit(main())
