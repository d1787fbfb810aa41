"""Kills trainers, owner and clients at random while clients tune, then checks that no acknowledged record is lost.

python -m benchmarks.soak [--minutes 60] [--clients 2] [--writers 2] [--hostile 1] [--slots 2]
                          [--executor process|docker] [--seed 0]

Three kinds of client processes print an id only once the server has answered: tuners start a study on demo, train trial
after trial and write a heuristic now and then; writers write notes as fast as they are acknowledged; hostile ones tune
a trainer of their own that leaves pipes, links and nonsense in its run directory. Every few seconds a process is killed
with SIGKILL: a trainer (with the docker executor, its container), the owner, or a client, which is started again. At
the end, every printed record must be in memory, and no process, container, temporary file or state of a finished
training may be left behind. The exit code is 1 if one of these checks fails, if no trial finished, or if fewer than 100
records a minute were acknowledged.
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
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client, MCPError

from benchmarks.harness.markdown import table
from benchmarks.hostile import trainer
from memory.errors import UnknownTrial
from memory.store import Memory
from server.client.home import connect, find_owner
from server.executors.environment import OWNER_MARK, owner_mark
from server.executors.process.process_tree import marked
from server.settings import load_settings
from trainers.contract.wire import RESUME_FILE
from trainers.external import registry

SPACE = {"max_epochs": 30, "patience": 30, "hidden_dim": 32}
HOSTILE = "hostile"
"""The name of the trainer that leaves hostile files."""
LEAST_A_MINUTE = 100
"""Acknowledged records a minute, below which a load says little."""
SHORTEST, LONGEST = 2.0, 8.0
"""The least and the most seconds between two kills."""


async def play(home: Path, seed: int, role: str) -> None:
    """A client that never gives up: it connects again whenever its connection is lost."""
    draw = random.Random(seed * 1000 + os.getpid())
    while True:
        with suppress(Exception):  # the next connection finds an owner or starts one
            async with connect(home) as client:
                if role == "writer":
                    await _write(client)
                elif role == "hostile":
                    await _tune(client, draw, {"backbone": HOSTILE}, "rate", (0.01, 0.9))
                else:
                    await _tune(client, draw, {"space": SPACE}, "dropout", (0, 0.8))
        await anyio.sleep(0.2)


async def _write(client: Client) -> None:
    """Writes notes, one after another."""
    study = (await _call(client, "start_study", dataset="demo"))["study_id"]
    for number in count():
        text = f"Note {number}: {os.urandom(8).hex()}"
        note = await _call(client, "write_heuristic", study_id=study, kind="reflection", text=text)
        _print_record(kind="note", id=note["note_id"])


async def _tune(
    client: Client, draw: random.Random, setting: dict[str, Any], field: str, bounds: tuple[float, float]
) -> None:
    """Trains one value of a field after another in a study with this setting."""
    study, number = (await _call(client, "start_study", dataset="demo", **setting))["study_id"], 0
    while True:
        number += 1
        request = {"study_id": study, "changes": {field: round(draw.uniform(*bounds), 4)}, "wait_seconds": 20}
        answer = await _call(client, "run_trial", **request)
        while answer["status"] in ("queued", "running", "interrupted"):
            interrupted = answer["status"] == "interrupted"
            answer = await (
                _call(client, "run_trial", **request)
                if interrupted
                else _call(client, "get_trial", trial_id=answer["trial_id"], wait_seconds=20)
            )
        _print_record(
            kind="trial", id=answer["trial_id"], status=answer["status"], validation=answer.get("metrics", {})
        )
        if number % 3 == 0:
            note = await _call(
                client, "write_heuristic", study_id=study, kind="heuristic", text=f"{field}, seen in trial {number}.",
                evidence=[answer["trial_id"]], force=True,
            )  # fmt: skip
            _print_record(kind="note", id=note["heuristic_id"])


async def _call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    if answer.is_error:
        raise MCPError(code=-1, message=str(answer.content))
    return answer.structured_content or {}


def _print_record(**record: Any) -> None:
    print(json.dumps(record), flush=True)


class ClientProcesses:
    """The client processes, each with a file of the records that the server acknowledged to it."""

    def __init__(self, home: Path, folder: Path, roles: Sequence[str]) -> None:
        self._home, self._folder, self._roles = home, folder, roles
        self.processes = [self._start(seed) for seed in range(len(roles))]
        self.starts = len(roles)

    def _start(self, seed: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "benchmarks.soak", "--play", str(self._home), "--seed", str(seed)]
        words += ["--role", self._roles[seed]]
        with (self._folder / f"client-{seed}.jsonl").open("ab") as output, (self._folder / "err").open("ab") as err:
            return subprocess.Popen(words, stdout=output, stderr=err)

    def kill(self, draw: random.Random) -> None:
        """Kills one client at random and starts it again."""
        place = draw.randrange(len(self.processes))
        self.processes[place].kill()
        self.processes[place].wait()
        self.processes[place] = self._start(place)
        self.starts += 1

    def end(self) -> list[dict[str, Any]]:
        """Kills all clients; returns their acknowledged records. A line that was cut short by a kill is ignored."""
        for process in self.processes:
            process.kill()
            process.wait()
        records: list[dict[str, Any]] = []
        for path in self._folder.glob("client-*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    records.append(json.loads(line))
        return records


def add_hostile_trainer(home: Path, folder: Path) -> None:
    """Registers the trainer that leaves hostile files."""
    declared = folder / "space.yaml"
    declared.write_text(trainer.SPACE.format(python=sys.executable, trainer=trainer.__file__))
    registry.add(load_settings(home).trainers_dir, HOSTILE, declared)


def trainers(home: Path) -> list[psutil.Process]:
    """The training processes of the home, and the workers that they are forked from."""
    owner = find_owner(load_settings(home))
    return [process for process in marked(OWNER_MARK, owner_mark(home)) if owner is None or process.pid != owner.pid]


def kill_one(home: Path, clients: ClientProcesses, draw: random.Random, docker: bool) -> str | None:
    """Kills one process at random; returns its kind, None where there was none to kill."""
    whom = draw.choice(["trainer", "trainer", "owner", "client"])
    if whom == "client":
        clients.kill(draw)
        return whom
    if whom == "owner":
        owner = find_owner(load_settings(home))
        if owner is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(owner.pid, 9)
        return whom
    if docker:
        running = containers()
        if not running:
            return None
        subprocess.run(["docker", "kill", draw.choice(running)], capture_output=True, check=False)
        return "container"
    victims = trainers(home)
    if not victims:
        return None
    with suppress(psutil.Error):
        draw.choice(victims).kill()
    return whom


def containers() -> list[str]:
    """The ids of the trial containers of all homes."""
    command = ["docker", "ps", "-aq", "--filter", "label=virtualmle.run"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def lost_records(memory: Memory, records: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of acknowledged records that are missing or differ from what was acknowledged."""
    missing: list[str] = []
    notes = {note.note_id for note in memory.notes()}
    for record in records:
        if record["kind"] == "note":
            missing += [] if record["id"] in notes else [record["id"]]
            continue
        with suppress(UnknownTrial, KeyError):
            trial = memory.trial(record["id"])
            same = all(abs(trial.validation[name] - value) < 1e-4 for name, value in record["validation"].items())
            if trial.status == record["status"] and same:
                continue
        missing.append(record["id"])
    return missing


