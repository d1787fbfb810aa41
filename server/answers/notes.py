"""What the tools answer about notes."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from server.answers.base import Answer


class Noted(Answer):
    """An answer about one note; `heuristic_id` repeats `note_id` for clients that know the older name."""

    note_id: str
    heuristic_id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _both_names(cls, given: dict[str, Any]) -> dict[str, Any]:
        note_id = given.get("note_id") or given.get("heuristic_id")
        return {**given, "note_id": note_id, "heuristic_id": note_id}


class NoteLine(Noted):
    kind: str
    text: str
    dataset: str
    backbone: str
    evidence: list[str] = []
    verdict: str | None = None
    why: str | None = None
    """Why it is shown here."""


class MemoryItem(Answer):
    id: str
    level: str
    text: str
    study_id: str
    dataset: str
    backbone: str
    evidence: list[str] = []
    verdict: str | None = None
    why: str | None = None
    facts: dict[str, Any] | None = None


class NoteAnswer(Noted):
    known: bool = False
    """True: this, or nearly this, was written before, and nothing was added."""
    verdict: str | None = None
    """Of its claim, over all trials that it was not written from: supported, refuted, mixed or insufficient."""
    words: str | None = None
    """The claim as it is checked, and what is known of it."""
    next: str


class StudyNotes(Answer):
    """The notes of a study, oldest first; `next` is the resource with those that follow."""

    notes: list[MemoryItem]
    next: str | None = None
    calibration: str | None = None
    """How well predictions under the study's policy label came true."""
