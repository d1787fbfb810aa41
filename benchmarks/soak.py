"""Clients tune while trainers, owner and clients are killed at random; then everything acknowledged must be there.

python -m benchmarks.soak [--minutes 60] [--clients 2] [--slots 2] [--executor process|docker] [--seed 0]

A client process starts a study on demo, trains trial after trial, writes a heuristic now and then, and prints an id
only once the server has answered. Every few seconds somebody is killed with SIGKILL: a trainer (a container with the
docker executor), the owner, or a client, who is started anew. At the end every printed record is looked for, and what
is left is counted: processes, containers, temporary files, states of finished trainings. Exit code 1 where any is, and
where no trial came to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client, MCPError

from benchmarks.tables import table
from memory.errors import UnknownTrial
from memory.store import Memory
from server.executors.descendants import marked
from server.executors.environment import HOME_MARK
from server.home import connect, find_owner
from server.settings import load_settings
from trainers.spec import RESUME_FILE

SPACE = {"max_epochs": 30, "patience": 30, "hidden_dim": 32}
SHORTEST, LONGEST = 2.0, 8.0
"""Seconds between two kills."""


async def play(home: Path, seed: int) -> None:
    """A client that never gives up: what is gone is connected to again."""
    draw = random.Random(seed * 1000 + os.getpid())
    while True:
        with suppress(Exception):  # whoever was killed: the next connection finds or starts an owner
            async with connect(home) as client:
                await _session(client, draw)
        await anyio.sleep(0.2)


async def _session(client: Client, draw: random.Random) -> None:
    started = await _call(client, "start_study", dataset="demo", space=SPACE)
    study, number = started["study_id"], 0
    while True:
        number += 1
        asked = {"study_id": study, "changes": {"dropout": round(draw.uniform(0, 0.8), 4)}, "wait_seconds": 20}
        answer = await _call(client, "run_trial", **asked)
        while answer["status"] in ("queued", "running", "interrupted"):
            again = answer["status"] == "interrupted"
            answer = await (
                _call(client, "run_trial", **asked)
                if again
                else _call(client, "get_trial", trial_id=answer["trial_id"], wait_seconds=20)
            )
        _say(kind="trial", id=answer["trial_id"], status=answer["status"], validation=answer.get("metrics", {}))
        if number % 3 == 0:
            note = await _call(
                client, "write_heuristic", study_id=study, kind="heuristic", text=f"Dropout, seen in trial {number}.",
                evidence=[answer["trial_id"]], force=True,
            )  # fmt: skip
            _say(kind="note", id=note["heuristic_id"])


async def _call(client: Client, tool: str, **asked: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, asked)
    if answer.is_error:
        raise MCPError(code=-1, message=str(answer.content))
    return answer.structured_content or {}


def _say(**record: Any) -> None:
    print(json.dumps(record), flush=True)


class Crew:
    """The client processes, each with a file of what it was told."""

    def __init__(self, home: Path, folder: Path, clients: int) -> None:
        self._home, self._folder = home, folder
        self.processes = [self._start(seed) for seed in range(clients)]
        self.starts = clients

    def _start(self, seed: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "benchmarks.soak", "--play", str(self._home), "--seed", str(seed)]
        with (self._folder / f"client-{seed}.jsonl").open("ab") as said, (self._folder / "err").open("ab") as err:
            return subprocess.Popen(words, stdout=said, stderr=err)

    def kill(self, draw: random.Random) -> None:
        """One of them, who is started anew."""
        place = draw.randrange(len(self.processes))
        self.processes[place].kill()
        self.processes[place].wait()
        self.processes[place] = self._start(place)
        self.starts += 1

    def end(self) -> list[dict[str, Any]]:
        """All of them; what they were told. A line that was being written as its client was killed is none."""
        for process in self.processes:
            process.kill()
            process.wait()
        found: list[dict[str, Any]] = []
        for path in self._folder.glob("client-*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found


def trainers(home: Path) -> list[psutil.Process]:
    """Children at work, or the workers that they are forked from."""
    owner = find_owner(load_settings(home))
    return [process for process in marked(HOME_MARK, str(home.resolve())) if owner is None or process.pid != owner.pid]


def strike(home: Path, crew: Crew, draw: random.Random, docker: bool) -> str | None:
    """Kills somebody; who it was."""
    whom = draw.choice(["trainer", "trainer", "owner", "client"])
    if whom == "client":
        crew.kill(draw)
        return whom
    if whom == "owner":
        owner = find_owner(load_settings(home))
        if owner is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(owner.pid, 9)
        return whom
    if docker:
        found = containers()
        if not found:
            return None
        subprocess.run(["docker", "kill", draw.choice(found)], capture_output=True, check=False)
        return "container"
    victims = trainers(home)
    if not victims:
        return None
    with suppress(psutil.Error):
        draw.choice(victims).kill()
    return whom


def containers() -> list[str]:
    """Those of any home."""
    asked = ["docker", "ps", "-aq", "--filter", "label=virtualmle.run"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def lost(memory: Memory, said: Sequence[dict[str, Any]]) -> list[str]:
    """Acknowledged records that are not there as they were acknowledged."""
    found: list[str] = []
    notes = {note.heuristic_id for note in memory.notes()}
    for record in said:
        if record["kind"] == "note":
            found += [] if record["id"] in notes else [record["id"]]
            continue
        with suppress(UnknownTrial, KeyError):
            trial = memory.trial(record["id"])
            same = all(abs(trial.validation[name] - value) < 1e-4 for name, value in record["validation"].items())
            if trial.status == record["status"] and same:
                continue
        found.append(record["id"])
    return found


def left(memory: Memory, home: Path, docker: bool) -> list[str]:
    """What nobody will clear away."""
    processes = [f"process {process.pid}" for process in marked(HOME_MARK, str(home.resolve()))]
    processes += [f"container {one}" for one in containers()] if docker else []
    files = [str(path) for pattern in ("*.tmp", "*.part") for path in home.rglob(pattern)]
    states = [path for path in home.rglob(RESUME_FILE) if memory.trial(path.parent.name).finished]
    return processes + files + [str(path) for path in states]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kills, looks and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--executor", choices=["process", "docker"], default="process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.play is not None:
        anyio.run(play, asked.play, asked.seed)
        return 0
    draw, kills, docker = random.Random(asked.seed), Counter[str](), asked.executor == "docker"
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "home"
        home.mkdir()
        (home / "virtualmle.yaml").write_text(f"slots: {asked.slots}\nexecutor: {asked.executor}\n")
        crew, end = Crew(home, folder, asked.clients), time.monotonic() + 60 * asked.minutes
        while time.monotonic() < end:
            time.sleep(draw.uniform(SHORTEST, LONGEST))
            if (whom := strike(home, crew, draw, docker)) is not None:
                kills[whom] += 1
        said = crew.end()
        for _ in range(2):  # the first owner recovers, the second finds nothing more to do
            for command in ("study list", "stop"):
                words = [sys.executable, "-m", "server.cli", *command.split(), "--home", str(home)]
                subprocess.run(words, capture_output=True, check=True, timeout=120)
        memory = Memory.open(load_settings(home).database)
        missing, over = lost(memory, said), left(memory, home, docker)
        interrupted = memory.unfinished_trials()
        memory.close()
    told = Counter(record["kind"] for record in said)
    statuses = Counter(record["status"] for record in said if record["kind"] == "trial")
    lines = [
        ["minutes", f"{asked.minutes:g}"], *([f"killed: {whom}", str(count)] for whom, count in sorted(kills.items())),
        ["client processes", str(crew.starts)], ["acknowledged trials", str(told["trial"])],
        *([f"of them {status}", str(count)] for status, count in sorted(statuses.items())),
        ["acknowledged heuristics", str(told["note"])], ["lost", str(len(missing))], ["left behind", str(len(over))],
        ["trials that may be gone on with", str(len(interrupted))],
    ]  # fmt: skip
    sys.stdout.write(table(["soak", asked.executor], lines) + "\n")
    sys.stderr.writelines(f"lost: {one}\n" for one in missing)
    sys.stderr.writelines(f"left: {one}\n" for one in over)
    return 1 if missing or over or not statuses["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
