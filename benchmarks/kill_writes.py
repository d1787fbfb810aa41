"""Repeatedly kills a process that writes to memory, then checks that every acknowledged record is there.

python -m benchmarks.kill_writes [--kills 50] [--seed 0] [--json]

A process starts and finishes trials, writes claims and snapshots, and prints each id once the call has returned. It is
killed (SIGKILL) at a random moment, perhaps while it opens the file. Every printed record must be complete when the
file is opened again. All processes write to the same file.
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

from benchmarks.harness.invented import METRIC, facts, study
from benchmarks.harness.markdown import table
from memory.claim import read_claim
from memory.errors import MemoryFault
from memory.records import NewTrial
from memory.store import Memory
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import Epoch, TrialResult

LONGEST = 0.6
"""A writer is killed at most this many seconds after its first acknowledged write."""
SPACE = space_of(SPECS["sasrec"])


@dataclass
class Outcome:
    """Totals over all kills: acknowledged records, and those of them that are missing or incomplete."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    in_the_middle: int = 0
    """The number of kills that left a trial unfinished."""


def write(path: Path, seed: int) -> None:
    """Writes records until it is killed. Each line that it prints names a record that was stored before."""
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
        print(f"note {note.note_id}", flush=True)
        print(f"snapshot {memory.snapshots.take(study_id, [note.note_id])}", flush=True)


def run_until_killed(path: Path, seed: int, draw: random.Random) -> list[str]:
    """Starts a writer and kills it at a random moment; returns the lines that it had acknowledged."""
    command = [sys.executable, "-m", "benchmarks.kill_writes", "--writer", str(path), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        try:
            writer.wait(draw.uniform(0, LONGEST))
        except subprocess.TimeoutExpired:
            writer.kill()
        return (first + writer.stdout.read()).split("\n")[:-1]  # a line without its end was cut short


def check(memory: Memory, acknowledged: Sequence[str]) -> int:
    """The number of acknowledged records that are missing or incomplete."""
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
                lost += memory.snapshots.shown(name) is None
        except MemoryFault:
            lost += 1
    return lost


def rounds(path: Path, kills: int, seed: int) -> Outcome:
    """Kills `kills` writers of one file in turn, and checks all acknowledged records after each."""
    draw, outcome, acknowledged = random.Random(seed), Outcome(), list[str]()
    for number in range(kills):
        acknowledged += run_until_killed(path, seed * 1000 + number, draw)
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
    options = parser.parse_args(words)
    if options.writer is not None:
        write(options.writer, options.seed)
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as folder:
        outcome = rounds(Path(folder) / "memory.duckdb", options.kills, options.seed)
    heads = ["kills", "in the middle of a trial", "acknowledged records", "lost"]
    line = [str(outcome.kills), str(outcome.in_the_middle), f"{outcome.acknowledged:,}", str(outcome.lost)]
    print(json.dumps(asdict(outcome)) if options.as_json else table(heads, [line], 0))
    return 1 if outcome.lost else 0


if __name__ == "__main__":
    sys.exit(main())
