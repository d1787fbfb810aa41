"""Files as the world writes them: each is understood rightly, or refused with the line that says what to do."""

from __future__ import annotations

import gzip
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.interactions import write
from trainers.data import DataError, Dataset, add

USERS, LENGTH, ITEMS = 40, 8, 30
BEGIN = datetime(2014, 4, 7, 10, 0, tzinfo=UTC)


def rows(step: timedelta = timedelta(hours=1)) -> list[tuple[str, str, datetime]]:
    """40 users with 8 events each: user u takes the items u, u + 1, … of 30, so that ids ascend over time."""
    return [
        (str(user), str(100 + (user + place) % ITEMS), BEGIN + place * step + timedelta(minutes=user))
        for user in range(1, USERS + 1)
        for place in range(LENGTH)
    ]


def lines(*cells: str, step: timedelta = timedelta(hours=1), header: str = "") -> str:
    """A file with one row an event: `cells` are templates of user (u), item (i) and time (t), joined as they are."""
    template = "".join(cells)
    body = [template.format(u=u, i=i, t=t, s=int(t.timestamp())) for u, i, t in rows(step)]
    return "\n".join(([header] if header else []) + body) + "\n"


def stored(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> Dataset:
    return add(tmp_path / "datasets", "log", write(tmp_path / name, content), **options)


def refusal(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        stored(tmp_path, name, content, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "datasets").exists() or list((tmp_path / "datasets").iterdir()) == []
    return str(caught.value)


def expected(tmp_path: Path) -> str:
    """The content hash of the log without any difficulty."""
    path = write(tmp_path / "plain.csv", lines("{u},{i},{s}", header="user_id,item_id,timestamp"))
    return add(tmp_path / "plain", "plain", path).content_hash


DAY = timedelta(days=1)
RIGHT: dict[str, tuple[str, dict[str, Any], str]] = {
    "named columns of a table of check-ins.txt": (
        lines("{u}\t{t:%Y-%m-%dT%H:%M:%SZ}\t30.392{i}\t-97.820{i}\t{i}"),
        {"user": "1", "item": "5", "timestamp": "2"},
        "ISO 8601",
    ),
    "large item ids and no header.txt": (lines("{u} {i} {s}"), {}, "s since 1970"),
    "a delimiter that is named.txt": (lines("{u}~{i}~{s}"), {"delimiter": "~"}, "s since 1970"),
    "a delimiter in words.txt": (lines("{u}|{i}|{s}"), {"delimiter": "pipe"}, "s since 1970"),
    "decimal commas.csv": (lines("{u};{i};{s},0;29,95", header="user_id;item_id;timestamp;price"), {}, "s since 1970"),
    "decimal commas without a header.csv": (lines("{u};{i};29,95;{s}"), {}, "s since 1970"),
    "commas in titles between pipes.txt": (
        lines("{u}|{i}|{s}|A, B and C", header="user|item|time|title"), {}, "s since 1970"
    ),
    "commas in titles between tabs.txt": (
        lines("{u}\t{i}\t{s}\tA, B", header="user\titem\ttime\ttitle"), {}, "s since 1970"
    ),
    "recbole.inter": (
        lines("{u},{i},{s}", header="user_id:token,item_id:token,timestamp:float"), {}, "s since 1970"
    ),
    "recbole by spaces.inter": (
        lines("{u} {i} {s}", header="user_id:token item_id:token timestamp:float"), {}, "s since 1970"
    ),
    "one letter names.csv": (lines("{u},{i},{s}", header="u,i,t"), {}, "s since 1970"),
    "american dates.csv": (
        lines("{i},{t:%m/%d/%Y %H:%M},{u}.0", step=DAY, header="StockCode,InvoiceDate,CustomerID"),
        {},
        "%m/%d/%Y %H:%M",
    ),
    "half days.csv": (
        lines("{u},{i},{t:%m/%d/%Y %I:%M:%S %p}", step=DAY, header="user,item,date"), {}, "%m/%d/%Y %I:%M:%S %p"
    ),
    "european dates.csv": (
        lines("{u};{i};{t:%d.%m.%Y %H:%M}", header="user;item;date"), {}, "%d.%m.%Y %H:%M"
    ),
    "european dates with slashes.csv": (
        lines("{u};{i};{t:%d/%m/%Y %H:%M}", step=DAY * 2, header="user;item;date"), {}, "%d/%m/%Y %H:%M"
    ),
    "dates that are named.csv": (
        lines("{u};{i};{t:%d/%m/%Y %H:%M}", header="user;item;date"),
        {"timestamp_format": "%d/%m/%Y %H:%M"},
        "%d/%m/%Y %H:%M",
    ),
    "compact.csv": (lines("{u},{i},{t:%Y%m%d%H%M%S}", header="user,item,date"), {}, "%Y%m%d%H%M%S"),
    "compact hours.csv": (
        lines("{u},{i},{t:%Y%m%d%H}", header="user,item,date"), {"drop_duplicates": "none"}, "%Y%m%d%H"
    ),
    "unix date.csv": (
        lines("{u},{i},{t:%a %b %d %H:%M:%S} +0000 {t:%Y}", header="user,item,date_added"),
        {},
        "%a %b %d %H:%M:%S %z %Y",
    ),
    "months in letters.csv": (lines("{u},{i},{t:%d-%b-%Y %H:%M}", header="user,item,date"), {}, "%d-%b-%Y %H:%M"),
    "no zone, a space and a fraction.csv": (
        lines("{u},{i},{t:%Y-%m-%d %H:%M:%S.250}", header="user,item,last_watch_dt"), {}, "ISO 8601"
    ),
    "milliseconds.csv": (lines("{u},{i},{s}000", header="user,item,time_ms"), {}, "ms since 1970"),
    "two spellings.csv": (
        "".join(
            line.replace(",1396", ".0,1396") if number % 2 else line
            for number, line in enumerate(lines("{u},{i},{s}\n", header="user,item,timestamp").splitlines(True))
        ),
        {},
        "s since 1970",
    ),
    "dates before ids.csv": (lines("{t:%Y-%m-%dT%H:%M:%SZ},{u},{i}"), {}, "ISO 8601"),
    "days beside milliseconds.csv": (
        lines("{u},{i},{t:%Y%m%d},{s}000", header="user_id,video_id,date,time_ms"), {}, "ms since 1970"
    ),
    "no users but sessions.csv": (
        lines("{u};NA;{i};{s}", header="sessionId;userId;itemId;eventdate"), {}, "s since 1970"
    ),
    "single quotes.csv": (lines("'{u}','{i}','{s}','it, is'", header="'user','item','ts','title'"), {}, "s since 1970"),
    "backslashes.csv": (
        lines('{u},{i},{s},"so \\"it\\", is"', header="user,item,ts,title"), {}, "s since 1970"
    ),
    "rows over two lines.csv": (lines('{u},{i},{s},"one\ntwo"', header="user,item,ts,title"), {}, "s since 1970"),
    "missing markers.csv": (
        lines("{u},{i},{s}", header="user,item,ts") + "NA,100,5\n1,N/A,5\n1,#N/A,5\n1,100,NULL\nNone,100,5\n",
        {},
        "s since 1970",
    ),
    "a header that is none.csv": (
        "user_id,item_id,timestamp\n" + lines("{u},{i},{s}"),
        {"no_header": True, "user": "1", "item": "2", "timestamp": "3"},
        "s since 1970",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_of_the_world_gives_the_same_dataset_as_a_plain_one(name: str, tmp_path: Path) -> None:
    content, options, time_format = RIGHT[name]
    dataset = stored(tmp_path, name, content, **options)
    assert (dataset.report.time_format, dataset.content_hash) == (time_format, expected(tmp_path))


def test_a_quote_that_comes_late_loses_no_row(tmp_path: Path) -> None:
    head = lines("{u},{i},{s}", header="user,item,ts") * 1
    late = "".join(
        f'{user},"Item {item}, large",{1_500_000_000 + item}\n' for user in range(50, 90) for item in range(5)
    )
    padding = "".join(f"x{number},100,{1_400_000_000 + number}\n" for number in range(9_000))
    dataset = stored(tmp_path, "late.csv", head + padding + late)
    assert (dataset.facts.users, dataset.facts.interactions) == (80, 520)
    assert dataset.report.dropped == {"short_user": 9_000}


def test_units_may_be_mixed_and_are_said(tmp_path: Path) -> None:
    mixed = [f"{u},{i},{int(t.timestamp())}{'000' if number % 2 else ''}" for number, (u, i, t) in enumerate(rows())]
    dataset = stored(tmp_path, "mixed.csv", "user,item,timestamp\n" + "\n".join(mixed))
    assert dataset.content_hash == expected(tmp_path)
    assert any("160 rows are times only in ms" in warning for warning in dataset.report.warnings)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "check-ins.txt": (lines("{u}\t{t:%Y-%m-%dT%H:%M:%SZ}\t30.3\t-97.8\t{i}"), {}, "has no header and 5 columns"),
    "mind.tsv": (
        lines("{i}\tU{u}\t{t:%m/%d/%Y %I:%M:%S %p}\tN1 N2 N3 N4 N5\tN4-0 N5-1"), {}, "4 holds 'N1 N2 N3 N4 N5' (lists)"
    ),
    "lists.txt": ("".join(f"[{n}, 2, 3, 4]\n" for n in range(9)), {}, "holds lists such as '[0, 2, 3, 4]'"),
    "lists in cells.csv": (
        "".join(f'{n},"[1, 2, {n}]"\n' for n in range(9)), {}, "column '2' for --item holds lists such as '[1, 2, 0]'"
    ),
    "lists by commas.tsv": ("".join(f"{n}\t1,2,{n}\n" for n in range(9)), {}, "holds lists such as '1,2,0'"),
    "sections.txt": ("1:\n7,3,2005-09-05\n8,4,2005-09-06\n2:\n7,1,2005-09-07\n", {}, "has lines such as '1:'"),
    "times between items.txt": (
        "".join(f"{u} 5 2014-01-01T00:00:0{u} 6 2014-01-02T00:00:00\n{u} 5 2014-01-03T00:00:00\n" for u in range(5)),
        {},
        "its items would be mostly dates and times",
    ),
    "unix times between items.txt": (
        "".join(f"{u} " + " ".join(f"{n} {1396867669 + 77 * n + u}" for n in range(u + 2)) + "\n" for u in range(9)),
        {},
        "numbers that rise like times",
    ),
    "decimals.txt": ("".join(f"{u} 0.5 0.{u} 1.5\n{u} 0.7\n" for u in range(9)), {}, "mostly decimals"),
    "cells by commas.txt": ("1,2,3\n2,3,4,5\n3,4,5,6,7\n", {}, "a different number of cells between ','"),
    "either order.csv": (
        lines("{u},{i},{t:%d/%m/%Y}", header="user,item,date"), {}, "--timestamp-format '%d/%m/%Y' or '%m/%d/%Y'"
    ),
    "both orders.csv": ("user,item,date\n1,2,25/12/2010\n1,3,12/25/2010\n", {}, "Some dates have the day first"),
    "no times.csv": (lines("{u},{i},noon", header="user,item,time"), {}, "'noon' is no time. Read are numbers since"),
    "a time first.csv": (lines("{s},{u},{i}"), {}, "which is which would be a guess"),
    "objects.json": ('{"1": {"5": 3, "6": 4}}', {}, "is one JSON object of objects"),
    "pairs.json": ('{"1": [[5, 1396867669], [6, 1396867670]]}', {}, "has lists of lists or objects"),
    "a pattern.csv": (
        lines("{u},{i},{s}", header="user,item,time"), {"timestamp_format": "seconds"}, "is none of iso, unix, s, ms"
    ),
    "a delimiter.csv": (lines("{u},{i},{s}"), {"delimiter": "comma and"}, "is not one to four characters"),
    "no rating.csv": (
        lines("{u},{i},{s}", header="user,item,time"), {"min_rating": 3.0}, "No column of"
    ),
    "no times for days.txt": ("1 2 3 4\n", {"drop_duplicates": "day"}, "--drop-duplicates day needs timestamps"),
    "no columns.txt": ("1 2 3 4\n", {"where": "x > 1"}, "has no columns for --where"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_a_guess_is_refused_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    content, options, message = REFUSED[name]
    assert message in refusal(tmp_path, name, content, **options)


def test_a_json_object_of_lists_is_read_as_sequences(tmp_path: Path) -> None:
    histories: dict[str, list[int]] = {}
    for user, item, _ in rows():
        histories.setdefault(user, []).append(int(item))
    whole = stored(tmp_path, "map.json", json.dumps(histories))
    assert whole.report.format == "json, an object of lists"
    pretty = add(tmp_path / "pretty", "log", write(tmp_path / "p.json", json.dumps(histories, indent=1)))
    by_line = "\n".join(json.dumps({user: items}) for user, items in histories.items())
    lined = add(tmp_path / "lined", "log", write(tmp_path / "l.jsonl", by_line))
    assert {whole.content_hash, pretty.content_hash, lined.content_hash} == {expected(tmp_path)}


def test_a_folder_of_parts_is_the_whole(tmp_path: Path) -> None:
    header, *body = lines("{u},{i},{s}", header="user_id,item_id,timestamp").splitlines()
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(4):
        write(folder / f"part-{number}.csv", "\n".join([header, *body[number * 80 : number * 80 + 80]]) + "\n")
    (folder / "_SUCCESS").write_text("")
    (folder / "part-9.csv").write_text("")
    assert add(tmp_path / "datasets", "log", folder).content_hash == expected(tmp_path)
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in folder.glob("part-[0-3].csv"):
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert add(tmp_path / "datasets", "packed", packed).content_hash == expected(tmp_path)
    write(folder / "part-4.csv", "user_id,timestamp,item_id\n1,5,6\n")
    with pytest.raises(DataError, match=r"differ in format or columns"):
        add(tmp_path / "datasets", "other", folder)


def test_parquet_and_its_parts_give_what_csv_gives(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE log (user_id BIGINT, item_id DOUBLE, clicked_on TIMESTAMP)")
        connection.executemany(
            "INSERT INTO log VALUES (?, ?, ?)", [(int(u), int(i), t.replace(tzinfo=None)) for u, i, t in rows()]
        )
        for number in range(2):
            connection.execute(
                f"COPY (SELECT * FROM log LIMIT 160 OFFSET {160 * number}) "
                f"TO '{folder}/{number}.parquet' (FORMAT parquet)"
            )
    dataset = add(tmp_path / "datasets", "log", folder)
    assert (dataset.content_hash, dataset.report.columns["timestamp"]) == (expected(tmp_path), "clicked_on")


def test_a_zip_archive_with_one_file_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/log.csv", lines("{u},{i},{s}", header="user,item,ts"))
        archive.writestr("__MACOSX/folder/._log.csv", "rubbish")
    assert add(tmp_path / "datasets", "log", tmp_path / "log.zip").content_hash == expected(tmp_path)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "1,2,3\n")
        archive.writestr("b.csv", "1,2,3\n")
    with pytest.raises(DataError, match=r"holds 'a.csv', 'b.csv'; a zip archive with one file is read"):
        add(tmp_path / "datasets", "two", tmp_path / "two.zip")


def test_a_zip_archive_packed_in_a_way_that_is_not_known_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
        archive.writestr("log.csv", lines("{u},{i},{s}", header="user,item,ts"))
    packed = (tmp_path / "log.zip").read_bytes()
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # the method of compression, in both headers
        at = packed.index(mark) + place
        packed = packed[:at] + b"\x63\x00" + packed[at + 2 :]
    (tmp_path / "log.zip").write_bytes(packed)
    with pytest.raises(DataError, match=r"is a zip archive packed in a rare way; unpack it first\.$"):
        add(tmp_path / "datasets", "log", tmp_path / "log.zip")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.gz"])
def test_what_unpacks_to_far_more_than_a_log_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.data.importing.files.sources.BOMB_BYTES", 1 << 20)
    content = b"1,2,3\n" * 2_000_000
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", content)
    else:
        (tmp_path / name).write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"200 times its size"):
        add(tmp_path / "datasets", "log", tmp_path / name)
    assert not (tmp_path / "datasets").exists() or list((tmp_path / "datasets").iterdir()) == []


def test_a_parquet_file_that_claims_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 1 AS user_id, 2 AS item_id FROM range(2_000_000)) TO "
            f"'{tmp_path}/log.parquet' (FORMAT parquet)"
        )
    monkeypatch.setattr("trainers.data.importing.readers.BOMB_ROWS", 1000)
    with pytest.raises(DataError, match=r"claims 2,000,000 rows in [0-9,]+ bytes, which no log does"):
        add(tmp_path / "datasets", "log", tmp_path / "log.parquet")
    assert list((tmp_path / "datasets").iterdir()) == []


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (("45292.5", "45293.25", "45294.75"), "2024-01-01 12:00:00"),
        (("45292,5", "45293,25", "45294,75"), "2024-01-01 12:00:00"),
        (("20240101", "20240102", "20240103"), "2024-01-01 00:00:00"),
        (("202401011230", "202401021230", "202401031230"), "2024-01-01 12:30:00"),
        (("1/13/2024 1:05 PM", "1/14/2024 1:05 PM", "1/15/2024 12:05 AM"), "2024-01-13 13:05:00"),
        (("13/1/2024 01:05", "14/1/2024 01:05", "15/1/2024 01:05"), "2024-01-13 01:05:00"),
        (("2024-01-01T01:00:00+02:00", "2024-01-01T02:00:00Z", "2024-01-02 00:00:00"), "2023-12-31 23:00:00"),
        (("1704110400000", "1704110401000", "1704110402000"), "2024-01-01 12:00:00"),
        (("Mon Jan 01 12:00:00 -0800 2024", "Tue Jan 02 12:00:00 -0800 2024") * 2, "2024-01-01 20:00:00"),
    ],
)
def test_a_time_is_the_moment_that_it_says(cells: tuple[str, ...], first: str, tmp_path: Path) -> None:
    events = [f"{user};{place};{cells[place % len(cells)]}" for user in range(5) for place in range(4)]
    dataset = stored(tmp_path, "times.csv", "user;item;time\n" + "\n".join(events) + "\n")
    assert dataset.report.span is not None
    assert dataset.report.span[0] == first
