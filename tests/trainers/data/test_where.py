"""--where: conditions over the file's columns are read, and everything else is refused in one line."""

from __future__ import annotations

import pytest

from trainers.data import DataError
from trainers.data.importing.where import check_where

TYPES = {"event_type": "VARCHAR", "price": "DOUBLE", "two words": "VARCHAR", "ok": "BOOLEAN"}


@pytest.mark.parametrize(
    ("expression", "used"),
    [
        ("event_type = 'purchase'", {"event_type"}),
        ("price > 3 AND EVENT_TYPE IN ('x', 'y')", {"price", "event_type"}),
        ("event_type LIKE 'p%' OR price BETWEEN 1 AND 2", {"price", "event_type"}),
        ('"two words" IS NOT NULL AND NOT ok', {"two words", "ok"}),
        ("CASE WHEN price > 1 THEN ok ELSE false END", {"price", "ok"}),
        ("regexp_matches(lower(event_type), '^p') -- a remark", {"event_type"}),
        ("try_cast(event_type AS INTEGER) % 2 = 0", {"event_type"}),
        ("date_trunc('day', event_type::TIMESTAMP) > '2020-01-01'", {"event_type"}),
    ],
)
def test_a_condition_over_columns_is_read(expression: str, used: set[str]) -> None:
    assert set(check_where(expression, TYPES)) == used


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "it is empty"),
        ("price", "it is DOUBLE, not a condition"),
        ("size = 1", "names 'size', which is no column; there are 'event_type', 'price'"),
        ("event_type = (SELECT content FROM read_text('/etc/passwd'))", "subquery is not allowed"),
        ("EXISTS (FROM read_csv('/etc/passwd'))", "subquery is not allowed"),
        ("price IN (WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT * FROM r)", "subquery"),
        ("true; ATTACH 'other.db'", "syntax error"),
        ("true) UNION SELECT 1 FROM t WHERE (true", "it must be one condition"),
        ("true) GROUP BY (price", "it must be one condition"),
        ("repeat('a', 1000000000) = 'b'", "the function 'repeat' is not allowed"),
        ("replace(event_type, 'a', 'aaaa') = 'b'", "the function 'replace' is not allowed"),
        ("list_reduce([1], lambda x, y: x) = 1", "the function 'list_reduce' is not allowed"),
        ("getenv('HOME') = 'x'", "the function 'getenv' is not allowed"),
        ("current_setting('threads') = '1'", "the function 'current_setting' is not allowed"),
        ("random() < 0.5", "the function 'random' is not allowed"),
        ("row_number() OVER () > 1", "window is not allowed"),
        ("count(*) > 1", "the function 'count_star' is not allowed"),
        ("t.price > 1", "'t.price' is no column"),
        ("price > $1", "parameter is not allowed"),
        ("event_type::JSON = 'x'", "the type 'JSON' is not allowed"),
        ("/*", "unterminated"),
        ("ok AND " * 300 + "ok", "at most 2,000 are read"),
    ],
)
def test_anything_else_is_refused_in_one_line(expression: str, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        check_where(expression, TYPES)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
