"""Which column of a table is the user, the item and the timestamp: by the usual names, else by what the cells hold."""

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
"""Per role, best first; compared without case, punctuation and RecBole's `:type`."""
_AMAZON_ITEM = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_OLDEST, _NEWEST = 1e8, 5e18
"""Numbers of this size are taken for a time since 1970: from seconds of 1973 to nanoseconds of 2128."""


@dataclass(frozen=True)
class Roles:
    """The columns that matter, by name; headerless columns are called "1", "2", …"""

    user: str
    item: str
    timestamp: str | None

    def chosen(self) -> dict[str, str]:
        """For the report: role to column, absent ones left out."""
        return {role: name for role, name in vars(self).items() if name is not None}


@dataclass(frozen=True)
class Wanted:
    """The columns a user named; None is to be guessed."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None


def plain(name: str) -> str:
    """A column name as it is compared: lower case, letters and digits only, without RecBole's type."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r":(token|float|token_seq|float_seq)$", "", name.strip()).lower())


def is_header(row: Sequence[str], others: Sequence[Sequence[str]], wanted: Wanted) -> bool:
    """Whether the first `row` of a table names its columns."""
    known = {name for role in ("user", "item") for name in USUAL_NAMES[role]}
    named = {plain(name) for name in vars(wanted).values() if name is not None and not name.isdigit()}
    if any(plain(cell) in known | named for cell in row):
        return True
    columns = [[other[place] for other in others if place < len(other)] for place in range(len(row))]
    return any(
        not _number(cell) and not _like(_DATE, [cell]) and column and all(_number(other) for other in column)
        for cell, column in zip(row, columns, strict=True)
    )


def roles_by_name(names: Sequence[str], wanted: Wanted, source: str, samples: Mapping[str, Sequence[str]]) -> Roles:
    """The roles in a table that names its columns (or numbers them: then `samples`, cells by name, decide)."""
    numbered = list(names) == [str(place + 1) for place in range(len(names))]
    if len(names) < 2:
        raise DataError(f"{source!r} has one column, {names[0]!r}; a table needs a user and an item column.")
    guess = _by_content(names, samples) if numbered else {role: _usual(role, names) for role in USUAL_NAMES}
    chosen: dict[str, str | None] = {}
    for role, given in vars(wanted).items():
        chosen[role] = guess[role] if given is None else _given(role, given, names, source, numbered)
    if wanted.timestamp is None and chosen["timestamp"] in (chosen["user"], chosen["item"]):
        chosen["timestamp"] = None
    roles = Roles(
        _found("user", chosen["user"], names, source),
        _found("item", chosen["item"], names, source),
        chosen["timestamp"],
    )
    if len({roles.user, roles.item, roles.timestamp}) < 3:
        raise DataError(f"{source!r}: user, item and timestamp must be different columns; got {roles.chosen()!r}.")
    return roles


def _found(role: str, name: str | None, names: Sequence[str], source: str) -> str:
    if name is None:
        raise DataError(
            f"Cannot tell which column of {source!r} is the {role}; name it with --{role}. It has {_quoted(names)}."
        )
    return name


def looks_like_time(cells: Sequence[str]) -> bool:
    """Whether most `cells` could be seconds, milli-, micro- or nanoseconds since 1970, or dates."""
    return _like(_DATE, cells) or _share(cells, lambda cell: _number(cell) and _OLDEST <= float(cell) <= _NEWEST)


def _usual(role: str, names: Sequence[str]) -> str | None:
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    return next((by_plain[name] for name in USUAL_NAMES[role] if name in by_plain), None)


def _by_content(names: Sequence[str], samples: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Roles without names: the last column that looks like a time, then user before item, Amazon's codes excepted."""
    timed = [name for name in names[2:] if looks_like_time(samples[name])]
    timed += [name for name in names[1:2] if len(names) > 2 and _like(_DATE, samples[name])]
    timestamp = timed[-1] if timed else None
    first, second = [name for name in names if name != timestamp][:2]
    if _like(_AMAZON_ITEM, samples[first]) and not _like(_AMAZON_ITEM, samples[second]):
        first, second = second, first
    return {"user": first, "item": second, "timestamp": timestamp}


def _given(role: str, name: str, names: Sequence[str], source: str, numbered: bool) -> str:
    if name in names:
        return name
    same = [other for other in names if plain(other) == plain(name)]
    if len(same) == 1 and plain(name):
        return same[0]
    hint = (
        f"it has no header; give the number of a column, 1 to {len(names)}" if numbered else f"it has {_quoted(names)}"
    )
    raise DataError(f"{source!r} has no column {name!r} for --{role}; {hint}.")


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return f"the columns {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _number(cell: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", cell) is not None


def _like(pattern: re.Pattern[str], cells: Sequence[str]) -> bool:
    return _share(cells, lambda cell: pattern.fullmatch(cell.strip().strip('"')) is not None)


def _share(cells: Sequence[str], holds: Callable[[str], bool]) -> bool:
    """Whether it holds for more than two thirds of the cells that are not blank: real files have broken rows."""
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and sum(map(holds, filled)) * 3 > len(filled) * 2
