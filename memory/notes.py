"""The SQL of what was learned and shown: notes, snapshots and reveals, each function one step of a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory.connection import Cursor
from memory.errors import UnknownNote
from memory.records import Note, NoteKind, Reveal
from memory.rows import as_json, checked_text, new_id, now, read, stored_time
from memory.trials import require


def add(
    cursor: Cursor, study_id: str, kind: NoteKind, text: str, evidence: Sequence[str], supersedes: Sequence[str]
) -> Note:
    """Stores a note; the standing one where the study already has this text and kind and it is not superseded."""
    text = checked_text(kind, text)
    require(cursor, evidence)
    for heuristic_id in supersedes:
        one(cursor, heuristic_id)
    row = cursor.row(
        """SELECT heuristic_id FROM note_states
           WHERE study_id = $study_id AND kind = $kind AND text = $text AND superseded_by IS NULL
             AND NOT list_contains($supersedes::VARCHAR[], heuristic_id)""",
        {"study_id": study_id, "kind": kind, "text": text, "supersedes": list(supersedes)},
    )
    if row is not None:
        return one(cursor, row["heuristic_id"])
    values = {
        "heuristic_id": new_id("h"),
        "study_id": study_id,
        "created_at": stored_time(now()),
        "kind": kind,
        "text": text,
        "evidence": list(dict.fromkeys(evidence)),
        "supersedes": list(dict.fromkeys(supersedes)),
    }
    cursor.run(
        """INSERT INTO notes (heuristic_id, study_id, created_at, kind, text, evidence, supersedes)
           VALUES ($heuristic_id, $study_id, $created_at, $kind, $text,
                   $evidence::VARCHAR[], $supersedes::VARCHAR[])""",
        values,
    )
    return one(cursor, str(values["heuristic_id"]))


def one(cursor: Cursor, heuristic_id: str) -> Note:
    """The note as it stands; raises UnknownNote."""
    row = cursor.row("SELECT * FROM note_states WHERE heuristic_id = $id", {"id": heuristic_id})
    if row is None:
        raise UnknownNote(heuristic_id)
    return Note.model_validate(read(row))


def listed(cursor: Cursor, study_id: str | None, kind: NoteKind | None, include_superseded: bool) -> list[Note]:
    """Notes, oldest first; None means any study or any kind."""
    rows = cursor.rows(
        """SELECT * FROM note_states
           WHERE ($study_id IS NULL OR study_id = $study_id) AND ($kind IS NULL OR kind = $kind)
             AND ($include_superseded OR superseded_by IS NULL)
           ORDER BY position""",
        {"study_id": study_id, "kind": kind, "include_superseded": include_superseded},
    )
    return [Note.model_validate(read(row)) for row in rows]


def take_snapshot(cursor: Cursor, study_id: str | None, shown: Sequence[str]) -> str:
    """Stores which ids one read of memory showed, in their order, and answers the snapshot's id."""
    snapshot_id = new_id("r")
    cursor.run(
        """INSERT INTO snapshots (snapshot_id, study_id, taken_at, shown)
           VALUES ($id, $study_id, $now, $shown::VARCHAR[])""",
        {"id": snapshot_id, "study_id": study_id, "now": stored_time(now()), "shown": list(shown)},
    )
    return snapshot_id


def latest_snapshot(cursor: Cursor, study_id: str) -> str | None:
    """The id of the study's newest snapshot."""
    sql = "SELECT arg_max(snapshot_id, position) AS latest FROM snapshots WHERE study_id = $id"
    row = cursor.row(sql, {"id": study_id})
    return row["latest"] if row else None


def shown(cursor: Cursor, snapshot_id: str) -> tuple[str, ...] | None:
    """The ids that a snapshot showed; None for an unknown one."""
    row = cursor.row("SELECT shown FROM snapshots WHERE snapshot_id = $id", {"id": snapshot_id})
    return tuple(row["shown"]) if row else None


def add_reveal(
    cursor: Cursor,
    study_id: str,
    dataset_hash: str,
    chosen: Sequence[str],
    default: Sequence[str],
    test: Mapping[str, Mapping[str, float]],
) -> Reveal:
    """Stores a study's look at the test split with its ordinal; the stored one where the study has looked before."""
    if (known := reveal(cursor, study_id)) is not None:
        return known
    row = cursor.row("SELECT count(*) AS looks FROM reveals WHERE dataset_hash = $hash", {"hash": dataset_hash})
    record = Reveal(
        study_id=study_id,
        dataset_hash=dataset_hash,
        ordinal=1 + (row["looks"] if row else 0),
        chosen=tuple(chosen),
        default=tuple(default),
        test={trial_id: dict(metrics) for trial_id, metrics in test.items()},
        created_at=now(),
    )
    cursor.run(
        """INSERT INTO reveals (study_id, created_at, dataset_hash, ordinal, chosen, "default", test)
           VALUES ($study_id, $created_at, $dataset_hash, $ordinal, $chosen::VARCHAR[], $default::VARCHAR[], $test)""",
        record.model_dump()
        | {
            "created_at": stored_time(record.created_at),
            "chosen": list(record.chosen),
            "default": list(record.default),
            "test": as_json(record.test),
        },
    )
    return record


def reveal(cursor: Cursor, study_id: str) -> Reveal | None:
    """The study's look at the test split, if it had one."""
    row = cursor.row("SELECT * FROM reveals WHERE study_id = $id", {"id": study_id})
    return Reveal.model_validate(read(row, "test")) if row else None
