"""How fast memory answers when it is large: 100,000 trials and 5,000 heuristics with claims, on 50 datasets.

python -m benchmarks.memory_scale [--trials 100000] [--heuristics 5000] [--datasets 50] [--runs 30] [--json]

Bulk inserts fill the store with random scores. Then each run times what the server does: read_memory through an
in-memory client, the insert of a trial, and its result with all verdicts that it changes. The table shows the median
and the slowest run of each operation. The first run is shown separately, because it fills the caches.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import anyio
from mcp import Client

from benchmarks.harness.invented import METRIC, facts, study
from benchmarks.harness.markdown import table
from memory.claim import Claim
from memory.records import NewTrial, Study
from memory.store import Memory
from memory.tables.claim_rows import change_key
from memory.tables.connection import Connection
from memory.tables.rows import as_json, new_id, value_columns
from server.executors.testing.stub import StubExecutor
from server.owner.assembly import open_runtime
from server.policies.sampling import values_of
from server.settings import Settings
from server.tools.app import create_app
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import TrialResult

PER_STUDY = 200
CONFIGURATIONS = 1000
BATCH = 5000
VARIED_SHARE = 0.5
SPACE = space_of(SPECS["sasrec"])
VARIED: dict[str, Sequence[Any]] = {
    "dropout": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "learning_rate": (0.0003, 0.001, 0.002, 0.003, 0.005),
    "hidden_dim": (32, 64, 128, 256), "num_blocks": (1, 2, 3), "batch_size": (128, 256, 512),
    "weight_decay": (0.0, 1e-6, 1e-5), "beta2": (0.98, 0.999),
}  # fmt: skip


def configurations(draw: Random) -> list[Config]:
    """Distinct configurations. Each changes one field of an earlier one, so matched pairs exist."""
    configs = {SPACE.hash(SPACE.default()): SPACE.default()}
    while len(configs) < CONFIGURATIONS:
        base = draw.choice(list(configs.values()))
        name = draw.choice(list(VARIED))
        config = {**base, name: draw.choice(VARIED[name])}
        configs.setdefault(SPACE.hash(config), SPACE.check(config))
    return list(configs.values())


def study_of(study_id: str, dataset: int) -> Study:
    """A study on dataset number `dataset`. The datasets differ in size."""
    dataset_facts = facts(users=1000 * (dataset + 1), mean_length=5.0 + dataset)
    return study(SPACE, f"d{dataset}", dataset_facts, study_id=study_id, policy="client")


def fill(path: Path, trials: int, heuristics: int, datasets: int) -> str:
    """Fills the store and returns the id of its last study."""
    draw = Random(0)
    memory = Memory.open(path)
    studies = [study_of(f"s-{number}", number % datasets) for number in range(max(1, trials // PER_STUDY))]
    for record in studies:
        memory.add_study(record)
    memory.close()
    configs = configurations(draw)
    columns = [value_columns(SPACE, config) for config in configs]
    hashes, texts = [SPACE.hash(config) for config in configs], [as_json(config) for config in configs]
    connection = Connection(path)
    for start in range(0, trials, BATCH):
        picked = [draw.randrange(len(configs)) for _ in range(min(BATCH, trials - start))]
        _insert_trials(connection, start, picked, hashes, texts, studies, draw)
        _insert_values(connection, start, picked, columns)
    _insert_heuristics(connection, heuristics, studies, draw)
    connection.checkpoint()
    connection.close()
    return studies[-1].study_id


def _insert_trials(
    connection: Connection, start: int, picked: Sequence[int], hashes: Sequence[str], texts: Sequence[str],
    studies: Sequence[Study], draw: Random,
) -> None:  # fmt: skip
    ids = [f"t-{start + place}" for place in range(len(picked))]
    values = {
        "ids": ids,
        "studies": [studies[(start + place) // PER_STUDY % len(studies)].study_id for place in range(len(ids))],
        "numbers": [place % PER_STUDY for place in range(len(ids))], "configs": [texts[index] for index in picked],
        "hashes": [hashes[index] for index in picked], "seeds": [draw.randrange(1000) for _ in ids],
        "scores": [0.05 * draw.gauss(1, 0.05) for _ in ids], "now": datetime(2026, 1, 1),
    }  # fmt: skip
    with connection.write() as cursor:
        cursor.run(
            """INSERT INTO trials (trial_id, study_id, number, created_at, parent, changes, config, config_hash, seed,
                                   replicate_of, hypothesis, expected, cites, snapshot_id, request_key, fingerprint)
               SELECT unnest($ids), unnest($studies), unnest($numbers), $now, NULL, '{}', unnest($configs),
                      unnest($hashes), unnest($seeds), NULL, NULL, NULL, [], NULL, NULL, NULL""",
            {name: values[name] for name in ("ids", "studies", "numbers", "configs", "hashes", "seeds", "now")},
        )
        cursor.run(
            """INSERT INTO trial_results (trial_id, ended_at, status, message, validation, best_epoch, epochs, seconds,
                                          eval_seconds, trainer_version, versions)
               SELECT id, $now, 'ok', '', map(['ndcg@10', 'recall@10'], [score, 2 * score]), 5, 9, 20.0, 1.0, '2',
                      MAP {}
               FROM (SELECT unnest($ids) AS id, unnest($scores) AS score)""",
            {name: values[name] for name in ("ids", "scores", "now")},
        )


def _insert_values(
    connection: Connection, start: int, picked: Sequence[int], columns: Sequence[dict[str, Any]]
) -> None:
    rows: dict[str, list[Any]] = {"ids": [], "fields": [], "numbers": [], "texts": [], "rests": []}
    for place, index in enumerate(picked):
        for name in ("fields", "numbers", "texts", "rests"):
            rows[name] += columns[index][name]
        rows["ids"] += [f"t-{start + place}"] * len(columns[index]["fields"])
    with connection.write() as cursor:
        cursor.run(
            """INSERT INTO trial_values SELECT unnest($ids), unnest($fields), unnest($numbers::DOUBLE[]),
                      unnest($texts::VARCHAR[]), unnest($rests)""",
            rows,
        )


def _draw_change(draw: Random) -> tuple[str, Any, Any]:
    """A random change for a claim: (field, from, to). Half of the changes are to fields that the trials vary."""
    if draw.random() < VARIED_SHARE:
        name = draw.choice(list(VARIED))
        return (name, *draw.sample(list(VARIED[name]), 2))
    others = [field for field in SPACE.free() if field.name not in VARIED and len(set(values_of(field))) > 1]
    field = draw.choice(others)
    return (field.name, *draw.sample(values_of(field), 2))


def _insert_heuristics(connection: Connection, count: int, studies: Sequence[Study], draw: Random) -> None:
    rows: dict[str, list[Any]] = {name: [] for name in ("ids", "studies", "texts", "fields", "keys", "turns", "claims")}
    for number in range(count):
        name, before, after = _draw_change(draw)
        scope = {"dataset": [{"fact": "users", "op": ">", "value": draw.randrange(100_000)}]}
        change = {"field": name, "from": before, "to": after}
        claim = Claim.model_validate({"scope": scope, "change": change, "sign": draw.choice("+-")})
        key, turn = change_key(claim)
        values = (
            f"h-{number}",
            draw.choice(studies).study_id,
            f"Lesson {number}: {claim.words()}.",
            name,
            key,
            turn,
            claim.text(),
        )
        for column, value in zip(rows, values, strict=True):
            rows[column].append(value)
    with connection.write() as cursor:
        cursor.run(
            """INSERT INTO notes (heuristic_id, study_id, created_at, kind, text, evidence, supersedes)
               SELECT unnest($ids), unnest($studies), $now, 'heuristic', unnest($texts), [], []""",
            {name: rows[name] for name in ("ids", "studies", "texts")} | {"now": datetime(2026, 1, 1)},
        )
        cursor.run(
            """INSERT INTO claims (heuristic_id, field, backbone, metric, change_key, turn, claim, alpha, forced)
               SELECT unnest($ids), unnest($fields), NULL, 'ndcg@10', unnest($keys), unnest($turns), unnest($claims),
                      0.001, false""",
            {name: rows[name] for name in ("ids", "fields", "keys", "turns", "claims")},
        )


async def measure(home: Path, study_id: str, runs: int) -> dict[str, list[float]]:
    """Runs every operation `runs` times. Returns the milliseconds of each run by operation."""
    times: dict[str, list[float]] = {}
    settings = Settings(home=home)

    def record(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(1000 * seconds)

    async with open_runtime(settings, StubExecutor()) as runtime, Client(create_app(runtime)) as client:
        memory, draw = runtime.memory, Random(1)
        reads: dict[str, dict[str, Any]] = {
            "read_memory, a study": {"study_id": study_id},
            "read_memory, heuristics": {"study_id": study_id, "level": "heuristic"},
            "read_memory, a query": {"study_id": study_id, "query": "dropout learning rate"},
        }
        for _ in range(runs):
            for name, arguments in reads.items():
                began = time.perf_counter()
                answer = await client.call_tool("read_memory", arguments)
                record(name, time.perf_counter() - began)
                assert not answer.is_error, answer.content
            _run_trial(memory, study_id, draw, record)
    return times


def _run_trial(memory: Memory, study_id: str, draw: Random, record: Callable[[str, float], None]) -> None:
    name = draw.choice(list(VARIED))
    config = SPACE.check({**SPACE.default(), name: draw.choice(VARIED[name])})
    new = NewTrial(
        study_id=study_id, parent=None, changes={}, config=config, config_hash=SPACE.hash(config),
        seed=draw.randrange(2**31), request_key=new_id("k"),
    )  # fmt: skip
    began = time.perf_counter()
    trial = memory.start_trial(new)
    record("insert a trial", time.perf_counter() - began)
    result = TrialResult(
        trial_id=trial.trial_id, status="ok", validation={METRIC: 0.05 * draw.gauss(1, 0.05)}, epochs=1
    )
    began = time.perf_counter()
    memory.finish_trial(result)
    record("its result and all verdicts", time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory_scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100_000, metavar="N")
    parser.add_argument("--heuristics", type=int, default=5_000, metavar="N")
    parser.add_argument("--datasets", type=int, default=50, metavar="N")
    parser.add_argument("--runs", type=int, default=30, metavar="N")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="virtualmle-bench-") as scratch:
        home = Path(scratch)
        study_id = fill(Settings(home=home).database, options.trials, options.heuristics, options.datasets)
        times_by_operation = anyio.run(measure, home, study_id, options.runs)
    lines = [
        [name, f"{median(times[1:] or times):.1f}", f"{max(times[1:] or times):.1f}", f"{times[0]:.0f}"]
        for name, times in times_by_operation.items()
    ]
    heads = ["operation", "median, ms", "slowest, ms", "first, ms"]
    print(json.dumps(times_by_operation) if options.as_json else table(heads, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
