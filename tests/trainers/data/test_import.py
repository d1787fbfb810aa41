"""Import: every format gives the same dataset, columns are guessed or given, ids and order are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from tests.support.interactions import EVENTS, json_lines, sequences, table, write, write_parquet
from trainers.contract.facts import DatasetFacts
from trainers.data import DataError, Dataset, ImportReport, add, load_test, load_training
from trainers.data.dataset import Event

FORMATS = {
    "sequences.txt": sequences(),
    "sequences.txt.gz": sequences(),
    "tabs.txt": sequences().replace(" ", "\t"),
    "windows.txt": b"\xef\xbb\xbf" + sequences().replace("\n", "  \r\n\r\n").encode(),
    "pairs.txt": "".join(f"{user} {item}\n" for user, item, _ in EVENTS),
    "names.csv": table("userId", "movieId", "timestamp"),
    "names.csv.gz": table("user_id", "item_id", "ts"),
    "shuffled.csv": "\n".join(reversed(table("uid", "product_id", "time", header=False).splitlines())),
    "windows.csv": b"\xef\xbb\xbf" + table("user", "item", "date").replace("\n", "\r\n").encode(),
    "both line ends.csv": table("user", "item", "date").replace("\n", "\r\n", 3),
    "blank lines.csv": "\n\n" + table("user", "item", "date").replace("\n", "\n\n"),
    "quoted.csv": table("user", "item", "date").replace(",5.0,", ',"well, ""so""\nhe said",'),
    "semicolons.csv": table("customer_id", "article_id", "t_dat", delimiter=";"),
    "table.tsv": table("session_id", "item_id", "timestamp", delimiter="\t"),
    "spaces.txt": table("user", "item", "timestamp", delimiter=" "),
    "u.data": table("", "", "", delimiter="\t", header=False),
    "ratings.dat": table("", "", "", delimiter="::", header=False),
    "log.inter": table("user_id:token", "item_id:token", "timestamp:float", delimiter="\t"),
    "reviews_2014.json.gz": json_lines("reviewerID", "asin", "unixReviewTime"),
    "reviews_2023.jsonl": json_lines("user_id", "parent_asin", "timestamp", scale=1000),
    "array.json": "[" + json_lines("user", "item", "ts").replace("}\n{", "},\n{") + "]",
    "wild [1]*'?.csv": table("user", "item", "ts"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_content(name: str, tmp_path: Path) -> None:
    dataset = add(tmp_path / "datasets", "log", write(tmp_path / name, FORMATS[name]))
    assert dataset.content_hash == _expected(tmp_path).content_hash


def test_parquet_gives_the_same_content_under_any_file_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "log")
    dataset = add(tmp_path / "datasets", "log", tmp_path / "log")
    assert dataset.content_hash == _expected(tmp_path).content_hash
    assert dataset.report.columns == {"user": "user_id", "item": "asin", "timestamp": "date"}


def test_a_dataset_says_what_it_is_and_what_was_read(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", table("user", "item", "ts"))
    dataset = add(tmp_path / "datasets", "log", path)
    assert set(dataset.checksums) == {
        "train.safetensors", "sealed/test.safetensors", "users.parquet", "items.parquet",
    }  # fmt: skip
    assert dataset.model_copy(update={"checksums": {}}) == Dataset(
        name="log",
        content_hash=_expected(tmp_path).content_hash,
        split="leave-one-out",
        facts=DatasetFacts(
            users=2,
            items=4,
            interactions=7,
            mean_length=3.5,
            p50_length=3.5,
            p90_length=3.9,
            p95_length=3.95,
            density=7 / 8,
            item_gini=2 * (3 * 1 + 4 * 2) / (4 * 3) - 5 / 4,  # training counts 1, 0, 2, 0 of items 7, 9, 30, 100
            repeat_rate=0.0,
            timestamp_tie_rate=0.0,
            ascending_id_rate=1.0,
            repeating_users=0.0,
        ),
        report=ImportReport(
            source="log.csv",
            format="csv",
            columns={"user": "user", "item": "item", "timestamp": "ts"},
            ignored=["rating"],
            time_format="s since 1970",
            rows_read=7,
            examples=[
                Event(user="4", item="30", time="2001-09-09 01:48:20"),
                Event(user="4", item="7", time="2001-09-09 01:50:00"),
                Event(user="4", item="100", time="2001-09-09 01:51:40"),
            ],
            span=("2001-09-09 01:48:20", "2001-09-09 01:58:20"),
            warnings=["Only 2 users validate and test: chance alone moves an ndcg@10 near .05 by about ±0.277 (95 %)."],
        ),
        recipe="--user user --item item --timestamp ts",
        path=tmp_path / "datasets" / "log",
    )


def test_whole_number_ids_are_indexed_by_number_and_the_last_two_items_are_held_out(tmp_path: Path) -> None:
    folder = _expected(tmp_path).path
    data = load_training(folder)
    assert data.items.tolist() == [2, 0, 2]
    assert data.offsets.tolist() == [0, 1, 3]
    assert data.validation.tolist() == [0, 0]
    assert load_test(folder).targets.tolist() == [3, 1]
    assert (data.items.dtype, data.offsets.dtype, data.validation.dtype) == (np.int32, np.int64, np.int32)
    assert _ids(folder / "items.parquet") == [(0, "7"), (1, "9"), (2, "30"), (3, "100")]
    assert _ids(folder / "users.parquet") == [(0, "4"), (1, "11")]


def test_other_ids_are_indexed_by_text(tmp_path: Path) -> None:
    folder = add(tmp_path, "log", write(tmp_path / "log.txt", "u1 b10 b9 ü a\n")).path
    assert _ids(folder / "items.parquet") == [(0, "a"), (1, "b10"), (2, "b9"), (3, "ü")]


def test_amazon_ratings_without_header_are_read_in_both_orders(tmp_path: Path) -> None:
    rows = [(f"A{user}QH4BSOYRK4", f"B00000{item:>04}", seconds) for user, item, seconds in EVENTS]
    of_2014 = "\n".join(f"{user},{item},5.0,{seconds}" for user, item, seconds in rows)
    of_2018 = "\n".join(f"{item},{user},5.0,{seconds}" for user, item, seconds in rows)
    first = add(tmp_path, "y2014", write(tmp_path / "ratings_Beauty.csv", of_2014))
    second = add(tmp_path, "y2018", write(tmp_path / "Beauty.csv", of_2018))
    assert first.content_hash == second.content_hash
    assert first.report.columns == {"user": "1", "item": "2", "timestamp": "4"}
    assert second.report.columns == {"user": "2", "item": "1", "timestamp": "4"}


def test_amazon_2023_prefers_the_parent_of_an_item(tmp_path: Path) -> None:
    lines = json_lines("user_id", "parent_asin", "timestamp").replace('{"user_id"', '{"asin": "x", "user_id"')
    dataset = add(tmp_path / "datasets", "log", write(tmp_path / "log.jsonl", lines))
    assert dataset.content_hash == _expected(tmp_path).content_hash


def test_columns_can_be_given_by_name_or_by_number(tmp_path: Path) -> None:
    named = write(tmp_path / "named.csv", table("who", "what", "when"))
    bare = write(tmp_path / "bare.csv", table("", "", "", header=False))
    by_name = add(tmp_path / "datasets", "a", named, user="who", item="WHAT", timestamp="when")
    by_number = add(tmp_path / "datasets", "b", bare, user="1", item="2", timestamp="4")
    assert by_name.content_hash == by_number.content_hash == _expected(tmp_path).content_hash


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Cannot tell which column of 'log.csv' is the user; name it with --user. It has the columns "),
        ({"user": "who", "item": "whut"}, "'log.csv' has no column 'whut' for --item; it has the columns 'who', "),
        ({"user": "who", "item": "who"}, "'log.csv': user, item and timestamp must be different columns; got {'user'"),
        ({"format": "excel"}, "Unknown format 'excel'; there are sequences, csv, "),
        ({"format": "parquet"}, "'log.csv' is not a plain Parquet file; "),
        ({"k_core": 0}, "k_core=0 must be at least 1; "),
    ],
)
def test_a_wrong_option_says_what_there_is(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("log.csv"), table("who", "what", "when"))
    with pytest.raises(DataError) as caught:
        add(Path("datasets"), "log", Path("log.csv"), **given)
    assert str(caught.value).startswith(message)


def test_timestamps_may_be_dates(tmp_path: Path) -> None:
    lines = ["u,a,2014-03-01", "u,b,2014-01-01T10:00:00Z", "u,c,2014-01-01 09:00:00", "u,d,2014-01-01T09:30:00+02:00"]
    path = write(tmp_path / "log.csv", "user,item,date\n" + "\n".join(lines))
    folder = add(tmp_path, "log", path).path
    assert load_training(folder).items.tolist() == [3, 2]
    assert (load_training(folder).validation.tolist(), load_test(folder).targets.tolist()) == ([1], [0])


def test_equal_timestamps_keep_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,ts\nu,d,5\nu,a,5\nu,c,4\nu,b,5\nv,a,1\nv,b,1\nv,c,1\n")
    dataset = add(tmp_path, "log", path)
    assert load_training(dataset.path).items.tolist() == [2, 3, 0]  # u: c d | a | b; v: a | b | c
    assert dataset.facts.timestamp_tie_rate == 0.0
    assert load_test(dataset.path).targets.tolist() == [1, 2]


def test_a_sequence_file_with_large_ids_is_no_table(tmp_path: Path) -> None:
    rows = "\n".join(f"{user} 1000000001 1000000002 1000000003" for user in range(5))
    assert add(tmp_path, "log", write(tmp_path / "log.txt", rows)).report.format == "sequences"


def test_a_line_longer_than_any_buffer_is_read(tmp_path: Path) -> None:
    items = 130_000
    path = write(tmp_path / "log.txt", "1 " + " ".join(f"{item:017}" for item in range(items)) + "\n2 1 2 3\n")
    dataset = add(tmp_path, "log", path)
    assert (dataset.facts.users, dataset.facts.items, dataset.facts.interactions) == (2, items + 3, items + 3)


def test_k_core_is_taken_to_its_fixpoint(tmp_path: Path) -> None:
    # d goes first (1 event), so w has 2 left and goes, so c has 1 and goes, so v has 2 and goes
    lines = "u a b a b a b\nv a b c\nw c c d\nx a b a b\n"
    dataset = add(tmp_path, "log", write(tmp_path / "log.txt", lines), k_core=3)
    assert dataset.report.dropped == {"k_core": 6}
    assert (dataset.facts.users, dataset.facts.items, dataset.facts.interactions) == (2, 2, 10)


def _expected(tmp_path: Path) -> Dataset:
    return add(tmp_path / "expected", "expected", write(tmp_path / "expected.txt", sequences()))


def _ids(path: Path) -> list[tuple[int, str]]:
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT index, id FROM '{path}'").fetchall()
