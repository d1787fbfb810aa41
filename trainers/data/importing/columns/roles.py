"""Finds the user, item and timestamp columns of a table, by their usual names or by what the cells hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainers.data.errors import DataError
from trainers.data.importing.columns.contents import (
    are_coordinates,
    are_dates,
    are_lists,
    distinct_share,
    is_number,
    mostly,
    share_missing,
)
from trainers.data.importing.columns.names import ONE_LETTER, USUAL_NAMES, plain, quoted, sounds_like_time
from trainers.data.importing.columns.time_columns import choose_time, guess_by_content
from trainers.data.importing.columns.times import guess
from trainers.data.importing.options import Options

MOST_UNNAMED = 4
"""Columns that a table without a header may have and still be guessed."""
NONE = "none"
"""What --timestamp takes for a file whose order is the order of events."""


@dataclass(frozen=True)
class Roles:
    """The names of the columns that matter; columns without a header are called "1", "2", …"""

    user: str
    item: str
    timestamp: str | None
    notes: tuple[str, ...] = ()
    """What is odd about the choice, in whole sentences."""

    def chosen(self) -> dict[str, str]:
        """The column of each role, for the report; absent roles are left out."""
        roles = {"user": self.user, "item": self.item, "timestamp": self.timestamp}
        return {role: name for role, name in roles.items() if name is not None}


@dataclass(frozen=True)
class Columns:
    """The columns of a table with a sample of their cells, of which entry i of each is row i."""

    names: tuple[str, ...]
    cells: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @property
    def numbered(self) -> bool:
        """Whether there is no header."""
        return list(self.names) == [str(place + 1) for place in range(len(self.names))]


def is_header(row: Sequence[str], others: Sequence[Sequence[str]], options: Options) -> bool:
    """Whether the first `row` of a table names its columns; `others` are the rows after it."""
    usual = {name for role in ("user", "item") for name in USUAL_NAMES[role]} - ONE_LETTER
    given = (options.user, options.item, options.timestamp)
    named = {plain(name) for name in given if name is not None and not name.isdigit()} - {NONE}
    plain_cells = [plain(cell) for cell in row]
    if any(cell in usual | named for cell in plain_cells) or {"u", "i"} <= set(plain_cells):
        return True
    columns = [[other[place] for other in others if place < len(other)] for place in range(len(row))]
    return any(
        not is_number(cell)
        and guess([cell]) is None
        and cell.strip() != ""
        and column
        and (all(is_number(other) for other in column) or guess(column) is not None)
        for cell, column in zip(row, columns, strict=True)
    )


def roles_of(columns: Columns, options: Options, source: str) -> Roles:
    """The roles in a table: those that were named, and the others by column name or content. Raises DataError."""
    names = columns.names
    if len(names) < 2:
        raise DataError(
            f"{source!r} has one column, {''.join(names)!r}; a table needs a user and an item column. If another "
            "character separates them, name it with --delimiter."
        )
    given = {"user": options.user, "item": options.item, "timestamp": options.timestamp}
    chosen = {
        role: None if name is None or _is_none(role, name, names) else _requested(role, name, columns, source)
        for role, name in given.items()
    }
    notes: list[str] = []
    if columns.numbered and (chosen["user"] is None or chosen["item"] is None):
        _refuse_unnamed(columns, source)
    if columns.numbered:
        guessed = guess_by_content(names, columns.cells, chosen)
        for role in ("user", "item"):
            chosen[role] = chosen[role] or guessed[role]
    else:
        for role in ("user", "item"):
            if chosen[role] is None:
                chosen[role] = _usual(role, columns, [name for name in chosen.values() if name], notes)
    user = _required("user", chosen["user"], names, source)
    item = _required("item", chosen["item"], names, source)
    if options.timestamp is None:
        chosen["timestamp"], found = choose_time(names, columns.cells, user, item, columns.numbered)
        notes += found
    roles = Roles(user, item, chosen["timestamp"], tuple(notes))
    if len({roles.user, roles.item, roles.timestamp}) < 3:
        raise DataError(f"{source!r}: user, item and timestamp must be different columns; got {roles.chosen()!r}.")
    _refuse_lists(roles, columns, source)
    return roles


def odd_ids(roles: Roles, columns: Columns) -> list[str]:
    """Warnings about ids that look like something else."""
    warnings: list[str] = []
    for role, name in (("user", roles.user), ("item", roles.item)):
        cells = columns.cells.get(name, ())
        if are_dates(cells):
            warnings.append(f"The {role} column {name!r} holds dates: name the right one with --{role}.")
        elif are_coordinates(cells):
            warnings.append(
                f"The {role} column {name!r} holds decimals, like coordinates or prices: name the right one with "
                f"--{role}."
            )
        elif sounds_like_time(name) and guess(cells) is not None:
            warnings.append(f"The {role} column {name!r} looks like a time: name the right one with --{role}.")
    return warnings


def _usual(role: str, columns: Columns, taken: Sequence[str], notes: list[str]) -> str | None:
    """The column with the best usual name for a role; one that is mostly empty gives way to the next."""
    by_plain: dict[str, str] = {}
    for name in columns.names:
        by_plain.setdefault(plain(name), name)
    there = [by_plain[name] for name in USUAL_NAMES[role] if name in by_plain and by_plain[name] not in taken]
    filled = [name for name in there if share_missing(columns.cells.get(name, ())) <= 0.5]
    if there and filled and filled[0] != there[0]:
        notes.append(
            f"Column {there[0]!r} is missing in {share_missing(columns.cells[there[0]]):.0%} of the rows, so "
            f"{filled[0]!r} is the {role}; --{role} {there[0]} takes it all the same."
        )
    best = filled or there
    return best[0] if best else None


def _refuse_unnamed(columns: Columns, source: str) -> None:
    names = columns.names
    first_is_number_time = (
        len(names) > 2
        and mostly(columns.cells[names[0]], is_number)
        and guess(columns.cells[names[0]]) is not None
        and all(guess(columns.cells[name]) is None for name in names[1:])
        and distinct_share(columns.cells[names[0]]) > 0.5
    )
    if len(names) <= MOST_UNNAMED and not first_is_number_time:
        return
    shown = "; ".join(f"{name} holds {_examples(columns.cells[name])}" for name in names[:12])
    raise DataError(
        f"{source!r} has no header and {len(names)} columns, so which is which would be a guess: give the numbers with "
        f"--user, --item and --timestamp. Column {shown}."
    )


def _examples(cells: Sequence[str]) -> str:
    shown = repr(cells[0][:40]) if cells else "nothing"
    kind = "lists" if are_lists(cells) else "times" if guess(cells) is not None else ""
    kind = kind or ("decimals" if are_coordinates(cells) else f"{len(set(cells)):,} values in {len(cells):,} rows")
    return f"{shown} ({kind})"


def _refuse_lists(roles: Roles, columns: Columns, source: str) -> None:
    for role, name in (("user", roles.user), ("item", roles.item)):
        cells = [cell.strip() for cell in columns.cells.get(name, ())]
        if are_lists(cells):
            raise DataError(
                f"{source!r}: column {name!r} for --{role} holds lists such as {cells[0][:60]!r}; write one event a "
                "line, or one user a line as `user item item …`."
            )


def _required(role: str, name: str | None, names: Sequence[str], source: str) -> str:
    if name is None:
        raise DataError(
            f"Cannot tell which column of {source!r} is the {role}; name it with --{role}. It has {quoted(names)}."
        )
    return name


def _is_none(role: str, name: str, names: Sequence[str]) -> bool:
    return role == "timestamp" and name.lower() == NONE and name not in names


def _requested(role: str, name: str, columns: Columns, source: str) -> str:
    names = columns.names
    if name in names:
        return name
    matches = [other for other in names if plain(other) == plain(name)]
    if len(matches) == 1 and plain(name):
        return matches[0]
    if not columns.numbered and name.isdigit() and 1 <= int(name) <= len(names):
        return names[int(name) - 1]
    hint = (
        f"it has no header; give the number of a column, 1 to {len(names)}"
        if columns.numbered
        else f"it has {quoted(names)}"
    )
    raise DataError(f"{source!r} has no column {name!r} for --{role}; {hint}.")
