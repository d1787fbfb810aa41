"""What a study admits of a dataset: enough users to measure, and something to train on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from server.study.admission import ProtocolError, check_dataset, small_words
from server.study.verdict_words import verdict_words
from server.study.verdicts import verdict
from tests.support.examples import study, trial
from tests.support.interactions import write
from tests.support.tool_client import tool_client
from trainers.data import Dataset, TimeSplit, add


def dataset_of(folder: Path, users: int, length: int = 6, items: int = 9) -> Dataset:
    lines = (f"{user} " + " ".join(str((user + step) % items) for step in range(length)) for user in range(users))
    return add(folder / "datasets", "log", write(folder / "log.txt", "\n".join(lines)))


@pytest.mark.parametrize(
    ("shape", "why"),
    [({"length": 3}, "no user has two training events"), ({"items": 1}, "it has one item")],
)
def test_a_dataset_that_nothing_can_be_trained_on_is_refused(
    shape: Mapping[str, int], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ProtocolError, match=f"Nothing can be trained on dataset 'log': {why}"):
        check_dataset(dataset_of(tmp_path, 50, **shape), allow_small=True)


def test_users_with_two_training_events_are_enough(tmp_path: Path) -> None:
    check_dataset(dataset_of(tmp_path, 30, length=4), allow_small=False)


def test_fewer_than_thirty_users_need_a_word_from_the_user(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 29)
    with pytest.raises(ProtocolError, match=r"Only 29 users of dataset 'log' are measured, .* allow_small=true"):
        check_dataset(dataset, allow_small=False)
    check_dataset(dataset, allow_small=True)


def test_the_users_of_the_test_count_too(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 40).model_copy(update={"tested_users": 29})
    with pytest.raises(ProtocolError, match="Only 29 users"):
        check_dataset(dataset, allow_small=False)


def test_a_training_period_in_which_no_user_has_two_events_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"{user},{(user + day) % 5},{86_400 * day}\n" for user in range(40) for day in range(3))
    path = write(tmp_path / "log.csv", "user,item,timestamp\n" + rows)
    split = TimeSplit(valid_days=0.9, test_days=0.9)
    with pytest.raises(ProtocolError, match="no user has two training events"):
        check_dataset(add(tmp_path / "datasets", "log", path, split=split), allow_small=True)


def test_few_users_are_said_of_datasets_whose_import_was_silent(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 499)
    assert small_words(dataset) == [
        "Only 499 users are measured: chance alone moves an ndcg@10 near .05 by about ±0.018 (95 %)."
    ]
    assert small_words(dataset.model_copy(update={"facts": dataset.facts.model_copy(update={"users": 500})})) == []


@pytest.mark.parametrize(("users", "said"), [(499, True), (500, False), (None, False)])
def test_a_verdict_says_that_few_users_are_measured(users: int | None, said: bool) -> None:
    trials = [trial(0, 0.05), trial(0, 0.0502, seed=1), trial(1, 0.07, changes={"dropout": 0.1})]
    words = verdict_words(verdict(study(), trials[-1], trials), users=users)
    assert words is not None
    assert ("Only 499 users are measured: chance alone moves" in words) == said


@pytest.mark.anyio
async def test_the_brief_shows_recipe_warnings_and_what_the_filter_decided(tmp_path: Path) -> None:
    rows = "".join(f"{user},{(user + day) % 7},{86_400 * day}\n" for user in range(29) for day in range(6))
    path = write(tmp_path / "log.csv", "user,item,timestamp\n" + rows)
    add(tmp_path / "datasets", "log", path, drop_duplicates="none")
    async with tool_client(tmp_path) as at:
        refused = await at.refused("start_study", dataset="log")
        assert "Only 29 users of dataset 'log' are measured" in refused
        brief = (await at.call("start_study", dataset="log", allow_small=True))["brief"]
    assert brief["dataset"]["recipe"] == "--user user --item item --timestamp timestamp --drop-duplicates none"
    assert any("Only 29 users validate and test" in warning for warning in brief["warnings"])
    assert brief["filter_seen"] == "auto (yes: 0.0% of users repeat an item)"