def left_behind(memory: Memory, home: Path, docker: bool) -> list[str]:
    """Processes, containers and files that were left behind."""
    processes = [f"process {process.pid}" for process in marked(OWNER_MARK, owner_mark(home))]
    processes += [f"container {container}" for container in containers()] if docker else []
    files = [str(path) for pattern in ("*.tmp", "*.part") for path in home.rglob(pattern)]
    states = [path for path in home.rglob(RESUME_FILE) if memory.trial(path.parent.name).finished]
    return processes + files + [str(path) for path in states]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the soak test, checks the memory and prints the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--hostile", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--executor", choices=["process", "docker"], default="process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", default="tuner", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.play is not None:
        anyio.run(play, options.play, options.seed, options.role)
        return 0
    draw, kills, docker = random.Random(options.seed), Counter[str](), options.executor == "docker"
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "home"
        home.mkdir()
        (home / "virtualmle.yaml").write_text(f"slots: {options.slots}\nexecutor: {options.executor}\n")
        roles = ["tuner"] * options.clients + ["writer"] * options.writers
        if options.executor == "process":  # a trainer of one's own runs nowhere else
            add_hostile_trainer(home, folder)
            roles += ["hostile"] * options.hostile
        clients, end = ClientProcesses(home, folder, roles), time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            time.sleep(draw.uniform(SHORTEST, LONGEST))
            if (whom := kill_one(home, clients, draw, docker)) is not None:
                kills[whom] += 1
        records = clients.end()
        for _ in range(2):  # the first owner recovers, the second finds nothing more to do
            for command in ("study list", "stop"):
                words = [sys.executable, "-m", "server.cli", *command.split(), "--home", str(home)]
                subprocess.run(words, capture_output=True, check=True, timeout=120)
        memory = Memory.open(load_settings(home).database)
        missing, leftovers = lost_records(memory, records), left_behind(memory, home, docker)
        interrupted = memory.unfinished_trials()
        memory.close()
    kinds, a_minute = Counter(record["kind"] for record in records), len(records) / options.minutes
    statuses = Counter(record["status"] for record in records if record["kind"] == "trial")
    lines = [
        ["minutes", f"{options.minutes:g}"],
        *([f"killed: {whom}", str(count)] for whom, count in sorted(kills.items())),
        ["client processes", str(clients.starts)], ["acknowledged trials", str(kinds["trial"])],
        *([f"of them {status}", str(count)] for status, count in sorted(statuses.items())),
        ["acknowledged notes", str(kinds["note"])], ["acknowledged a minute", f"{a_minute:.0f}"],
        ["lost", str(len(missing))],
        ["left behind", str(len(leftovers))],
        ["trials that may be gone on with", str(len(interrupted))],
    ]  # fmt: skip
    sys.stdout.write(table(["soak", options.executor], lines) + "\n")
    sys.stderr.writelines(f"lost: {record}\n" for record in missing)
    sys.stderr.writelines(f"left: {item}\n" for item in leftovers)
    return 1 if missing or leftovers or not statuses["ok"] or a_minute < LEAST_A_MINUTE else 0


if __name__ == "__main__":
    sys.exit(main())
