"""The SQL of claims: their content, evidence, verdicts and contradictions, and the landscapes they are judged on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from memory.claim import Claim
from memory.records import Study
from memory.statistics.effects import Evidence, Verdict, judge, share_of_alpha
from memory.statistics.landscape import Landscape, Run, Setting
from memory.statistics.retrieval import similar
from memory.tables.connection import Cursor, Row
from memory.tables.rows import now, stored_time
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Config, Value

_RUNS = """
    SELECT t.trial_id, t.study_id, s.filter_seen, r.trainer_version, t.config_hash, t.seed, t.position AS "order",
           p.config_hash AS parent, coalesce(r.weights_of, t.trial_id) AS weights, r.validation AS scores
    FROM trials t
    JOIN studies s ON s.study_id = t.study_id
    JOIN trial_results r ON r.trial_id = t.trial_id
    LEFT JOIN trials p ON p.trial_id = t.parent
    WHERE r.status IN ('ok', 'timed_out')
"""


def change_key(claim: Claim) -> tuple[str, int]:
    """The key of the change, and 1 or -1 for a rising or falling metric. "down" is keyed as "up", the sign reversed."""
    change = claim.change
    if change.direction is None:
        return f"to {json.dumps(change.to)}", claim.turn
    return "up", claim.turn * (1 if change.direction == "up" else -1)


def add(cursor: Cursor, heuristic_id: str, claim: Claim, forced: bool) -> float:
    """Stores the claim of a heuristic; returns the error rate that the claim may spend."""
    rows = cursor.rows("SELECT verdict FROM claim_states ORDER BY position")
    settled = [place for place, row in enumerate(rows, 1) if row["verdict"] != "insufficient"]
    key, turn = change_key(claim)
    alpha = share_of_alpha(len(rows), settled)
    cursor.run(
        """INSERT INTO claims (heuristic_id, field, backbone, metric, change_key, turn, claim, alpha, forced)
           VALUES ($id, $field, $backbone, $metric, $key, $turn, $claim, $alpha, $forced)""",
        {
            "id": heuristic_id, "field": claim.change.field, "backbone": claim.scope.backbone, "metric": claim.metric,
            "key": key, "turn": turn, "claim": claim.text(), "alpha": alpha, "forced": forced,
        },
    )  # fmt: skip
    return alpha


def same(cursor: Cursor, claim: Claim) -> str | None:
    """The id of the heuristic, not superseded, that makes exactly this claim; None without one."""
    row = cursor.row(
        """SELECT c.heuristic_id FROM claims c JOIN note_states n ON n.heuristic_id = c.heuristic_id
           WHERE c.field = $field AND c.claim = $claim AND n.superseded_by IS NULL ORDER BY c.position LIMIT 1""",
        {"field": claim.change.field, "claim": claim.text()},
    )
    return row["heuristic_id"] if row else None


def touching(cursor: Cursor, fields: Sequence[str], backbone: str) -> list[str]:
    """The ids of the claims, not superseded, on these fields that may apply to the backbone; oldest first."""
    rows = cursor.rows(
        """SELECT heuristic_id FROM claims
           WHERE list_contains($fields, field) AND (backbone IS NULL OR backbone = $backbone)
             AND heuristic_id NOT IN (SELECT unnest(supersedes) FROM notes)
           ORDER BY position""",
        {"fields": list(fields), "backbone": backbone},
    )
    return [row["heuristic_id"] for row in rows]


def written(cursor: Cursor, heuristic_ids: Sequence[str]) -> list[Row]:
    """The claim, alpha and evidence of each heuristic, as they were written."""
    return cursor.rows(
        """SELECT c.heuristic_id, c.claim, c.alpha, n.evidence
           FROM claims c JOIN notes n ON n.heuristic_id = c.heuristic_id
           WHERE c.heuristic_id IN (SELECT unnest($ids))""",
        {"ids": list(heuristic_ids)},
    )


def evidence(cursor: Cursor, heuristic_ids: Sequence[str]) -> dict[str, list[Evidence]]:
    """The newest evidence for each claim, by heuristic id; one entry for each dataset and backbone."""
    rows = cursor.rows(
        """SELECT heuristic_id, dataset_hash, backbone, n_pairs, effect, variance, df FROM last_evidence
           WHERE heuristic_id IN (SELECT unnest($ids)) ORDER BY dataset_hash, backbone""",
        {"ids": list(heuristic_ids)},
    )
    by_heuristic: dict[str, list[Evidence]] = {}
    for row in rows:
        heuristic_id = row.pop("heuristic_id")
        by_heuristic.setdefault(heuristic_id, []).append(Evidence(**row))
    return by_heuristic


def record(
    cursor: Cursor, new: Mapping[str, Sequence[Evidence]], claims: Mapping[str, tuple[Claim, float]]
) -> list[str]:
    """Stores evidence that has changed and the verdicts that follow; returns the ids of the heuristics judged again."""
    if not new:
        return []
    stored = evidence(cursor, list(new))
    new_rows: list[Row] = []
    verdicts: dict[str, Verdict] = {}
    for heuristic_id, items in new.items():
        by_place = {(old.dataset_hash, old.backbone): old for old in stored.get(heuristic_id, [])}
        changed = [item for item in items if by_place.get((item.dataset_hash, item.backbone)) != item]
        if changed:
            by_place |= {(item.dataset_hash, item.backbone): item for item in changed}
            new_rows += [{"heuristic_id": heuristic_id, **vars(item)} for item in changed]
            claim, alpha = claims[heuristic_id]
            verdicts[heuristic_id] = judge(claim, list(by_place.values()), alpha)
    _insert(cursor, "claim_evidence", new_rows)
    told_at = stored_time(now())
    rows = [{"heuristic_id": name, "told_at": told_at, **vars(verdict)} for name, verdict in verdicts.items()]
    _insert(cursor, "claim_verdicts", rows)
    return list(verdicts)


def _insert(cursor: Cursor, table: str, rows: Sequence[Row]) -> None:
    """Inserts all rows in one statement."""
    if not rows:
        return
    names = list(rows[0])
    values = {name: [row[name] for row in rows] for name in names}
    cursor.run(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(f'unnest(${name})' for name in names)}", values
    )


def contradictions(cursor: Cursor, most: int) -> list[tuple[str, str]]:
    """Pairs of claims, not superseded, that say opposite things of one change, one metric and perhaps one backbone.

    At most `most` pairs are returned, and those with a verdict come first.
    """
    rows = cursor.rows(
        """SELECT a.heuristic_id AS one, b.heuristic_id AS other
           FROM claim_states a JOIN claim_states b
               ON a.field = b.field AND a.metric = b.metric AND a.change_key = b.change_key
               AND a.turn = -b.turn AND a.position < b.position
               AND (a.backbone IS NULL OR b.backbone IS NULL OR a.backbone = b.backbone)
           WHERE a.heuristic_id NOT IN (SELECT unnest(supersedes) FROM notes)
             AND b.heuristic_id NOT IN (SELECT unnest(supersedes) FROM notes)
           ORDER BY a.verdict = 'insufficient', b.verdict = 'insufficient', a.position, b.position LIMIT $most""",
        {"most": most},
    )
    return [(row["one"], row["other"]) for row in rows]


def places(cursor: Cursor) -> list[tuple[str, str]]:
    """Every (dataset hash, backbone) that has studies, oldest first."""
    rows = cursor.rows("SELECT dataset_hash, backbone FROM studies GROUP BY ALL ORDER BY min(position)")
    return [(row["dataset_hash"], row["backbone"]) for row in rows]


def facts(cursor: Cursor) -> dict[str, DatasetFacts]:
    """The meta-features of every studied dataset, by dataset hash."""
    rows = cursor.rows("SELECT dataset_hash, any_value(facts) AS facts FROM studies GROUP BY dataset_hash")
    return {row["dataset_hash"]: DatasetFacts.model_validate_json(row["facts"]) for row in rows}


def varied(cursor: Cursor, backbone: str) -> list[str]:
    """The fields that trials of the backbone changed, the most often changed first."""
    rows = cursor.rows(
        """SELECT field FROM (
               SELECT unnest(json_keys(t.changes::JSON)) AS field
               FROM trials t JOIN studies s ON s.study_id = t.study_id WHERE s.backbone = $backbone)
           GROUP BY field ORDER BY count(*) DESC, field""",
        {"backbone": backbone},
    )
    return [row["field"] for row in rows]


def nearest(cursor: Cursor, backbone: str, facts: DatasetFacts, count: int) -> list[str]:
    """The hashes of the `count` datasets most similar to `facts` that have studies of the backbone, nearest first."""
    rows = cursor.rows(
        """SELECT dataset_hash, any_value(facts) AS facts FROM studies WHERE backbone = $backbone
           GROUP BY dataset_hash ORDER BY min(position)""",
        {"backbone": backbone},
    )
    similarity = {row["dataset_hash"]: similar(facts, DatasetFacts.model_validate_json(row["facts"])) for row in rows}
    return sorted(similarity, key=lambda name: -similarity[name])[:count]


def landscape(cursor: Cursor, dataset_hash: str, backbone: str, defaults: Mapping[str, str]) -> Landscape | None:
    """The landscape of a backbone on a dataset, None without studies; `defaults` maps study ids to default hashes."""
    at = {"dataset_hash": dataset_hash, "backbone": backbone}
    here = "s.dataset_hash = $dataset_hash AND s.backbone = $backbone"
    facts = cursor.row(f"SELECT facts FROM studies s WHERE {here} ORDER BY position DESC LIMIT 1", at)
    if facts is None:
        return None
    land = Landscape(dataset_hash, backbone, DatasetFacts.model_validate_json(facts["facts"]))
    values = cursor.rows(
        f"""SELECT f.config_hash, v.field, v.number, v.text, v.rest_hash
            FROM (SELECT t.config_hash, arg_min(t.trial_id, t.position) AS trial_id
                  FROM trials t JOIN studies s ON s.study_id = t.study_id WHERE {here} GROUP BY t.config_hash) f
            JOIN trial_values v ON v.trial_id = f.trial_id""",
        at,
    )
    configs: dict[str, Config] = {}
    rests: dict[str, dict[str, str]] = {}
    for row in values:
        value: Value = row["number"] if row["text"] is None else row["text"]
        configs.setdefault(row["config_hash"], {})[row["field"]] = value
        rests.setdefault(row["config_hash"], {})[row["field"]] = row["rest_hash"]
    for row in cursor.rows(f"{_RUNS} AND {here} ORDER BY t.position", at):
        land.add(_run(row, defaults), configs.get(row["config_hash"], {}), rests.get(row["config_hash"], {}))
    return land


def run(cursor: Cursor, trial_id: str, study: Study) -> Run | None:
    """One trial as a run of its landscape; None where the trial has no score."""
    row = cursor.row(f"{_RUNS} AND t.trial_id = $id", {"id": trial_id})
    return _run(row, {study.study_id: study.space.hash(study.space.default())}) if row else None


def _run(row: Row, defaults: Mapping[str, str]) -> Run:
    parent = row["parent"] if row["parent"] != row["config_hash"] else None
    return Run(
        trial_id=row["trial_id"], setting=Setting(row["filter_seen"], row["trainer_version"]),
        config_hash=row["config_hash"], seed=row["seed"], order=row["order"], parent=parent,
        is_default=defaults.get(row["study_id"]) == row["config_hash"], weights=row["weights"], scores=row["scores"],
    )  # fmt: skip
