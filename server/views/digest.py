"""The digest at the start of read_memory's answer: what won on similar datasets, what holds, and what is open."""

from __future__ import annotations

from collections.abc import Sequence

from memory.claims.credit import is_withheld
from memory.records import Note, Study
from memory.store import Memory
from server.answers import Answer, Digest
from server.views.brief import start_line
from server.views.items import claim_words
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Space

SHOWN = 5
"""Largest number of claims of each verdict, of questions, and of untried fields in a digest."""
TOKENS = 1500
"""Approximate token budget of one page; the cursor leads to the rest."""
CHARACTERS_A_TOKEN = 4.0
"""Approximate length of a token."""


def digest(
    memory: Memory, space: Space, facts: DatasetFacts, metric: str, studies: Sequence[Study], notes: Sequence[Note],
    study: Study | None = None,
) -> Digest:  # fmt: skip
    """The digest for `study`, or for one that might be started in `space`; claims on the most datasets come first."""
    relevant: list[Note] = []
    claims = [note for note in notes if note.claim_text is not None and note.verdict != "insufficient"]
    claims.sort(key=lambda note: -(note.n_datasets or 0))

    def claim_lines(verdict: str) -> list[str]:
        judged = [note for note in claims if note.verdict == verdict][:SHOWN]
        relevant.extend(judged)
        kept = [note for note in judged if study is None or not is_withheld(study, note)]
        return [f"{note.note_id}: {claim_words(note)}" for note in kept]

    varied = memory.advice.varied(space.backbone)
    never = [field.name for field in space.free() if field.name not in varied]
    untouched = ", ".join(never[:SHOWN]) + (f" and {len(never) - SHOWN} more" if len(never) > SHOWN else "")
    starts = memory.advice.starts(space, facts, metric)
    names = {other.dataset_hash: other.dataset for other in studies}
    supported, refuted, mixed = claim_lines("supported"), claim_lines("refuted"), claim_lines("mixed")
    if study is not None:
        memory.exposures.expose(study, relevant)
    return Digest(
        starts=[start_line(start, names) for start in starts],
        supported=supported,
        refuted=refuted,
        mixed=mixed,
        questions=[question.text for question in memory.advice.questions()][:SHOWN],
        coverage=f"Fields of {space.backbone} that were varied so far: {len(varied)}; never: {untouched or 'none'}.",
    )


def within_budget(items: Sequence[Answer], spent: int, tokens: int = TOKENS) -> int:
    """How many items fit into `tokens` when `spent` characters are already used; at least one of them."""
    left = tokens * CHARACTERS_A_TOKEN - spent
    for count, item in enumerate(items):
        left -= len(item.model_dump_json(exclude_none=True))
        if left < 0:
            return max(count, 1)
    return len(items)
