"""The SQL of claims: what they say, the evidence for them, their verdicts and their contradictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from memory.claims import Claim
from memory.connection import Cursor, Row
from memory.effects import Evidence, Verdict, judge, share_of_alpha
from memory.landscape import Landscape, Run, Setting
from memory.records import Study
from memory.retrieval import similar
from memory.rows import now, stored_time
from trainers.space import Config, Value
from trainers.spec import DatasetFacts

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
    """What is changed, and which way the claim says that the metric goes: up is 1. Down of up is up of down."""
    change = claim.change
    if change.direction is None:
        return f"to {json.dumps(change.to)}", claim.turn
    return "up", claim.turn * (1 if change.direction == "up" else -1)


def add(cursor: Cursor, heuristic_id: str, claim: Claim, forced: bool) -> float:
    """Stores the claim of a heuristic, and answers what it may spend on being wrong."""
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
    """The standing heuristic that claims exactly this, if there is one."""
    row = cursor.row(
        """SELECT c.heuristic_id FROM claims c JOIN note_states n ON n.heuristic_id = c.heuristic_id
           WHERE c.field = $field AND c.claim = $claim AND n.superseded_by IS NULL ORDER BY c.position LIMIT 1""",
        {"field": claim.change.field, "claim": claim.text()},
    )
    return row["heuristic_id"] if row else None


def touching(cursor: Cursor, fields: Sequence[str], backbone: str) -> list[str]:
    """The standing claims over any of these fields that may speak of the backbone, oldest first."""
    rows = cursor.rows(
        """SELECT heuristic_id FROM claims
           WHERE list_contains($fields, field) AND (backbone IS NULL OR backbone = $backbone)
             AND heuristic_id NOT IN (SELECT unnest(supersedes) FROM notes)
           ORDER BY position""",
        {"fields": list(fields), "backbone": backbone},
    )
    return [row["heuristic_id"] for row in rows]


def written(cursor: Cursor, heuristic_ids: Sequence[str]) -> list[Row]:
    """Claim, alpha and evidence of heuristics, as they were written."""
    return cursor.rows(
        """SELECT c.heuristic_id, c.claim, c.alpha, n.evidence
           FROM claims c JOIN notes n ON n.heuristic_id = c.heuristic_id
           WHERE c.heuristic_id IN (SELECT unnest($ids))""",
        {"ids": list(heuristic_ids)},
    )


def evidence(cursor: Cursor, heuristic_ids: Sequence[str]) -> dict[str, list[Evidence]]:
    """The newest evidence of each claim, by dataset."""
    rows = cursor.rows(
        """SELECT heuristic_id, dataset_hash, backbone, n_pairs, effect, variance, df FROM last_evidence
           WHERE heuristic_id IN (SELECT unnest($ids)) ORDER BY dataset_hash, backbone""",
        {"ids": list(heuristic_ids)},
    )
    found: dict[str, list[Evidence]] = {}
    for row in rows:
        heuristic_id = row.pop("heuristic_id")
        found.setdefault(heuristic_id, []).append(Evidence(**row))
    return found


def record(
    cursor: Cursor, new: Mapping[str, Sequence[Evidence]], claims: Mapping[str, tuple[Claim, float]]
) -> list[str]:
    """Stores what is new of the evidence and the verdicts that it gives; answers whose it were."""
    if not new:
        return []
    known = evidence(cursor, list(new))
    fresh: list[Row] = []
    verdicts: dict[str, Verdict] = {}
    for heuristic_id, found in new.items():
        there = {(old.dataset_hash, old.backbone): old for old in known.get(heuristic_id, [])}
        changed = [one for one in found if there.get((one.dataset_hash, one.backbone)) != one]
        if changed:
            there |= {(one.dataset_hash, one.backbone): one for one in changed}
            fresh += [{"heuristic_id": heuristic_id, **vars(one)} for one in changed]
            verdicts[heuristic_id] = judge(claims[heuristic_id][0], list(there.values()), claims[heuristic_id][1])
    _insert(cursor, "claim_evidence", fresh)
    told_at = stored_time(now())
    rows = [{"heuristic_id": name, "told_at": told_at, **vars(one)} for name, one in verdicts.items()]
    _insert(cursor, "claim_verdicts", rows)
    return list(verdicts)


def _insert(cursor: Cursor, table: str, rows: Sequence[Row]) -> None:
    """All rows in one statement."""
    if not rows:
        return
    names = list(rows[0])
    values = {name: [row[name] for row in rows] for name in names}
    cursor.run(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(f'unnest(${name})' for name in names)}", values
    )


def contradictions(cursor: Cursor, most: int) -> list[tuple[str, str]]:
    """Standing claims of the same change and metric that say opposite things and may speak of the same backbone.

    Those that something is known of come first.
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
    """Every dataset content and backbone that has studies, oldest first."""
    rows = cursor.rows("SELECT dataset_hash, backbone FROM studies GROUP BY ALL ORDER BY min(position)")
    return [(row["dataset_hash"], row["backbone"]) for row in rows]


def facts(cursor: Cursor) -> dict[str, DatasetFacts]:
    """The meta-features of every dataset content that was studied."""
    rows = cursor.rows("SELECT dataset_hash, any_value(facts) AS facts FROM studies GROUP BY dataset_hash")
    return {row["dataset_hash"]: DatasetFacts.model_validate_json(row["facts"]) for row in rows}


def varied(cursor: Cursor, backbone: str) -> list[str]:
    """The fields of which studies of the backbone have trained more than one value, most often varied first."""
    rows = cursor.rows(
        """SELECT field FROM (
               SELECT unnest(json_keys(t.changes::JSON)) AS field
               FROM trials t JOIN studies s ON s.study_id = t.study_id WHERE s.backbone = $backbone)
           GROUP BY field ORDER BY count(*) DESC, field""",
        {"backbone": backbone},
    )
    return [row["field"] for row in rows]


def nearest(cursor: Cursor, backbone: str, facts: DatasetFacts, count: int) -> list[str]:
    """The dataset contents with studies of the backbone that are most like `facts`, the nearest first."""
    rows = cursor.rows(
        """SELECT dataset_hash, any_value(facts) AS facts FROM studies WHERE backbone = $backbone
           GROUP BY dataset_hash ORDER BY min(position)""",
        {"backbone": backbone},
    )
    known = {row["dataset_hash"]: similar(facts, DatasetFacts.model_validate_json(row["facts"])) for row in rows}
    return sorted(known, key=lambda name: -known[name])[:count]


def landscape(cursor: Cursor, dataset_hash: str, backbone: str, defaults: Mapping[str, str]) -> Landscape | None:
    """All that is known of a backbone on a dataset; `defaults` are hashes of default configurations, by study."""
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
    """One trial as a run; None where it has no score."""
    row = cursor.row(f"{_RUNS} AND t.trial_id = $id", {"id": trial_id})
    return _run(row, {study.study_id: study.space.hash(study.space.default())}) if row else None


def _run(row: Row, defaults: Mapping[str, str]) -> Run:
    parent = row["parent"] if row["parent"] != row["config_hash"] else None
    return Run(
        trial_id=row["trial_id"], setting=Setting(row["filter_seen"], row["trainer_version"]),
        config_hash=row["config_hash"], seed=row["seed"], order=row["order"], parent=parent,
        is_default=defaults.get(row["study_id"]) == row["config_hash"], weights=row["weights"], scores=row["scores"],
    )  # fmt: skip
