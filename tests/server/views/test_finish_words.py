"""server.views.finish_words: on how many users the end of a study rests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from memory.records import Reveal
from server.views.finish_words import user_words
from tests.support.examples import study


def reveal(**values: Any) -> Reveal:
    given: dict[str, Any] = {
        "study_id": "s-1", "dataset_hash": "abc", "chosen": ("t-1", "t-2"), "default": ("t-0",), "test": {},
        "ordinal": 1, "created_at": datetime(2026, 1, 1, tzinfo=UTC), "user_variance": 0.01,
    }  # fmt: skip
    return Reveal(**{**given, **values})


@pytest.mark.parametrize(
    ("measured", "tested", "few"),
    [(500, 500, False), (499, 500, True), (500, 499, True)],
)
def test_few_users_are_said_with_the_noise_that_this_means(measured: int, tested: int, few: bool) -> None:
    facts = study().facts.model_copy(update={"users": 900, "validated_users": measured})
    words = user_words(study(facts=facts), reveal(users=tested), compared=True)
    assert words.startswith(f"Measured on {measured} users, tested on {tested}.")
    assert ("So few say little: chance alone moves" in words) == few


def test_users_without_a_training_event_are_told_apart() -> None:
    apart = {"t-0": {"ndcg@10": 0.5}, "t-1": {"ndcg@10": 0.01}, "t-2": {"ndcg@10": 0.03}}
    words = user_words(study(), reveal(users=900, apart=apart, apart_users=12), compared=True)
    assert words.endswith("Apart from them, 12 tested users have no training event; on these the choice scores 0.0200.")
