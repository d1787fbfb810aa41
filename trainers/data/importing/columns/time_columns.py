"""Chooses the column of the timestamp, or says which one it could be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainers.data.importing.columns.contents import are_dates, is_constant_per, mostly_match, share_missing
from trainers.data.importing.columns.names import USUAL_NAMES, plain, sounds_like_attribute, sounds_like_time
from trainers.data.importing.columns.times import TimeFormat, guess

_AMAZON_ITEM = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
Cells = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class _Candidate:
    """A column that could be the time of the event."""

    name: str
    format: TimeFormat
    sounds: bool
    """Whether its name says that it is a time."""


def choose_time(
    names: Sequence[str], cells: Cells, user: str, item: str, numbered: bool
) -> tuple[str | None, list[str]]:
    """The timestamp column, None if there is none, and notes on what was passed over or is unusual."""
    others = [name for name in names if name not in (user, item)]
    candidates, attributes = _candidates(others, cells, user, item)
    if numbered:
        last = candidates[-1].name if candidates else None
        return last, _could_be([c.name for c in candidates if c.name != last], last)
    usual = _usual(others, cells)
    passed: list[str] = []
    best = next((candidate for candidate in candidates if candidate.name == usual), None)
    if usual is not None and best is None:
        return usual, _could_be([candidate.name for candidate in candidates], usual)
    telling = [candidate for candidate in candidates if candidate.sounds]
    finer = [candidate for candidate in telling if not candidate.format.day]
    if best is None:
        dated = [candidate for candidate in candidates if not candidate.format.unit]
        choice = (finer or telling or dated)[:1]
        best = choice[0] if choice else None
        if best is not None:
            passed.append(f"Column {best.name!r} was taken as the timestamp because it holds times.")
    elif best.format.day and finer:
        passed.append(f"Column {best.name!r} has days only, so the finer {finer[0].name!r} is the timestamp.")
        best = finer[0]
    chosen = None if best is None else best.name
    rest = [candidate.name for candidate in candidates if candidate.name not in (chosen, usual)]
    rest = [name for name in rest if not any(repr(name) in note for note in passed)]
    if chosen is None:
        rest += attributes
    return chosen, passed + _could_be(rest, chosen)


def guess_by_content(names: Sequence[str], cells: Cells, chosen: Mapping[str, str | None]) -> dict[str, str]:
    """User and item without names: user before item, unless the first has Amazon codes; times are neither."""
    free = [name for name in names if name not in chosen.values()]
    plain_ids = [name for name in free if not (are_dates(cells[name]) or _is_late_time(name, names, cells))] or free
    pair = [name for name in plain_ids if name not in (chosen["user"], chosen["item"])]
    if chosen["user"] is None and chosen["item"] is None and len(pair) >= 2:
        first, second = pair[:2]
        if mostly_match(_AMAZON_ITEM, cells[first]) and not mostly_match(_AMAZON_ITEM, cells[second]):
            first, second = second, first
        return {"user": first, "item": second}
    return dict.fromkeys(("user", "item"), (pair or free or list(names))[0])


def _is_late_time(name: str, names: Sequence[str], cells: Cells) -> bool:
    """Whether a column after the second holds times; large ids of the first two columns look like times too."""
    return (name in names[2:] and guess(cells[name]) is not None) or _is_text_time(cells[name])


def _is_text_time(cells: Sequence[str]) -> bool:
    found = guess(cells)
    return found is not None and not found.unit


def _candidates(names: Sequence[str], cells: Cells, user: str, item: str) -> tuple[list[_Candidate], list[str]]:
    """Columns that hold times, and those among them that belong to the user or the item rather than the event."""
    candidates, attributes = list[_Candidate](), list[str]()
    for name in names:
        column = cells.get(name, ())
        found = guess(column)
        if found is None or share_missing(column) > 0.5:
            continue
        sounds = sounds_like_time(name)
        of_one = not sounds and any(is_constant_per(column, cells[key]) for key in (user, item) if key in cells)
        if of_one or (sounds_like_attribute(name) and plain(name) not in USUAL_NAMES["timestamp"]):
            attributes.append(name)
        else:
            candidates.append(_Candidate(name, found, sounds))
    return candidates, attributes


def _usual(names: Sequence[str], cells: Cells) -> str | None:
    """The column with the best usual name of a time, if it is not mostly empty."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    there = [by_plain[name] for name in USUAL_NAMES["timestamp"] if name in by_plain]
    return next((name for name in there if share_missing(cells.get(name, ())) <= 0.5), None)


def _could_be(names: Sequence[str], chosen: str | None) -> list[str]:
    if not names:
        return []
    listed = ", ".join(repr(name) for name in names)
    does = "looks" if len(names) == 1 else "look"
    what = "events keep the order of the file" if chosen is None else f"{chosen!r} is the timestamp"
    return [f"Unused: {listed} {does} like times, and {what}; name another column with --timestamp."]
