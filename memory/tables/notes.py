"""The SQL of notes: each function is one step of its caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from memory.errors import MemoryFault, UnknownNote
from memory.records import Note, NoteKind
from memory.tables.connection import Cursor, Row
from memory.tables.rows import checked_text, new_id, now, stored_time
from memory.tables.trials import require

ALIKE = 0.9
"""Two heuristics count as the same if they share at least this part of all their words."""


def add(
    cursor: Cursor, study_id: str, kind: NoteKind, text: str, evidence: Sequence[str], supersedes: Sequence[str]
) -> Note:
    """Stores a note, or returns the current note of the study with the same kind and text."""
    text = checked_text(kind, text)
    require(cursor, evidence)
    _require_study(cursor, study_id, evidence)
    for note_id in supersedes:
        one(cursor, note_id)
    if (same_id := _same(cursor, study_id, kind, text, supersedes)) is not None:
        return one(cursor, same_id)
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


def _require_study(cursor: Cursor, study_id: str, evidence: Sequence[str]) -> None:
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
    """The id of the study's current note with this text. A heuristic may differ in a few words, but in no number."""
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


def one(cursor: Cursor, note_id: str) -> Note:
    """The note as it stands; raises UnknownNote."""
    row = cursor.row("SELECT * FROM note_states WHERE heuristic_id = $id", {"id": note_id})
    if row is None:
        raise UnknownNote(note_id)
    return _note(row)


def listed(cursor: Cursor, note_ids: Sequence[str] | None = None) -> dict[str, Note]:
    """Every note, superseded ones too, or those of these ids; oldest first."""
    chosen = "" if note_ids is None else "WHERE heuristic_id IN (SELECT unnest($ids))"
    values = {} if note_ids is None else {"ids": list(note_ids)}
    rows = cursor.rows(f"SELECT * FROM note_states {chosen} ORDER BY position", values)
    notes = (_note(row) for row in rows)
    return {note.note_id: note for note in notes}


def _note(row: Row) -> Note:
    """The note of a row. Memory wrote the row, so it is not validated again: there may be thousands."""
    row["created_at"] = row["created_at"].replace(tzinfo=UTC)
    row["evidence"], row["supersedes"] = tuple(row["evidence"]), tuple(row["supersedes"])
    row["note_id"], row["claim_text"] = row.pop("heuristic_id"), row.pop("claim")
    del row["position"]
    return Note.model_construct(None, **row)
