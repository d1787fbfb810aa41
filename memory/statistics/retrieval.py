"""Ranks notes for read_memory: similar datasets, the same backbone and more evidence come first."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from memory.records import Note
from trainers.contract.facts import DatasetFacts

SIMILARITY_WEIGHT = 3.0
BACKBONE_WEIGHT = 2.0
QUERY_WEIGHT = 4.0
RECENCY_WEIGHT = 0.25
EVIDENCE_WEIGHT = 0.5
EVIDENCE_FULL = 10
"""The number of trials behind a note beyond which more trials do not raise its score."""
KIND_WEIGHT = {"heuristic": 1.0, "summary": 0.6, "reflection": 0.0}
VERDICT_WEIGHT = {"supported": 1.0, "refuted": 0.5, "mixed": 0.25, "insufficient": 0.0}
"""Score of each verdict. A refuted claim still scores, because it says what not to try."""
CLOSE = 0.5
"""`why` calls two datasets similar in a feature if their standardised distance is below this."""


@dataclass(frozen=True)
class Ranked:
    """A note, its score (comparable within one ranking only), and a few words on why it is shown."""

    note: Note
    score: float
    why: str


def similar(a: DatasetFacts, b: DatasetFacts) -> float:
    """Similarity of two datasets: 1 for equal meta-features, falling towards 0 with standardised distance."""
    gaps = _gaps(a, b).values()
    return math.exp(-math.sqrt(sum(gap * gap for gap in gaps) / len(gaps)))


def rank_notes(
    notes: Sequence[Note],
    *,
    facts: DatasetFacts,
    backbone: str,
    study_facts: Mapping[str, DatasetFacts],
    query: str | None,
    limit: int,
) -> list[Ranked]:
    """The `limit` most useful notes for a study of `backbone` on a dataset with `facts`, best first.

    Superseded notes are left out. A `query` keeps only the notes that share a word with it, scored by BM25.
    """
    current = [note for note in notes if note.superseded_by is None]
    times = sorted({note.created_at for note in current})
    recency = {time: (place + 1) / len(times) for place, time in enumerate(times)}
    matches = _matches(current, query)
    alike = {other: (similar(facts, other), _likeness(facts, other)) for other in set(study_facts.values())}
    likeness = {name: alike[other] for name, other in study_facts.items()}
    ranked = [
        _ranked(note, backbone, likeness.get(note.study_id, (0.0, "")), matches, recency[note.created_at])
        for note in current
        if matches is None or note.note_id in matches
    ]
    ranked.sort(key=lambda item: (-item.score, item.note.note_id))
    return ranked[: max(limit, 0)]


def _ranked(
    note: Note,
    backbone: str,
    likeness: tuple[float, str],
    matches: Mapping[str, float] | None,
    recency: float,
) -> Ranked:
    score = (
        SIMILARITY_WEIGHT * likeness[0]
        + BACKBONE_WEIGHT * (note.backbone == backbone)
        + KIND_WEIGHT[note.kind]
        + VERDICT_WEIGHT[note.verdict or "insufficient"]
        + EVIDENCE_WEIGHT * min(1.0, math.log1p(len(note.evidence)) / math.log1p(EVIDENCE_FULL))
        + RECENCY_WEIGHT * recency
        + QUERY_WEIGHT * (matches[note.note_id] if matches else 0.0)
    )
    reasons = [
        "matches the query" if matches else "",
        "same backbone" if note.backbone == backbone else "",
        likeness[1],
        note.verdict if note.verdict in ("supported", "refuted", "mixed") else "",
    ]
    return Ranked(note, score, "; ".join(reason for reason in reasons if reason) or "nothing closer is known")


def _gaps(a: DatasetFacts, b: DatasetFacts) -> dict[str, float]:
    """Distance in each meta-feature, divided by about its spread among public datasets."""
    return {
        "users": _log_gap(a.users, b.users) / 1.5,
        "items": _log_gap(a.items, b.items) / 1.5,
        "lengths": _log_gap(a.mean_length, b.mean_length) / 1.0,
        "sparsity": _log_gap(a.density, b.density) / 1.5,
        "popularity": abs(a.item_gini - b.item_gini) / 0.15,
        "repeats": abs(a.repeat_rate - b.repeat_rate) / 0.1,
    }


def _log_gap(a: float, b: float) -> float:
    return abs(math.log(max(a, 1e-9)) - math.log(max(b, 1e-9)))


def _likeness(facts: DatasetFacts, other: DatasetFacts) -> str:
    if facts == other:
        return "same dataset"
    gaps = _gaps(facts, other)
    alike = [name for name in ("lengths", "sparsity", "items", "users", "popularity") if gaps[name] < CLOSE][:2]
    number = f"({similar(facts, other):.2f})"
    return f"similar {' and '.join(alike)} {number}" if alike else f"another kind of dataset {number}"


def _matches(notes: Sequence[Note], query: str | None) -> dict[str, float] | None:
    """BM25 scores (0 to 1, of the best) of the notes that share a word with the query; None without a query."""
    wanted = set(_words(query or ""))
    if not wanted:
        return None
    texts = [_word_counts(note.text) for note in notes]
    mean_length = sum(text.total() for text in texts) / max(len(texts), 1)
    rarity: dict[str, float] = {}
    for word in wanted:
        containing = sum(word in text for text in texts)
        rarity[word] = math.log(1 + (len(texts) - containing + 0.5) / (containing + 0.5))
    scores: dict[str, float] = {}
    for note, text in zip(notes, texts, strict=True):
        damping = 1.2 * (0.25 + 0.75 * text.total() / (mean_length or 1.0))
        score = sum(rarity[word] * 2.2 * text[word] / (text[word] + damping) for word in sorted(wanted) if text[word])
        if score > 0:
            scores[note.note_id] = score
    best = max(scores.values(), default=1.0)
    return {note_id: score / best for note_id, score in scores.items()}


@lru_cache(maxsize=8192)
def _word_counts(text: str) -> Counter[str]:
    return Counter(_words(text))


def _words(text: str) -> list[str]:
    """Lower-case words without a plural s; `learning_rate` gives the whole name and each of its parts."""
    words: list[str] = []
    for word in re.findall(r"\w+", text.lower()):
        parts = [part for part in word.split("_") if part]
        words += [word, *parts] if len(parts) > 1 else parts
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]
