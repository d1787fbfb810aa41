"""A time split: who validates and who tests, worked by hand; and what happens later reaches nothing before it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli.main import app
from tests.support.handmade import trial
from tests.support.interactions import write
from trainers.contract.presets import preset
from trainers.data import DataError, Dataset, TimeSplit, add, baselines, load_test, load_training, load_whole
from trainers.training.train import train

DAY = 86_400
DATES = TimeSplit(datetime(2024, 1, 11, tzinfo=UTC), datetime(2024, 1, 21, tzinfo=UTC))
FIRST = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
Event = tuple[str, str, float]
"""User, item, and days after the first of January 2024."""

# ann validates and tests; bob only validates, by his first item after the cut; cid was never seen before the cut,
# so he only tests; dan comes with the test; eve has nothing after the first cut
BY_HAND: list[Event] = [
    ("ann", "a", 0), ("ann", "b", 3), ("ann", "c", 11), ("ann", "a", 25),
    ("bob", "c", 1), ("bob", "b", 10), ("bob", "a", 12),
    ("cid", "a", 15), ("cid", "b", 22), ("cid", "c", 23),
    ("dan", "a", 21), ("dan", "b", 22),
    ("eve", "a", 9), ("eve", "d", 9.5),
    ("eve", "new", 12), ("ann", "new", 10),
]  # fmt: skip


def table(events: Sequence[Event], unit: int = 1) -> str:
    rows = [f"{user},{item},{int((FIRST + days * DAY) * unit)}" for user, item, days in events]
    return "\n".join(["user,item,timestamp", *rows]) + "\n"


def added(folder: Path, events: Sequence[Event], split: TimeSplit = DATES, unit: int = 1, **values: Any) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    return add(folder / "datasets", "log", write(folder / "log.csv", table(events, unit)), split=split, **values)


def test_each_user_is_asked_for_the_first_item_after_a_cut(tmp_path: Path) -> None:
    dataset = added(tmp_path, BY_HAND)
    data, sealed = load_training(dataset.path), load_test(dataset.path)
    assert data.items.tolist() == [0, 1, 2, 0, 3]  # ann: a b, bob: c, eve: a d
    assert data.offsets.tolist() == [0, 2, 3, 5]
    assert data.validated is not None
    assert (data.validated.tolist(), data.validation.tolist()) == ([0, 1], [2, 1])  # ann: c (new is cold), bob: b
    held_out = data.held_out()
    assert (held_out.items.tolist(), held_out.offsets.tolist()) == ([0, 1, 2], [0, 2, 3])
    assert sealed.targets.tolist() == [0, 1]  # ann: a, cid: b
    assert (sealed.items.tolist(), sealed.offsets.tolist()) == ([0, 1, 2, 0], [0, 3, 4])


def test_what_is_cold_is_counted_and_dropped(tmp_path: Path) -> None:
    dataset = added(tmp_path, BY_HAND)
    assert dataset.split == "time: validation from 2024-01-11, test from 2024-01-21"
    assert dataset.cold == {"users": 2, "items": 1, "tested": 1}  # cid and dan, new
    assert dataset.report.dropped == {"cold_item": 2, "cold_user": 2}
    facts = dataset.facts
    assert (facts.users, facts.items, facts.interactions, facts.validated_users) == (3, 4, 5, 2)
    assert facts.measured_users == 2


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
def test_days_count_back_from_the_last_event_in_any_unit_of_time(tmp_path: Path, unit: int) -> None:
    by_days = added(tmp_path / "days", BY_HAND, TimeSplit(valid_days=10, test_days=4), unit)
    dates = TimeSplit(datetime(2024, 1, 12, 0, 0, 0, 1), datetime(2024, 1, 22, 0, 0, 0, 1))
    by_dates = added(tmp_path / "dates", BY_HAND, dates, unit)
    assert load_training(by_days.path).validation.tolist() == load_training(by_dates.path).validation.tolist()
    assert load_test(by_days.path).targets.tolist() == load_test(by_dates.path).targets.tolist()


def test_the_split_is_part_of_the_content_hash(tmp_path: Path) -> None:
    hashes = {
        added(tmp_path / str(number), BY_HAND, split).content_hash
        for number, split in enumerate([DATES, DATES, TimeSplit(datetime(2024, 1, 10), datetime(2024, 1, 21))])
    }
    assert len(hashes) == 2


def many(seed: int = 0) -> list[Event]:
    """Events of 120 users over 30 days; some users and items appear late."""
    draw = random.Random(seed)
    events: list[Event] = []
    for user in range(120):
        start = draw.uniform(0, 18)
        for _ in range(draw.randint(3, 12)):
            events.append((f"{user}", f"{draw.randint(0, 40)}", round(start, 2)))
            start += draw.uniform(0, 4)
    draw.shuffle(events)
    return events


def poisoned(events: Sequence[Event], begin: float) -> list[Event]:
    """The same rows, in which every event from `begin` on is of another user and item, unknown ones among them."""
    draw = random.Random(9)
    users, items = ["ghost", "poison", *map(str, range(120))], ["venom", "0x", *map(str, range(41))]
    return [
        (draw.choice(users), draw.choice(items), days) if days >= begin else (user, item, days)
        for user, item, days in events
    ]


def curve(dataset: Dataset, **config: Any) -> tuple[bytes, list[float], list[dict[str, float]]]:
    """Weights, losses and validation of a short training."""
    _, state = train(trial(**config), load_training(dataset.path))
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in state.model.parameters())
    return weights, [epoch.loss for epoch in state.history], [epoch.validation for epoch in state.history]


@pytest.mark.parametrize("options", [{}, {"k_core": 3}, {"ties_seed": 4}])
def test_an_event_of_the_test_period_reaches_nothing_before_the_reveal(tmp_path: Path, options: dict[str, Any]) -> None:
    clean = added(tmp_path / "clean", many(), **options)
    dirty = added(tmp_path / "dirty", poisoned(many(), 20), **options)
    assert (clean.path / "train.safetensors").read_bytes() == (dirty.path / "train.safetensors").read_bytes()
    assert clean.facts == dirty.facts
    assert preset("strong", "sasrec", clean.facts) == preset("strong", "sasrec", dirty.facts)
    assert baselines(clean.path, "yes") == baselines(dirty.path, "yes")
    given = {"transition_alpha": 1.0, "item_cf_alpha": 1.0, "popularity_alpha": 0.5}
    assert curve(clean, **given) == curve(dirty, **given)
    assert load_test(clean.path).targets.tolist() != load_test(dirty.path).targets.tolist()
    assert clean.content_hash != dirty.content_hash


def test_an_event_after_the_training_period_reaches_no_training_item_fact_prior_or_weight(tmp_path: Path) -> None:
    clean = added(tmp_path / "clean", many())
    dirty = added(tmp_path / "dirty", poisoned(many(), 10))
    data, other = load_training(clean.path), load_training(dirty.path)
    assert (data.items.tobytes(), data.offsets.tobytes()) == (other.items.tobytes(), other.offsets.tobytes())
    ignored = {"validated_users"}
    assert clean.facts.model_dump(exclude=ignored) == dirty.facts.model_dump(exclude=ignored)
    assert (clean.path / "items.parquet").read_bytes() == (dirty.path / "items.parquet").read_bytes()
    weights, losses, validation = curve(clean, max_epochs=1)
    assert (weights, losses) == curve(dirty, max_epochs=1)[:2]
    assert validation != curve(dirty, max_epochs=1)[2]


def test_a_refit_has_every_event_that_was_kept_and_the_hash_tells_them_apart(tmp_path: Path) -> None:
    dataset = added(tmp_path / "a", BY_HAND)
    items, offsets = load_whole(dataset.path)
    assert items.tolist() == [0, 1, 2, 0, 2, 1, 0, 0, 3, 0, 1, 2]  # ann: a b c a, bob: c b a, eve: a d, cid: a b c
    assert offsets.tolist() == [0, 4, 7, 9, 12]
    later = added(tmp_path / "b", [*BY_HAND, ("ann", "b", 26)])
    assert load_test(later.path).targets.tolist() == load_test(dataset.path).targets.tolist()
    assert later.content_hash != dataset.content_hash
    (dataset.path / "sealed" / "whole.safetensors").unlink()
    with pytest.raises(DataError, match="kept no events after the test items"):
        load_whole(dataset.path)


def test_the_whole_of_a_leave_one_out_split_is_what_was_added(tmp_path: Path) -> None:
    dataset = add(tmp_path, "log", write(tmp_path / "log.csv", table(BY_HAND)))
    items, offsets = load_whole(dataset.path)
    assert (len(items), offsets.tolist()) == (dataset.facts.interactions, [0, 5, 8, 11, 14])


def test_ties_are_drawn_by_the_seed_and_leave_other_events_alone(tmp_path: Path) -> None:
    events: list[Event] = [("u", str(item), item // 10) for item in range(40)]
    orders = []
    for number, seed in enumerate((None, 1, 1, 2)):
        path = write(tmp_path / f"{number}.csv", table(events))
        dataset = add(tmp_path / str(number), "log", path, ties_seed=seed)
        orders.append(load_training(dataset.path).items.tolist())
    assert orders[0] == list(range(38))
    assert orders[1] == orders[2] != orders[3]
    ids = {item: int(name) for item, name in enumerate(sorted(map(str, range(40)), key=int))}
    assert [ids[item] // 10 for item in orders[1][:30]] == [0] * 10 + [1] * 10 + [2] * 10


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (TimeSplit(), "needs one of --test-days N and --test-from DATE"),
        (TimeSplit(valid_days=3, test_days=0), "--test-days must be more than 0, not 0"),
        (TimeSplit(valid_days=300, test_days=3), "No event lies before the validation period"),
        (TimeSplit(DATES.test_from, DATES.valid_from), "is not before the test at 2024-01-11"),
        (TimeSplit(datetime(2024, 1, 11), datetime(2030, 1, 1)), "both before and in the test period; move the cuts"),
    ],
)
def test_a_split_that_leaves_nothing_says_so(tmp_path: Path, split: TimeSplit, message: str) -> None:
    with pytest.raises(DataError, match=message):
        added(tmp_path, BY_HAND, split)
    assert [path.name for path in (tmp_path / "datasets").iterdir() if not path.name.startswith(".")] == []


def test_a_file_without_timestamps_cannot_be_split_by_time(tmp_path: Path) -> None:
    path = write(tmp_path / "log.txt", "1 2 3 4\n2 3 4 5\n")
    with pytest.raises(DataError, match="has no timestamps, which --split time needs; name their column"):
        add(tmp_path, "log", path, split=DATES)
    with pytest.raises(DataError, match="which --ties random needs"):
        add(tmp_path, "log", path, ties_seed=0)


def run(home: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *words, "--home", str(home)])
    return result.exit_code, result.output


def test_the_command_splits_and_shows_what_is_cold(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", table(BY_HAND))
    cuts = ("--split", "time", "--valid-from", "2024-01-11", "--test-from", "2024-01-21")
    code, said = run(tmp_path, "add", "log", str(path), *cuts)
    assert code == 0, said
    assert "Dropped 2 rows after the training period with an item that it does not know." in said
    assert "Dropped 2 rows of the test period by users with nothing before it." in said
    assert "time: validation from 2024-01-11, test from 2024-01-21" in said
    assert run(tmp_path, "add", "next", str(path), "--updates", "log", "--max-lost", "1")[0] == 0
    assert "updates" in run(tmp_path, "show", "next")[1]
    assert run(tmp_path, "add", "more", str(path), "--valid-days", "3")[0] == 2
