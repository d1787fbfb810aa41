"""The digest that read_memory begins with: what won on similar datasets, what holds, what does not, what is open."""

from __future__ import annotations

from collections.abc import Sequence

from memory.credit import is_withheld
from memory.records import Note, Study
from memory.store import Memory
from server.answers import Answer, Digest
from server.brief import start_line
from server.views import claim_words
from trainers.space import Space
from trainers.spec import DatasetFacts

SHOWN = 5
"""Claims of each verdict, questions, and fields that nobody tried."""
TOKENS = 1500
"""Of a default answer, about; what is beyond comes with the cursor."""
CHARACTERS = 4.0
"""A token, about."""


def digest(
    memory: Memory, space: Space, facts: DatasetFacts, metric: str, known: Sequence[Study], notes: Sequence[Note],
    study: Study | None = None,
) -> Digest:  # fmt: skip
    """For a `study` in `space`, or one that might be started, of all studies and notes; the best known claims first."""
    due: list[Note] = []
    claims = [note for note in notes if note.claim_text is not None and note.verdict != "insufficient"]
    claims.sort(key=lambda note: -(note.n_datasets or 0))

    def told(verdict: str) -> list[str]:
        found = [note for note in claims if note.verdict == verdict][:SHOWN]
        due.extend(found)
        kept = [note for note in found if study is None or not is_withheld(study, note)]
        return [f"{note.heuristic_id}: {claim_words(note)}" for note in kept]

    varied = memory.lore.varied(space.backbone)
    never = [field.name for field in space.free() if field.name not in varied]
    untouched = ", ".join(never[:SHOWN]) + (f" and {len(never) - SHOWN} more" if len(never) > SHOWN else "")
    starts = memory.lore.starts(space, facts, metric)
    names = {study.dataset_hash: study.dataset for study in known}
    supported, refuted, mixed = told("supported"), told("refuted"), told("mixed")
    if study is not None:
        memory.ledger.expose(study, due)
    return Digest(
        starts=[start_line(one, names) for one in starts],
        supported=supported,
        refuted=refuted,
        mixed=mixed,
        questions=[one.text for one in memory.lore.questions()][:SHOWN],
        coverage=f"Fields of {space.backbone} that were varied so far: {len(varied)}; never: {untouched or 'none'}.",
    )


def within_budget(items: Sequence[Answer], spent: int, tokens: int = TOKENS) -> int:
    """How many items fit into an answer of so many tokens beside what is `spent` in characters; at least one."""
    left = tokens * CHARACTERS - spent
    for count, item in enumerate(items):
        left -= len(item.model_dump_json(exclude_none=True))
        if left < 0:
            return max(count, 1)
    return len(items)
