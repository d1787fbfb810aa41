"""The SQL that exports a pack of this home, and imports or quarantines packs of others.

Imported trainings are kept apart from this home's own trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from memory.claims.book import ClaimBook
from memory.exchange.fit import claim_of, misfits
from memory.exchange.pack_format import Imported, NewerPack, Pack, PackDataset, PackHeuristic, PackLine, PackTrial
from memory.statistics.elsewhere import FEWEST, POINTS, Elsewhere, Point, thinned
from memory.statistics.noise import estimate
from memory.statistics.retrieval import similar
from memory.tables import claim_rows
from memory.tables.connection import Connection, Cursor, Row
from memory.tables.note_cache import NoteCache
from memory.tables.rows import as_json, checked_text, new_id, now, read, stored_time
from trainers.contract.facts import DatasetFacts
from trainers.contract.fields import space_of
from trainers.contract.space import Space
from trainers.contract.specs import SPECS

UNVERIFIED = 0.5
"""Factor for the similarity of a dataset from a pack, because this home has not checked its trainings."""


class Packs:
    """Exports and imports packs of one memory file. Every method is one transaction, safe from any thread."""

    def __init__(self, connection: Connection, book: ClaimBook, note_cache: NoteCache) -> None:
        self._connection, self._book, self._note_cache = connection, book, note_cache

    def export(self, name: str) -> Pack:
        """A pack called `name` with everything that this home has learned."""
        with self._connection.read() as cursor:
            return export(cursor, name)

    def take_in(self, pack: Pack | NewerPack, own: Mapping[str, Space] = MappingProxyType({})) -> Imported:
        """Stores the new entries of a pack that read_pack has checked: all of them, or none if that fails.

        A pack with anything unknown is quarantined as a whole. `own` has the spaces of the user's own trainers by name.
        """
        spaces = {**{name: space_of(spec) for name, spec in SPECS.items()}, **own}
        reasons = misfits(pack, spaces)
        with self._connection.write() as cursor:
            if isinstance(pack, NewerPack) or reasons:
                return _quarantine(cursor, pack, reasons)
            imported, note_ids = take_in(cursor, self._book, pack, spaces)
        self._note_cache.refresh(note_ids)
        return imported

    def all(self) -> list[PackLine]:
        """Every pack that was imported or quarantined here, in the order in which they came."""
        with self._connection.read() as cursor:
            rows = cursor.rows(
                """SELECT name, digest, imported_at, position, []::VARCHAR[] AS quarantined,
                          (SELECT count(*) FROM pack_notes n WHERE n.pack_id = p.pack_id) AS heuristics,
                          (SELECT count(*) FROM pack_trials t WHERE t.pack_id = p.pack_id) AS trials FROM packs p
                   UNION ALL BY NAME
                   SELECT name, digest, quarantined_at AS imported_at, position, reasons AS quarantined,
                          0 AS heuristics, 0 AS trials FROM quarantined_packs
                   ORDER BY position"""
            )
        return [PackLine.model_validate({name: read(row)[name] for name in PackLine.model_fields}) for row in rows]


def export(cursor: Cursor, name: str) -> Pack:
    """The current heuristics and summaries of this home, its scored trainings and their datasets; no test scores."""
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


def _quarantine(cursor: Cursor, pack: Pack | NewerPack, reasons: list[str]) -> Imported:
    """Stores why nothing of the pack was taken, in place of earlier reasons."""
    values = {
        "digest": pack.digest, "now": stored_time(now()), "name": checked_text("name", pack.name), "reasons": reasons
    }  # fmt: skip
    cursor.run("DELETE FROM quarantined_packs WHERE digest = $digest", {"digest": pack.digest})
    cursor.run(
        """INSERT INTO quarantined_packs (digest, quarantined_at, name, reasons)
           VALUES ($digest, $now, $name, $reasons::VARCHAR[])""",
        values,
    )
    return Imported(pack_id=None, name=pack.name, quarantined=tuple(reasons))


class _Known(Exception):
    """This home has the entry already; the message says where."""


def take_in(cursor: Cursor, book: ClaimBook, pack: Pack, spaces: Mapping[str, Space]) -> tuple[Imported, list[str]]:
    """Stores the new entries of a pack that fits. Returns the result and the ids of the notes that were written.

    Claims are judged by this home's own trials only. Entries that this home already has are left out.
    """
    if cursor.row("SELECT 1 FROM packs WHERE digest = $digest", {"digest": pack.digest}):
        return Imported(pack_id=None, name=pack.name, left_out=("It was imported before.",)), []
    cursor.run("DELETE FROM quarantined_packs WHERE digest = $digest", {"digest": pack.digest})
    pack_id, left_out, note_ids = new_id("p"), list[str](), list[str]()
    values = {"id": pack_id, "now": stored_time(now()), "name": checked_text("name", pack.name), "digest": pack.digest}
    cursor.run("INSERT INTO packs (pack_id, imported_at, name, digest) VALUES ($id, $now, $name, $digest)", values)
    for heuristic in pack.heuristics:
        try:
            note_ids.append(_add_note(cursor, book, pack_id, heuristic, spaces))
        except _Known as known:
            left_out.append(f"{heuristic.text[:60]!r}: {known}")
    for dataset in pack.datasets:
        cursor.run(
            "INSERT INTO pack_datasets VALUES ($pack_id, $dataset_hash, $name, $facts)",
            {"pack_id": pack_id, "dataset_hash": dataset.dataset_hash, "name": dataset.name,
             "facts": dataset.facts.model_dump_json()},
        )  # fmt: skip
    trials = _add_trials(cursor, pack_id, pack.trials)
    return Imported(
        pack_id=pack_id, name=pack.name, heuristics=len(note_ids), trials=trials, left_out=tuple(left_out)
    ), note_ids


def _add_note(
    cursor: Cursor, book: ClaimBook, pack_id: str, heuristic: PackHeuristic, spaces: Mapping[str, Space]
) -> str:
    """Stores one heuristic or summary with its claim; returns its id. Raises _Known where this home has it already."""
    claim = claim_of(heuristic, spaces)
    if claim is not None and (same_id := claim_rows.same(cursor, claim)) is not None:
        raise _Known(f"{same_id} claims the same.")
    text = checked_text(heuristic.kind, heuristic.text)
    query = "SELECT heuristic_id FROM notes WHERE kind = $kind AND text = $text"
    if (row := cursor.row(query, {"kind": heuristic.kind, "text": text})) is not None:
        raise _Known(f"{row['heuristic_id']} says the same.")
    heuristic_id = new_id("h")
    cursor.run(
        """INSERT INTO notes (heuristic_id, study_id, created_at, kind, text, evidence, supersedes)
           VALUES ($id, $study_id, $now, $kind, $text, []::VARCHAR[], []::VARCHAR[])""",
        {"id": heuristic_id, "study_id": pack_id, "now": stored_time(now()), "kind": heuristic.kind, "text": text},
    )
    cursor.run(
        "INSERT INTO pack_notes VALUES ($id, $pack_id, $dataset, $backbone)",
        {"id": heuristic_id, "pack_id": pack_id, "dataset": checked_text("name", heuristic.dataset),
         "backbone": checked_text("name", heuristic.backbone)},
    )  # fmt: skip
    if claim is not None:
        book.take_in(cursor, heuristic_id, claim)
    return heuristic_id


def _add_trials(cursor: Cursor, pack_id: str, trials: Sequence[PackTrial]) -> int:
    """Stores the trainings that this home does not have yet; returns their number."""
    if not trials:
        return 0
    existing = {
        (row["dataset_hash"], row["config_hash"], row["seed"])
        for row in cursor.rows(
            """SELECT s.dataset_hash, t.config_hash, t.seed FROM trials t JOIN studies s ON s.study_id = t.study_id
               UNION ALL SELECT dataset_hash, config_hash, seed FROM pack_trials"""
        )
    }
    new = [trial for trial in trials if (trial.dataset_hash, trial.config_hash, trial.seed) not in existing]
    columns = ("dataset_hash", "backbone", "filter_seen", "trainer_version", "config_hash", "seed")
    values: dict[str, object] = {name: [getattr(trial, name) for trial in new] for name in columns}
    cursor.run(
        """INSERT INTO pack_trials
           SELECT $pack_id, unnest($dataset_hash::VARCHAR[]), unnest($backbone::VARCHAR[]),
                  unnest($filter_seen::VARCHAR[]), unnest($trainer_version::VARCHAR[]), unnest($config_hash::VARCHAR[]),
                  unnest($config::VARCHAR[]), unnest($seed::BIGINT[]),
                  unnest($scores::VARCHAR[])::JSON::MAP(VARCHAR, DOUBLE)""",
        {**values, "pack_id": pack_id, "config": [as_json(trial.config) for trial in new],
         "scores": [as_json(trial.scores) for trial in new]},
    )  # fmt: skip
    return len(new)


def elsewhere(cursor: Cursor, backbone: str, facts: DatasetFacts, metric: str) -> list[Elsewhere]:
    """Scores of imported trainings of the backbone, by dataset and setting; the most similar dataset first."""
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
    datasets: list[Elsewhere] = []
    for (dataset_hash, _, _), group in groups.items():
        dataset_facts = DatasetFacts.model_validate_json(group[0]["facts"])
        points = [
            Point(json.loads(row["config"]), sum(row["scores"]) / len(row["scores"]), len(row["scores"]))
            for row in group
        ]
        if len(points) >= FEWEST:
            sigma = estimate([row["scores"] for row in group], dataset_facts.measured_users).sigma
            points.sort(key=lambda point: -point.mean)
            datasets.append(
                Elsewhere(
                    dataset_hash, UNVERIFIED * similar(facts, dataset_facts), sigma, tuple(thinned(points, POINTS))
                )
            )
    return sorted(datasets, key=lambda item: -item.similarity)
