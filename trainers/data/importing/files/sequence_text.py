"""Tells lines of `user item item …` from tables and from what is neither."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from trainers.data.errors import DataError
from trainers.data.importing.columns.contents import NUMBER, distinct_share
from trainers.data.importing.columns.roles import is_header
from trainers.data.importing.columns.times import guess
from trainers.data.importing.options import Options

_BRACKET = re.compile(r"[\[\](){}]")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T].*)?|\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{1,2}:\d{2}(:\d{2})?(\.\d+)?"
)
_DECIMAL = re.compile(r"[+-]?\d+[.,]\d+")
_SECTION = re.compile(r"\s*\S+:\s*")


def is_table(rows: Sequence[Sequence[str]], options: Options) -> bool:
    """Whether lines split by tabs or spaces are a table: it has a header, or columns that no sequences have."""
    if is_header(rows[0], rows[1:], options):
        return True
    width, often = Counter(map(len, rows)).most_common(1)[0]
    if width < 3 or often < 0.9 * len(rows):
        return False
    columns = [[row[place] for row in rows if len(row) == width] for place in range(width)]
    found = [guess(column) for column in columns[1:]]
    if any(form is not None and not form.unit for form in found) or any(map(_are_decimals, columns[1:])):
        return True
    times = [form is not None for form in found]
    repeated = distinct_share(columns[0]) <= 0.5
    return (any(times) and (not times[0] or repeated)) or (repeated and (width > 3 or not _share_values(columns)))


def refuse_odd_lines(source: str, lines: Sequence[str]) -> None:
    """Raises DataError for lines that hold lists, Python values, or sections with a title."""
    if re.match(r"\s*\{\s*u?'", lines[0]):
        raise DataError(
            f"{source!r} holds Python dictionaries, not JSON; write each line as JSON first, with "
            "json.dumps(ast.literal_eval(line))."
        )
    if sum(line.lstrip().startswith(("[", "(")) for line in lines) * 2 > len(lines):
        raise DataError(
            f"{source!r} holds lists such as {lines[0].strip()[:40]!r}, which name no user; write one user a line as "
            '`user item item …`, or JSON such as {"user": [item, …]}.'
        )
    sections = [line for line in lines if _SECTION.fullmatch(line)]
    if sections and len(sections) < len(lines):
        raise DataError(
            f"{source!r} has lines such as {sections[0].strip()[:40]!r} that are the title of those below; write their "
            "value into each row, so that a row has a user and an item."
        )


def refuse_odd_tokens(source: str, lines: Sequence[str]) -> None:
    """Raises DataError if what would be the items of sequences are mostly times, decimals or brackets."""
    rows = [line.split()[1:] for line in lines]
    tokens = [token for row in rows for token in row]
    kinds = {
        "dates and times": sum(_DATE.fullmatch(token) is not None for token in tokens),
        "decimals": sum(_DECIMAL.fullmatch(token) is not None for token in tokens),
        "brackets": sum(_BRACKET.search(token) is not None for token in tokens),
        "numbers that rise like times": _rising_times(rows),
    }
    odd = {kind: number for kind, number in kinds.items() if number}
    if sum(odd.values()) >= 0.4 * len(tokens) > 0:
        raise DataError(
            f"{source!r} looks like lines of `user item item …`, but its items would be mostly {' and '.join(odd)}, as "
            f"in {lines[0].strip()[:60]!r}; if it is a table, name its columns with --user, --item and --timestamp "
            "(and --delimiter)."
        )
    separators = Counter(mark for line in lines for mark in set(line) & set(",;|"))
    if separators and separators.most_common(1)[0][1] * 2 > len(lines):
        mark = separators.most_common(1)[0][0]
        raise DataError(
            f"{source!r} has lines with a different number of cells between {mark!r}, as in {lines[0].strip()[:60]!r}; "
            "lines of `user item item …` are separated by spaces, and a table has the same columns in every line."
        )


def _rising_times(rows: Sequence[Sequence[str]]) -> int:
    """Numbers that are times in seconds or milliseconds of this century, hardly repeat and rise or fall in a line."""
    numbers = [[float(token) for token in row if NUMBER.fullmatch(token)] for row in rows]
    times = [[number for number in row if 9e8 < number < 2.2e9 or 9e11 < number < 2.2e12] for row in numbers]
    every = [time for row in times for time in row]
    steps = [later - earlier for row in times for earlier, later in pairwise(row)]
    if len(every) < 2 or len(set(every)) < 0.5 * len(every) or len(steps) < 0.4 * len(every):
        return 0
    rising, falling = sum(step >= 0 for step in steps), sum(step <= 0 for step in steps)
    return len(every) if max(rising, falling) >= 0.9 * len(steps) else 0


def _are_decimals(column: Sequence[str]) -> bool:
    return sum(_DECIMAL.fullmatch(cell.strip()) is not None for cell in column) * 3 > len(column) * 2


def _share_values(columns: Sequence[Sequence[str]]) -> bool:
    """Whether the second and the third column share many values, as two items of a sequence do."""
    second, third = set(columns[1]), set(columns[2])
    return len(second & third) * 5 >= min(len(second), len(third))
