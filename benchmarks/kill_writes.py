"""Kills a writer of memory amid its writes, again and again, and looks for the records that it had acknowledged.

python -m benchmarks.kill_writes [--kills 50] [--seed 0] [--json]

A process starts trials, ends them, writes claims and snapshots, and prints an id once the call has returned; it is
killed (SIGKILL) at a random moment, also while it opens the file. Whatever it printed must be there, whole, when the
file is opened next; the same file is written on from kill to kill.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.invented import METRIC, facts, study
from benchmarks.tables import table
from memory.claims import read_claim
from memory.errors import MemoryFault
from memory.records import NewTrial
from memory.store import Memory
from trainers.fields import space_of
from trainers.space import Config
from trainers.spec import SPECS, Epoch, TrialResult

LONGEST = 0.6
"""Seconds after the first acknowledged write, at most, until the writer is killed."""
SPACE = space_of(SPECS["sasrec"])


@dataclass
class Outcome:
    """Over all kills: records that the writer had acknowledged, and those of them that are not whole."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    in_the_middle: int = 0
    """Kills that left a trial begun and not ended."""


def write(path: Path, seed: int) -> None:
    """Writes until it is killed; each line that it prints is a record that was stored before."""
    memory, draw = Memory.open(path), random.Random(seed)
    study_id = f"s-{seed}"
    memory.add_study(study(SPACE, "invented", facts(5000, 8.0), study_id=study_id, seed=seed))
    print(f"study {study_id}", flush=True)
    number = 0
    while True:
        number += 1
        changes: Config = {"dropout": round(draw.uniform(0, 0.8), 3)}
        config = SPACE.apply(SPACE.default(), changes)
        new = NewTrial(
            study_id=study_id, parent=None, changes=changes, config=config, config_hash=SPACE.hash(config), seed=number
        )
        trial_id = memory.start_trial(new).trial_id
        print(f"trial {trial_id}", flush=True)
        memory.start_attempt(trial_id, 1, 1.0)
        epochs = [Epoch(epoch=1, loss=1.0, validation={METRIC: 0.05}, seconds=1.0, eval_seconds=0.1)]
        memory.add_epochs(trial_id, epochs)
        memory.finish_trial(TrialResult(trial_id=trial_id, status="ok", validation={METRIC: 0.05}, epochs=1))
        print(f"result {trial_id}", flush=True)
        claim = read_claim(
            {"change": {"field": "dropout", "from": changes["dropout"], "to": round(draw.uniform(0, 0.8), 3)}}
        )
        try:
            note = memory.add_note(study_id, "heuristic", f"Note {seed} {number}.", (trial_id,), (), claim)
        except MemoryFault:
            note = memory.add_note(study_id, "reflection", f"Note {seed} {number}.", (trial_id,))
        print(f"note {note.heuristic_id}", flush=True)
        print(f"snapshot {memory.take_snapshot(study_id, [note.heuristic_id])}", flush=True)


def killed(path: Path, seed: int, draw: random.Random) -> list[str]:
    """One writer, killed at a random moment; answers what it had acknowledged."""
    command = [sys.executable, "-m", "benchmarks.kill_writes", "--writer", str(path), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        try:
            writer.wait(draw.uniform(0, LONGEST))
        except subprocess.TimeoutExpired:
            writer.kill()
        return (first + writer.stdout.read()).split("\n")[:-1]  # what follows the last line's end is cut short


def check(memory: Memory, acknowledged: Sequence[str]) -> int:
    """How many of the records are not there, or not whole."""
    lost = 0
    for line in acknowledged:
        kind, name = line.split()
        try:
            if kind == "study":
                memory.study(name)
            elif kind == "trial":
                lost += memory.trial(name).config["dropout"] is None
            elif kind == "result":
                trial = memory.trial(name)
                lost += (trial.status, trial.validation, len(memory.epochs(name))) != ("ok", {METRIC: 0.05}, 1)
            elif kind == "note":
                memory.note(name)
            else:
                lost += memory.snapshot(name) is None
        except MemoryFault:
            lost += 1
    return lost


def rounds(path: Path, kills: int, seed: int) -> Outcome:
    """So many writers on one file, each killed; everything is looked for after every one."""
    draw, outcome, acknowledged = random.Random(seed), Outcome(), list[str]()
    for number in range(kills):
        acknowledged += killed(path, seed * 1000 + number, draw)
        memory = Memory.open(path)
        outcome.lost = max(outcome.lost, check(memory, acknowledged))
        outcome.in_the_middle += len(memory.unfinished_trials()) > outcome.in_the_middle
        outcome.kills += 1
        memory.close()
    outcome.acknowledged = len(acknowledged)
    return outcome


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--writer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.writer is not None:
        write(given.writer, given.seed)
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as folder:
        found = rounds(Path(folder) / "memory.duckdb", given.kills, given.seed)
    heads = ["kills", "in the middle of a trial", "acknowledged records", "lost"]
    line = [str(found.kills), str(found.in_the_middle), f"{found.acknowledged:,}", str(found.lost)]
    print(json.dumps(asdict(found)) if given.as_json else table(heads, [line], 0))
    return 1 if found.lost else 0


if __name__ == "__main__":
    sys.exit(main())
