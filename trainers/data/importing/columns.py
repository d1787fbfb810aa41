"""Finds the user, item and timestamp columns of a table, by their usual names or by what the cells hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainers.data.errors import DataError

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        "userid", "user", "uid", "reviewerid", "customerid", "customer", "visitorid", "memberid", "accountid",
        "profileid", "clientid", "playerid", "username", "useridx", "sessionid", "session",
    ),
    "item": (
        "parentasin", "asin", "itemid", "item", "iid", "productid", "product", "movieid", "businessid", "gmapid",
        "articleid", "trackid", "songid", "artistid", "bookid", "isbn", "videoid", "newsid", "gameid", "appid",
        "recipeid", "venueid", "placeid", "poiid", "locationid", "contentid", "stockcode", "sku", "adid", "itemidx",
    ),
    "timestamp": (
        "timestamp", "unixreviewtime", "unixtime", "time", "ts", "datetime", "eventtime", "date", "createdat",
        "createdtime", "reviewtime", "reviewdate", "purchasedate", "invoicedate", "orderdate", "tdat", "timestamps",
    ),
}  # fmt: skip
"""Usual column names of each role, best first; compared without case, punctuation and RecBole's `:type`."""
_AMAZON_ITEM = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_OLDEST, _NEWEST = 1e8, 5e18
"""Numbers in this range are taken for times since 1970: from seconds in 1973 to nanoseconds in 2128."""


@dataclass(frozen=True)
class Roles:
    """The names of the columns that matter; columns without a header are called "1", "2", …"""

    user: str
    item: str
    timestamp: str | None

    def chosen(self) -> dict[str, str]:
        """The column of each role, for the report; absent roles are left out."""
        return {role: name for role, name in vars(self).items() if name is not None}


@dataclass(frozen=True)
class Wanted:
    """The columns that the user named; None means that the column is guessed."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None


def plain(name: str) -> str:
    """A column name in the form used to compare: lower case, letters and digits only, without RecBole's type."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r":(token|float|token_seq|float_seq)$", "", name.strip()).lower())


def is_header(row: Sequence[str], others: Sequence[Sequence[str]], wanted: Wanted) -> bool:
    """Whether the first `row` of a table names its columns; `others` are the rows after it."""
    usual = {name for role in ("user", "item") for name in USUAL_NAMES[role]}
    named = {plain(name) for name in vars(wanted).values() if name is not None and not name.isdigit()}
    if any(plain(cell) in usual | named for cell in row):
        return True
    columns = [[other[place] for other in others if place < len(other)] for place in range(len(row))]
    return any(
        not _is_number(cell)
        and not _mostly_match(_DATE, [cell])
        and column
        and all(_is_number(other) for other in column)
        for cell, column in zip(row, columns, strict=True)
    )


def roles_by_name(names: Sequence[str], wanted: Wanted, source: str, samples: Mapping[str, Sequence[str]]) -> Roles:
    """The roles in a table, by column name; if columns are only numbered, `samples` decide. Raises DataError."""
    numbered = list(names) == [str(place + 1) for place in range(len(names))]
    if len(names) < 2:
        raise DataError(f"{source!r} has one column, {names[0]!r}; a table needs a user and an item column.")
    guess = (
        _guess_by_content(names, samples)
        if numbered
        else {role: _column_with_usual_name(role, names) for role in USUAL_NAMES}
    )
    chosen: dict[str, str | None] = {}
    for role, requested in vars(wanted).items():
        chosen[role] = guess[role] if requested is None else _requested_column(role, requested, names, source, numbered)
    if wanted.timestamp is None and chosen["timestamp"] in (chosen["user"], chosen["item"]):
        chosen["timestamp"] = None
    roles = Roles(
        _required_column("user", chosen["user"], names, source),
        _required_column("item", chosen["item"], names, source),
        chosen["timestamp"],
    )
    if len({roles.user, roles.item, roles.timestamp}) < 3:
        raise DataError(f"{source!r}: user, item and timestamp must be different columns; got {roles.chosen()!r}.")
    return roles


def _required_column(role: str, name: str | None, names: Sequence[str], source: str) -> str:
    if name is None:
        raise DataError(
            f"Cannot tell which column of {source!r} is the {role}; name it with --{role}. It has {_quoted(names)}."
        )
    return name


def looks_like_time(cells: Sequence[str]) -> bool:
    """Whether most `cells` could be dates, or seconds, milli-, micro- or nanoseconds since 1970."""
    return _mostly_match(_DATE, cells) or _mostly(
        cells, lambda cell: _is_number(cell) and _OLDEST <= float(cell) <= _NEWEST
    )


def _column_with_usual_name(role: str, names: Sequence[str]) -> str | None:
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    return next((by_plain[name] for name in USUAL_NAMES[role] if name in by_plain), None)


def _guess_by_content(names: Sequence[str], samples: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Roles without names: the last column like a time, then user before item, unless the first has Amazon codes."""
    timed = [name for name in names[2:] if looks_like_time(samples[name])]
    timed += [name for name in names[1:2] if len(names) > 2 and _mostly_match(_DATE, samples[name])]
    timestamp = timed[-1] if timed else None
    first, second = [name for name in names if name != timestamp][:2]
    if _mostly_match(_AMAZON_ITEM, samples[first]) and not _mostly_match(_AMAZON_ITEM, samples[second]):
        first, second = second, first
    return {"user": first, "item": second, "timestamp": timestamp}


def _requested_column(role: str, name: str, names: Sequence[str], source: str, numbered: bool) -> str:
    if name in names:
        return name
    matches = [other for other in names if plain(other) == plain(name)]
    if len(matches) == 1 and plain(name):
        return matches[0]
    hint = (
        f"it has no header; give the number of a column, 1 to {len(names)}" if numbered else f"it has {_quoted(names)}"
    )
    raise DataError(f"{source!r} has no column {name!r} for --{role}; {hint}.")


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return f"the columns {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", cell) is not None


def _mostly_match(pattern: re.Pattern[str], cells: Sequence[str]) -> bool:
    return _mostly(cells, lambda cell: pattern.fullmatch(cell.strip().strip('"')) is not None)


def _mostly(cells: Sequence[str], holds: Callable[[str], bool]) -> bool:
    """Whether `holds` is true for over two thirds of the non-blank cells; real files have some broken rows."""
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and sum(map(holds, filled)) * 3 > len(filled) * 2
