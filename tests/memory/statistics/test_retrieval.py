"""memory.statistics.retrieval: what comes first, what is left out, and why it is shown."""

from datetime import timedelta
from typing import Any

import pytest

from memory.records import Note
from memory.statistics.retrieval import Ranked, rank_notes, similar
from tests.support.examples import BEGAN, FACTS
from trainers.contract.facts import DatasetFacts

LIKE = FACTS.model_copy(update={"users": 6000, "interactions": 48_000})
LONG = DatasetFacts(
    users=6040, items=3706, interactions=1_000_209, mean_length=165.6, p50_length=96, p90_length=400, p95_length=556,
    density=0.0447, item_gini=0.63, repeat_rate=0.0, timestamp_tie_rate=0.5, ascending_id_rate=0.5,
)  # fmt: skip
STUDIES = {"s-same": FACTS, "s-like": LIKE, "s-long": LONG}


def note(note_id: str, study_id: str = "s-like", **values: Any) -> Note:
    given: dict[str, Any] = {
        "kind": "heuristic", "text": "widen before deepen", "verdict": "insufficient", "created_at": BEGAN,
        "dataset": "d", "backbone": "sasrec",
    }  # fmt: skip
    return Note(note_id=note_id, study_id=study_id, **(given | values))


def ranked(notes: list[Note], query: str | None = None, limit: int = 10) -> list[Ranked]:
    return rank_notes(notes, facts=FACTS, backbone="sasrec", study_facts=STUDIES, query=query, limit=limit)


def order(notes: list[Note], query: str | None = None, limit: int = 10) -> list[str]:
    return [item.note.note_id for item in ranked(notes, query, limit)]


def test_a_dataset_is_wholly_similar_to_itself_and_less_so_with_distance() -> None:
    assert similar(FACTS, FACTS) == 1
    assert similar(FACTS, LIKE) == similar(LIKE, FACTS)
    assert 0 < similar(FACTS, LONG) < similar(FACTS, LIKE) < 1


def test_similarity_is_worked_out_over_fixed_scales() -> None:
    # e^1.5 times the users is one scale; 5 other features agree: distance sqrt(1/6).
    other = FACTS.model_copy(update={"users": round(FACTS.users * 2.718281828459045**1.5)})
    assert similar(FACTS, other) == pytest.approx(2.718281828459045 ** -((1 / 6) ** 0.5), abs=1e-4)


def test_degenerate_facts_are_compared_too() -> None:
    empty = FACTS.model_copy(update={"users": 0, "items": 0, "mean_length": 0.0, "density": 0.0})
    assert 0 <= similar(FACTS, empty) < 0.01


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"study_id": "s-same"}, {"study_id": "s-like"}),
        ({"study_id": "s-like"}, {"study_id": "s-long"}),
        ({"study_id": "s-long"}, {"study_id": "s-gone"}),
        ({"backbone": "sasrec"}, {"backbone": "hstu"}),
        ({"kind": "heuristic"}, {"kind": "summary", "verdict": None}),
        ({"kind": "summary", "verdict": None}, {"kind": "reflection", "verdict": None}),
        ({"verdict": "supported"}, {"verdict": "refuted"}),
        ({"verdict": "refuted"}, {"verdict": "insufficient"}),
        ({"evidence": ("t-1", "t-2")}, {"evidence": ("t-1",)}),
        ({"evidence": ("t-1",)}, {"evidence": ()}),
        ({"created_at": BEGAN + timedelta(days=1)}, {"created_at": BEGAN}),
    ],
)
def test_with_all_else_equal_the_better_note_comes_first(better: dict[str, Any], worse: dict[str, Any]) -> None:
    first, second = note("h-a", **better), note("h-b", **worse)
    assert order([first, second]) == order([second, first]) == ["h-a", "h-b"]
    swapped = [note("h-b", **better), note("h-a", **worse)]
    assert order(swapped) == ["h-b", "h-a"]


def test_superseded_notes_are_left_out() -> None:
    assert order([note("h-1", superseded_by="h-2"), note("h-2")]) == ["h-2"]
    assert order([note("h-1", text="dropout", superseded_by="h-2")], query="dropout") == []


def test_no_more_than_the_limit_are_given_and_nothing_of_nothing() -> None:
    notes = [note(f"h-{number}") for number in range(5)]
    assert len(ranked(notes, limit=3)) == 3
    assert ranked(notes, limit=0) == []
    assert ranked([]) == []
    assert ranked([], query="dropout") == []


def test_scores_fall_along_the_ranking() -> None:
    notes = [note("h-1", "s-long"), note("h-2", "s-same"), note("h-3", backbone="hstu"), note("h-4")]
    scores = [item.score for item in ranked(notes)]
    assert scores == sorted(scores, reverse=True)


def test_a_query_keeps_the_notes_that_share_a_word_and_prefers_rare_words() -> None:
    notes = [
        note("h-1", text="widen the hidden layer"),
        note("h-2", text="lower the learning_rate when the loss jumps"),
        note("h-3", text="the the the the"),
        note("h-4", text="pooling dilutes recency"),
    ]
    assert order(notes, query="the learning rate")[0] == "h-2"
    assert set(order(notes, query="the learning rate")) == {"h-1", "h-2", "h-3"}
    assert order(notes, query="POOLING?") == ["h-4"]
    assert order(notes, query="nowhere") == []


def test_a_query_without_words_is_no_query() -> None:
    assert order([note("h-1")], query=" ?! ") == order([note("h-1")], query="") == ["h-1"]


def test_a_field_is_found_whole_in_parts_and_in_the_plural() -> None:
    notes = [note("h-1", text="tune attention_dropout last"), note("h-2", text="short sequences need less")]
    for query in ("attention_dropout", "dropout", "attention"):
        assert order(notes, query=query) == ["h-1"]
    assert order(notes, query="sequence") == ["h-2"]
    assert order([note("h-3", text="größere Lernrate")], query="GRÖSSERE größere") == ["h-3"]


def test_only_a_plural_of_four_letters_or_more_loses_its_s() -> None:
    notes = [note("h-1", text="mask bias"), note("h-2", text="bus lane"), note("h-3", text="loss spikes")]
    assert order(notes, query="masks") == ["h-1"]
    assert order(notes, query="bia") == ["h-1"]  # a singular in s loses it as well, in the query as in the note
    assert order(notes, query="bu") == []
    assert order(notes, query="los") == []
    assert order(notes, query="loss spike") == ["h-3"]


def test_a_match_outweighs_a_closer_dataset() -> None:
    notes = [
        note("h-1", "s-same", text="widen before deepen whatever dropout does to the other thing"),
        note("h-2", "s-long", text="dropout half, then dropout more"),
        note("h-3", "s-same", text="something else"),
    ]
    assert order(notes, query="dropout half") == ["h-2", "h-1"]


def test_why_says_what_speaks_for_a_note() -> None:
    like, far = similar(FACTS, LIKE), similar(FACTS, LONG)
    notes = {
        "h-1": note("h-1", "s-same", verdict="supported"),
        "h-2": note("h-2", "s-like"),
        "h-3": note("h-3", "s-long", backbone="hstu"),
        "h-4": note("h-4", "s-gone", backbone="hstu"),
    }
    why = {item.note.note_id: item.why for item in ranked(list(notes.values()))}
    assert why == {
        "h-1": "same backbone; same dataset; supported",
        "h-2": f"same backbone; similar lengths and sparsity ({like:.2f})",
        "h-3": f"similar users ({far:.2f})",
        "h-4": "nothing closer is known",
    }
    assert ranked([notes["h-2"]], query="widen")[0].why.startswith("matches the query; same backbone")
