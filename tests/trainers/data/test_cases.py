"""Warnings and choices of an import: what is odd is said, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.interactions import write
from trainers.contract.metrics import filter_rule
from trainers.data import DataError, Dataset, TimeSplit, add, load_ids, load_training
from trainers.data.importing.columns.contents import is_constant_per

EVENTS = [(user, (user + place) % 9, 1_396_867_669 + 86_400 * place + user) for user in range(30) for place in range(8)]


def table(header: str, cells: Iterable[str]) -> str:
    return header + "\n" + "\n".join(cells) + "\n"


def plain(extra: str = "", name: str = "") -> str:
    return table("user,item,ts" + name, (f"{u},{i},{t}{extra}" for u, i, t in EVENTS))


def imported(tmp_path: Path, content: str, **options: Any) -> Dataset:
    return add(tmp_path / "datasets", "log", write(tmp_path / "log.csv", content), **options)


def warned(dataset: Dataset, words: str) -> bool:
    return any(words in warning for warning in dataset.report.warnings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            table("user,item,ts,event_type", (f"{u},{i},{t},{'view' if i else 'buy'}" for u, i, t in EVENTS)),
            "column 'event_type' (view, buy) looks like a rating, a label or an event type, and every row counts as an "
            "event; --where \"event_type = 'buy'\" keeps some of them.",
        ),
        (table("user,item,ts,stars", (f"{u},{i},{t},{i % 5}" for u, i, t in EVENTS)), "--min-rating 4 keeps some"),
        (table("user,item,ts,y", (f"{u},{i},{t},{i % 2}" for u, i, t in EVENTS)), '--where "y = 1" keeps some of them'),
        (plain() + "7,3,253402300799\n", "1 row is after tomorrow: row 241 is at 9999-12-31 23:59:59"),
        (plain() + "7,3,5\n7,4,6\n", "2 rows are before 1990: row 241 is at 1970-01-01 00:00:05"),
        (
            plain() + "".join(f"bot,{n % 9},{1_400_000_000 + n}\n" for n in range(300)),
            "One user has 300 of 540 events (56%): a bot or a shared account?",
        ),
        (
            table("user,item,ts,time_added", (f"{u},{i},{t},{t + 60}" for u, i, t in EVENTS)),
            "Unused: 'time_added' looks like times, and 'ts' is the timestamp",
        ),
        (
            table("user,item,when_seen,then", (f"{u},{i},{t},{u}" for u, i, t in EVENTS)),
            "Column 'when_seen' was taken as the timestamp because it holds times.",
        ),
        (
            table("user,item,x", (f"{u},{i},2014-01-0{1 + u % 9}" for u, i, _ in EVENTS)),
            "Unused: 'x' looks like times, and events keep the order of the file",
        ),
        (
            table("user,item,birth_date", (f"{u},{i},2014-01-0{1 + i % 9}" for u, i, _ in EVENTS)),
            "Unused: 'birth_date' looks like times",
        ),
        (
            table("user,item,date", (f"{u},{i % 3},2014-04-01" for u, i, _ in EVENTS)),
            "rows repeat a user, an item and a day, and were dropped as duplicates: the times are days",
        ),
        (
            table("user,item,date", (f"{u},{i},2014-04-01" for u, i, _ in EVENTS)),
            "100% of neighbouring events of a user have the same time, which is a day",
        ),
        (
            table("user,item,ts", (f"{u},{number},{t}" for number, (u, _, t) in enumerate(EVENTS))),
            "Nearly every event has an item of its own (240 items in 240 events)",
        ),
        (
            table("user,item,ts", (f"{u},30.1234{i},{t}" for u, i, t in EVENTS)),
            "The item column 'item' holds decimals, like coordinates or prices",
        ),
        (plain(), "Only 30 users validate and test: chance alone moves"),
        (table("user,item,ts", (f"{u},7,{t}" for u, _, t in EVENTS)), "Nothing can be trained on this: there is one"),
        (
            table("user,item,ts", (f"{u},{i},{t}" for u, i, t in EVENTS if t < 1_396_867_669 + 3 * 86_400)),
            "Nothing can be trained on this: no user has two training events.",
        ),
        (table("user,item,ts", (f"{u},{i},{t - 1_396_867_669}" for u, i, t in EVENTS)), "are small numbers (0 to "),
    ],
)
def test_what_is_odd_is_said(content: str, words: str, tmp_path: Path) -> None:
    dataset = imported(tmp_path, content)
    assert warned(dataset, words), dataset.report.warnings


@pytest.mark.parametrize(("days", "late"), [(-1, False), (0, False), (3, True)])
def test_what_lies_after_tomorrow_is_late(days: int, late: bool, tmp_path: Path) -> None:
    moment = (datetime.now(UTC) + timedelta(days=days)).timestamp()
    assert warned(imported(tmp_path, plain() + f"7,3,{int(moment)}\n"), "1 row is after tomorrow: row 241") == late


def test_nothing_odd_is_said_of_a_log_without_oddities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},p{rng.integers(80)},{1_500_000_000 + 5_000 * place + int(rng.integers(4_000))},{rng.random():.2f}"
        for user in range(600)
        for place in range(8)
    ]
    assert imported(tmp_path, table("user_id,item_id,timestamp,price", rows)).report.warnings == []


def test_the_unused_columns_are_named_and_the_finer_time_is_taken(tmp_path: Path) -> None:
    content = table("user,item,date,time_ms,x", (f"{u},{i},20140407,{t}000,a" for u, i, t in EVENTS))
    report = imported(tmp_path, content).report
    assert (report.columns["timestamp"], report.ignored) == ("time_ms", ["date", "x"])
    assert report.warnings[0] == "Column 'date' has days only, so the finer 'time_ms' is the timestamp."


@pytest.mark.parametrize(("missing", "taken"), [(4, True), (6, False)])
def test_a_column_of_times_that_is_missing_in_most_rows_is_no_timestamp(
    missing: int, taken: bool, tmp_path: Path
) -> None:
    rows = (f"{u},{i},{'' if (u + i) % 10 < missing else f'2014-04-{1 + i:02}'}" for u in range(30) for i in range(10))
    dataset = imported(tmp_path, table("user,item,returned_on", rows))
    assert ("timestamp" in dataset.report.columns) == taken


def test_what_each_key_has_once_is_no_attribute_of_it() -> None:
    assert is_constant_per(["a", "a", "b"], ["1", "1", "2"])
    assert not is_constant_per(["a", "b", "c"], ["1", "2", "3"])
    assert not is_constant_per(["a", "b", "b"], ["1", "1", "2"])
    assert not is_constant_per(["a", "a", "a"], ["1", "1", "2"])


def test_a_timestamp_can_be_declined(tmp_path: Path) -> None:
    dataset = imported(tmp_path, plain(), timestamp="none")
    assert ("timestamp" in dataset.report.columns, dataset.facts.timestamp_tie_rate) == (False, None)
    assert dataset.recipe == "--user user --item item --timestamp none"


SHOP = table(
    "user,item,ts,kind,price,stars",
    (
        f'{u},{i},{t},{"buy" if (u + i) % 2 else "view"},"{i},50",{1 + i % 5}'
        for u in range(40)
        for i, t in ((place % 7, 1_396_867_669 + place) for place in range(12))
    ),
)


@pytest.mark.parametrize(
    ("options", "events", "dropped"),
    [
        ({"where": "kind = 'buy'"}, 240, {"where": 240}),
        ({"where": "price > 2.5 AND kind LIKE 'b%'"}, 120, {"where": 360}),
        ({"where": "KIND IN ('buy', 'view')"}, 480, {}),
        ({"min_rating": 3.0}, 240, {"low_rating": 240}),
        ({"min_rating": 2.0, "where": "kind = 'buy'"}, 180, {"where": 240, "low_rating": 60}),
        ({"max_events_per_user": 5}, 200, {"old_event": 280}),
    ],
)
def test_what_counts_as_an_event_can_be_said(
    options: dict[str, Any], events: int, dropped: dict[str, int], tmp_path: Path
) -> None:
    dataset = imported(tmp_path, SHOP, **options)
    assert (dataset.facts.interactions, dataset.report.dropped) == (events, dropped)
    assert dataset.report.share_lost == 0


def test_the_share_that_was_lost_is_one_of_the_rows_that_the_conditions_keep(tmp_path: Path) -> None:
    rows = [f"{user},{item},view" for user in range(10) for item in range(9)]
    rows += [f"{user},{item},buy" for user in range(5) for item in range(3 if user else 2)]
    report = imported(tmp_path, table("user,item,kind", rows), where="kind = 'buy'").report
    assert (report.rows_read, report.dropped) == (104, {"where": 90, "short_user": 2})
    assert report.share_lost == 2 / 14


def test_the_newest_events_of_a_user_are_kept(tmp_path: Path) -> None:
    dataset = imported(tmp_path, SHOP, max_events_per_user=4)
    assert load_training(dataset.path).items[:2].tolist() == [0, 1]
    assert load_ids(dataset.path) == ["1", "2", "3", "4"]  # of the items 0 … 6 0 1 2 3 4


def test_repeats_in_a_row_collapse_and_others_stay(tmp_path: Path) -> None:
    content = table("user,item,ts", [f"a,{item},{time}" for time, item in enumerate((1, 1, 2, 2, 2, 1, 3))])
    dataset = imported(tmp_path, content, collapse_repeats=True)
    assert (dataset.facts.interactions, dataset.report.dropped) == (4, {"repeat": 3})
    assert load_training(dataset.path).items.tolist() == [0, 1]


@pytest.mark.parametrize(("how", "events"), [("exact", 5), ("day", 4), ("none", 6), (None, 5)])
def test_duplicates_are_dropped_as_asked(how: Any, events: int, tmp_path: Path) -> None:
    stamps = ["2014-04-01T08:00", "2014-04-01T08:00", "2014-04-01T09:00", "2014-04-02T08:00"]
    rows = [*(f"a,x,{stamp}" for stamp in stamps), "a,y,2014-04-03", "a,z,2014-04-04"]
    dataset = imported(tmp_path, table("user,item,date", rows), drop_duplicates=how)
    assert dataset.facts.interactions == events
    assert (dataset.report.share_lost > 0) == (how is None)


def test_the_first_of_duplicates_is_kept(tmp_path: Path) -> None:
    rows = ["a,x,5", "a,y,5", "a,x,5", "a,z,6", "a,w,7"]
    dataset = imported(tmp_path, table("user,item,ts", rows))
    ids = load_ids(dataset.path)
    assert [ids[item] for item in load_training(dataset.path).items] == ["x", "y"]


def test_the_recipe_makes_the_same_dataset_again(tmp_path: Path) -> None:
    options = {"where": "kind <> 'gift'", "min_rating": 0.5, "max_events_per_user": 20, "drop_duplicates": "none"}
    cuts = TimeSplit(valid_from=datetime(2014, 4, 7, 10, 47, 54), test_days=4 / 86_400)
    dataset = imported(tmp_path, SHOP, **options, k_core=2, split=cuts, ties_seed=4)
    assert dataset.recipe == (
        "--user user --item item --timestamp ts --where 'kind <> '\"'\"'gift'\"'\"'' --min-rating 0.5 "
        "--drop-duplicates none --max-events-per-user 20 --k-core 2 --split time --valid-from 2014-04-07T10:47:54 "
        "--test-days 4.62962962962963e-05 --ties random --seed 4"
    )


@pytest.mark.parametrize(("bots", "others"), [(2, "and 1 more has over 5%"), (3, "and 2 more have over 5%")])
def test_further_bots_are_counted(bots: int, others: str, tmp_path: Path) -> None:
    rows = "".join(f"bot{b},{n % 9},{1_400_000_000 + n}\n" for b in range(bots) for n in range(300 + b))
    assert warned(imported(tmp_path, plain() + rows), others)


def test_a_bot_is_named_to_whoever_imports_and_in_no_warning(tmp_path: Path) -> None:
    bots = "".join(f"bot,{n % 9},{1_400_000_000 + n}\n" for n in range(300))
    report = imported(tmp_path, plain() + bots).report
    assert report.heaviest_user == "bot"
    assert not any("'bot'" in warning for warning in report.warnings)


def test_a_condition_that_does_not_fit_the_values_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"as csv failed: Conversion Error: Could not convert string 'dear'") as caught:
        imported(tmp_path, SHOP, where="price = 'dear'")
    assert len(str(caught.value).splitlines()) == 1


def test_a_bot_decides_no_filter(tmp_path: Path) -> None:
    walk = [f"{user} " + " ".join(str((user + step) % 50) for step in range(8)) for user in range(100)]
    bot = "bot " + " ".join("1" for _ in range(2_000))
    facts = add(tmp_path / "datasets", "log", write(tmp_path / "log.txt", "\n".join([*walk, bot]))).facts
    assert facts.repeat_rate > 0.7
    assert (facts.repeating_users, filter_rule("auto", facts)) == (1 / 101, "yes")
    assert filter_rule("auto", facts.model_copy(update={"repeating_users": 0.05})) == "no"
    assert filter_rule("auto", facts.model_copy(update={"repeating_users": None})) == "no"  # as studies of before did


def test_a_time_split_suggests_cuts_that_leave_enough_users(tmp_path: Path) -> None:
    content = table("user,item,ts", (f"{u},{i},{t}" for u in range(900) for i, t in steps(u)))
    dataset = imported(tmp_path, content, split=TimeSplit(valid_days=0.01, test_days=0.01))
    (better,) = (warning for warning in dataset.report.warnings if "--valid-from" in warning)
    words = better.split()
    split = TimeSplit(
        *(np.datetime64(words[words.index(name) + 1]).astype(object) for name in ("--valid-from", "--test-from"))
    )
    again = add(tmp_path / "again", "log", tmp_path / "log.csv", split=split)
    assert min(again.facts.measured_users, again.tested_users or 0) >= 500
    assert not any("validate" in warning for warning in again.report.warnings)


def steps(user: int) -> list[tuple[int, int]]:
    return [((user + place) % 20, 1_396_867_669 + 40_000 * place + 43 * user) for place in range(20)]


def test_an_outlier_in_the_future_is_named_where_a_time_split_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 241 is at 9999-12-31 23:59:59\. Leave it out with --where"):
        imported(tmp_path, plain() + "7,3,253402300799\n", split=TimeSplit(valid_days=2, test_days=2))
