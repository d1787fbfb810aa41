"""The SQL of what was learned and shown: notes, snapshots and reveals, each function one step of a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from memory.connection import Cursor, Row
from memory.errors import MemoryFault, UnknownNote
from memory.records import Note, NoteKind, Reveal
from memory.rows import as_json, checked_text, new_id, now, read, stored_time
from memory.trials import require

ALIKE = 0.9
"""Of the words of two heuristics together: as many shared ones make them the same."""


def add(
    cursor: Cursor, study_id: str, kind: NoteKind, text: str, evidence: Sequence[str], supersedes: Sequence[str]
) -> Note:
    """Stores a note; the standing one where the study already has this text and kind and it is not superseded."""
    text = checked_text(kind, text)
    require(cursor, evidence)
    _of_this_study(cursor, study_id, evidence)
    for heuristic_id in supersedes:
        one(cursor, heuristic_id)
    if (known := _same(cursor, study_id, kind, text, supersedes)) is not None:
        return one(cursor, known)
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


def _of_this_study(cursor: Cursor, study_id: str, evidence: Sequence[str]) -> None:
    row = cursor.row(
        "SELECT trial_id, study_id FROM trials WHERE list_contains($ids, trial_id) AND study_id <> $study_id LIMIT 1",
        {"ids": list(evidence), "study_id": study_id},
    )
    if row is not None:
        raise MemoryFault(
            f"Evidence {row['trial_id']!r} is a trial of study {row['study_id']!r}, not of {study_id!r}: write the "
            "note in that study, or leave the trial out."
        )


def _same(cursor: Cursor, study_id: str, kind: NoteKind, text: str, supersedes: Sequence[str]) -> str | None:
    """The standing note of the study with this text or, of a heuristic, nearly: all numbers, nine words in ten."""
    row = cursor.row(
        """WITH standing AS (
               SELECT heuristic_id, position, text, list_distinct(regexp_extract_all(lower(text), $word)) AS words
               FROM note_states
               WHERE study_id = $study_id AND kind = $kind AND superseded_by IS NULL
                 AND NOT list_contains($supersedes::VARCHAR[], heuristic_id)),
           new AS (SELECT list_distinct(regexp_extract_all(lower($text), $word)) AS words),
           compared AS (
               SELECT heuristic_id, position, s.text = $text AS equal,
                      len(list_intersect(s.words, new.words)) AS shared, len(s.words) + len(new.words) AS together,
                      list_filter(s.words, lambda x: x ~ '.*[0-9].*').list_sort() AS numbers,
                      list_filter(new.words, lambda x: x ~ '.*[0-9].*').list_sort() AS own
               FROM standing s, new)
           SELECT heuristic_id FROM compared
           WHERE equal OR ($kind = 'heuristic' AND numbers = own AND shared >= $alike * (together - shared))
           ORDER BY equal DESC, position LIMIT 1""",
        {
            "study_id": study_id, "kind": kind, "text": text, "supersedes": list(supersedes), "alike": ALIKE,
            "word": r"[0-9]+(?:[.,][0-9]+)*|\w+",
        },
    )  # fmt: skip
    return row["heuristic_id"] if row else None


def one(cursor: Cursor, heuristic_id: str) -> Note:
    """The note as it stands; raises UnknownNote."""
    row = cursor.row("SELECT * FROM note_states WHERE heuristic_id = $id", {"id": heuristic_id})
    if row is None:
        raise UnknownNote(heuristic_id)
    return _note(row)


def listed(cursor: Cursor, heuristic_ids: Sequence[str] | None = None) -> dict[str, Note]:
    """Every note, superseded ones too, or those of these ids; oldest first."""
    chosen = "" if heuristic_ids is None else "WHERE heuristic_id IN (SELECT unnest($ids))"
    values = {} if heuristic_ids is None else {"ids": list(heuristic_ids)}
    rows = cursor.rows(f"SELECT * FROM note_states {chosen} ORDER BY position", values)
    return {row["heuristic_id"]: _note(row) for row in rows}


def _note(row: Row) -> Note:
    """What this file wrote needs no second check, and there may be thousands of notes."""
    row["created_at"] = row["created_at"].replace(tzinfo=UTC)
    row["evidence"], row["supersedes"] = tuple(row["evidence"]), tuple(row["supersedes"])
    row["claim_text"] = row.pop("claim")
    del row["position"]
    return Note.model_construct(None, **row)


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
