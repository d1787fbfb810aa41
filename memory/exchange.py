"""Between homes: the SQL that writes a pack of this one, and takes in one of another's, apart from our own trials."""

from __future__ import annotations

import json
from collections.abc import Sequence

from memory import claim_rows
from memory.claim_book import ClaimBook
from memory.claims import Claim, ClaimError, checked, read_claim
from memory.connection import Connection, Cursor, Row
from memory.elsewhere import FEWEST, POINTS, Elsewhere, Point, thinned
from memory.errors import MemoryFault
from memory.noise import estimate
from memory.notebook import Notebook
from memory.pack import Imported, Pack, PackDataset, PackHeuristic, PackTrial
from memory.retrieval import similar
from memory.rows import as_json, checked_text, new_id, now, stored_time
from trainers.fields import space_of
from trainers.spec import SPECS, DatasetFacts

UNVERIFIED = 0.5
"""Of its similarity: how much a dataset counts of which nothing was trained here."""


class Packs:
    """Packs of one memory file. Every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection, book: ClaimBook, notebook: Notebook) -> None:
        self._connection, self._book, self._notebook = connection, book, notebook

    def export(self, name: str) -> Pack:
        """All that was learned here, under a name."""
        with self._connection.read() as cursor:
            return export(cursor, name)

    def take_in(self, pack: Pack) -> Imported:
        """Stores what is new of a pack that read_pack has passed: all of it or, on a fault, nothing."""
        with self._connection.write() as cursor:
            answer, written = take_in(cursor, self._book, pack)
        self._notebook.refresh(written)
        return answer


def export(cursor: Cursor, name: str) -> Pack:
    """What was learned here: standing heuristics and summaries, scored trainings, their datasets; no test scores."""
    datasets = cursor.rows(
        """SELECT dataset_hash, any_value(dataset) AS name, any_value(facts) AS facts
           FROM studies GROUP BY dataset_hash ORDER BY min(position)"""
    )
    heuristics = cursor.rows(
        """SELECT kind, text, claim, dataset, backbone, verdict FROM note_states
           WHERE kind IN ('heuristic', 'summary') AND superseded_by IS NULL
             AND heuristic_id NOT IN (SELECT heuristic_id FROM pack_notes) ORDER BY position"""
    )
    trials = cursor.rows(
        """SELECT s.dataset_hash, s.backbone, s.filter_seen, r.trainer_version, t.config_hash, t.config, t.seed,
                  r.validation AS scores
           FROM trials t JOIN studies s ON s.study_id = t.study_id JOIN trial_results r ON r.trial_id = t.trial_id
           WHERE r.status IN ('ok', 'timed_out') AND cardinality(r.validation) > 0 ORDER BY t.position"""
    )
    return Pack(
        name=name,
        datasets=tuple(PackDataset.model_validate({**row, "facts": json.loads(row["facts"])}) for row in datasets),
        heuristics=tuple(PackHeuristic.model_validate(row) for row in heuristics),
        trials=tuple(PackTrial.model_validate({**row, "config": json.loads(row["config"])}) for row in trials),
    ).sealed()


def take_in(cursor: Cursor, book: ClaimBook, pack: Pack) -> tuple[Imported, list[str]]:
    """Stores what is new of a pack, and answers what that was and which notes it wrote.

    A claim is judged by our own trials only. What is unreadable, known already or of unknown fields is left out.
    """
    if cursor.row("SELECT 1 FROM packs WHERE digest = $digest", {"digest": pack.digest}):
        return Imported(pack_id=None, name=pack.name, left_out=("It was imported before.",)), []
    pack_id, left_out, written = new_id("p"), list[str](), list[str]()
    values = {"id": pack_id, "now": stored_time(now()), "name": checked_text("name", pack.name), "digest": pack.digest}
    cursor.run("INSERT INTO packs (pack_id, imported_at, name, digest) VALUES ($id, $now, $name, $digest)", values)
    for one in pack.heuristics:
        try:
            written.append(_note(cursor, book, pack_id, one))
        except MemoryFault as fault:
            left_out.append(f"{one.text[:60]!r}: {fault}")
    for dataset in pack.datasets:
        cursor.run(
            "INSERT INTO pack_datasets VALUES ($pack_id, $dataset_hash, $name, $facts)",
            {"pack_id": pack_id, "dataset_hash": dataset.dataset_hash, "name": dataset.name,
             "facts": dataset.facts.model_dump_json()},
        )  # fmt: skip
    stored = _trials(cursor, pack_id, pack.trials)
    return Imported(
        pack_id=pack_id, name=pack.name, heuristics=len(written), trials=stored, left_out=tuple(left_out)
    ), written


def _note(cursor: Cursor, book: ClaimBook, pack_id: str, one: PackHeuristic) -> str:
    """Stores one heuristic or summary with its claim; raises MemoryFault where it is to be left out."""
    claim = None if one.claim is None else _claim(one)
    if claim is not None and (known := claim_rows.same(cursor, claim)) is not None:
        raise MemoryFault(f"{known} claims the same.")
    text = checked_text(one.kind, one.text)
    same = "SELECT heuristic_id FROM notes WHERE kind = $kind AND text = $text"
    if (row := cursor.row(same, {"kind": one.kind, "text": text})) is not None:
        raise MemoryFault(f"{row['heuristic_id']} says the same.")
    heuristic_id = new_id("h")
    cursor.run(
        """INSERT INTO notes (heuristic_id, study_id, created_at, kind, text, evidence, supersedes)
           VALUES ($id, $study_id, $now, $kind, $text, []::VARCHAR[], []::VARCHAR[])""",
        {"id": heuristic_id, "study_id": pack_id, "now": stored_time(now()), "kind": one.kind, "text": text},
    )
    cursor.run(
        "INSERT INTO pack_notes VALUES ($id, $pack_id, $dataset, $backbone)",
        {"id": heuristic_id, "pack_id": pack_id, "dataset": checked_text("name", one.dataset),
         "backbone": checked_text("name", one.backbone)},
    )  # fmt: skip
    if claim is not None:
        book.take_in(cursor, heuristic_id, claim)
    return heuristic_id


def _claim(one: PackHeuristic) -> Claim:
    """The claim as one of the built-in spaces takes it: that of its backbone, or of any where it names none."""
    claim = read_claim(one.claim)
    specs = [SPECS[claim.scope.backbone]] if claim.scope.backbone in SPECS else []
    if not specs and claim.scope.backbone is not None:
        raise ClaimError(f"There is no backbone {claim.scope.backbone!r} here.")
    faults: list[ClaimError] = []
    for spec in specs or SPECS.values():
        try:
            return checked(claim, space_of(spec))
        except ClaimError as fault:
            faults.append(fault)
    raise faults[0]


def _trials(cursor: Cursor, pack_id: str, trials: Sequence[PackTrial]) -> int:
    """Stores the trainings that were not done here; answers how many."""
    if not trials:
        return 0
    own = {
        (row["dataset_hash"], row["config_hash"], row["seed"])
        for row in cursor.rows(
            """SELECT s.dataset_hash, t.config_hash, t.seed FROM trials t JOIN studies s ON s.study_id = t.study_id
               UNION ALL SELECT dataset_hash, config_hash, seed FROM pack_trials"""
        )
    }
    new = [one for one in trials if (one.dataset_hash, one.config_hash, one.seed) not in own]
    columns = ("dataset_hash", "backbone", "filter_seen", "trainer_version", "config_hash", "seed")
    values: dict[str, object] = {name: [getattr(one, name) for one in new] for name in columns}
    cursor.run(
        """INSERT INTO pack_trials
           SELECT $pack_id, unnest($dataset_hash::VARCHAR[]), unnest($backbone::VARCHAR[]),
                  unnest($filter_seen::VARCHAR[]), unnest($trainer_version::VARCHAR[]), unnest($config_hash::VARCHAR[]),
                  unnest($config::VARCHAR[]), unnest($seed::BIGINT[]),
                  unnest($scores::VARCHAR[])::JSON::MAP(VARCHAR, DOUBLE)""",
        {**values, "pack_id": pack_id, "config": [as_json(one.config) for one in new],
         "scores": [as_json(one.scores) for one in new]},
    )  # fmt: skip
    return len(new)


def elsewhere(cursor: Cursor, backbone: str, facts: DatasetFacts, metric: str) -> list[Elsewhere]:
    """What imported trainings of the backbone say, by dataset and setting; the most similar first."""
    rows = cursor.rows(
        """SELECT t.dataset_hash, t.filter_seen, t.trainer_version, t.config_hash, any_value(t.config) AS config,
                  list(t.scores[$metric]) AS scores, any_value(d.facts) AS facts
           FROM pack_trials t JOIN pack_datasets d ON d.pack_id = t.pack_id AND d.dataset_hash = t.dataset_hash
           WHERE t.backbone = $backbone AND t.scores[$metric] IS NOT NULL GROUP BY ALL""",
        {"backbone": backbone, "metric": metric},
    )
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["dataset_hash"], row["filter_seen"], row["trainer_version"]), []).append(row)
    found: list[Elsewhere] = []
    for (dataset_hash, _, _), group in groups.items():
        theirs = DatasetFacts.model_validate_json(group[0]["facts"])
        points = [
            Point(json.loads(row["config"]), sum(row["scores"]) / len(row["scores"]), len(row["scores"]))
            for row in group
        ]
        if len(points) >= FEWEST:
            sigma = estimate([row["scores"] for row in group], theirs.measured_users).sigma
            points.sort(key=lambda point: -point.mean)
            found.append(
                Elsewhere(dataset_hash, UNVERIFIED * similar(facts, theirs), sigma, tuple(thinned(points, POINTS)))
            )
    return sorted(found, key=lambda one: -one.similarity)
