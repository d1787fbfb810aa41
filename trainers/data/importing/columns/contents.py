"""What cells hold: numbers, dates, lists, ratings. Decides from a sample of a column, never from one cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

MISSING = ("", "nan", "null", "none", "<na>", "\\n", "na", "n/a", "#n/a", "nat")
"""Texts that stand for a missing value, in any case; \\N is what databases export."""
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
DATE = re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ].*)?")
_DECIMAL = re.compile(r"[+-]?\d{1,3}[.,]\d{3,}")
_LIST = re.compile(r"[\[({].*[\])}]?|\d+([,;| ]\s*\d+){2,}|\S+([|; ]\S+){4,}")
_RATING_NAMES = re.compile(
    r"rating|score|stars?|label|overall|weight|event|action|behaviou?r|interaction|feedback|type|status|"
    r"(is)?(click|like|read|buy|purchase)(ed)?|verb|kind|implicit|play"
)
OLDEST, NEWEST = 1e8, 5e18
"""Numbers in this range can be times since 1970: from seconds in 1973 to nanoseconds in 2128."""


def is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def mostly(cells: Sequence[str], holds: Callable[[str], bool]) -> bool:
    """Whether `holds` is true for over two thirds of the cells with a value; real files have some broken rows."""
    filled = [cell for cell in cells if not is_missing(cell)]
    return bool(filled) and sum(map(holds, filled)) * 3 > len(filled) * 2


def mostly_match(pattern: re.Pattern[str], cells: Sequence[str]) -> bool:
    return mostly(cells, lambda cell: pattern.fullmatch(cell.strip().strip('"')) is not None)


def are_dates(cells: Sequence[str]) -> bool:
    return mostly_match(DATE, cells)


def are_lists(cells: Sequence[str]) -> bool:
    """Whether most cells hold several values, as a history does."""
    return mostly_match(_LIST, cells) and not mostly(cells, lambda cell: DATE.fullmatch(cell.strip()) is not None)


def are_coordinates(cells: Sequence[str]) -> bool:
    """Whether most cells are decimals such as a latitude; ids have no decimals."""
    return mostly(cells, lambda cell: _DECIMAL.fullmatch(cell.strip()) is not None and abs(_float(cell)) <= 180)


def share_missing(cells: Sequence[str]) -> float:
    return sum(map(is_missing, cells)) / len(cells) if cells else 0.0


def distinct_share(cells: Sequence[str]) -> float:
    """Distinct values a cell: 1 if no value comes twice."""
    return len(set(cells)) / len(cells) if cells else 0.0


def is_constant_per(cells: Sequence[str], keys: Sequence[str]) -> bool:
    """Whether each key has one value although keys come several times: the birthday of a user, say."""
    pairs = [(key, cell) for key, cell in zip(keys, cells, strict=False) if not is_missing(cell)]
    keyed = {key for key, _ in pairs}
    return len(pairs) >= 1.5 * len(keyed) > 0 and len(set(pairs)) == len(keyed) and len({cell for _, cell in pairs}) > 1


def looks_like_kind(name: str, cells: Sequence[str]) -> list[str] | None:
    """The values of a column that may say what an event is or is worth, the most frequent first; None for others."""
    filled = [cell.strip() for cell in cells if not is_missing(cell)]
    values = sorted(set(filled), key=lambda value: (-filled.count(value), value)) if len(set(filled)) <= 20 else []
    short = name.strip().lower().split(":")[0].replace("_", "").replace("-", "").replace(" ", "")
    if len(values) >= 2 and (_RATING_NAMES.search(short) or _few(filled, values)):
        return values
    return None


def _few(filled: Sequence[str], values: Sequence[str]) -> bool:
    """Whether a column without a telling name has so few values that it could be a rating, a label or a type."""
    numbers = all(is_number(value) and 0 <= _float(value) <= 10 for value in values)
    words = all(re.fullmatch(r"[A-Za-z][A-Za-z_ -]{1,30}", value) for value in values)
    return len(filled) >= 30 and len(values) <= 11 and (numbers or words)


def _float(cell: str) -> float:
    return float(cell.strip().replace(",", "."))
