"""Reads times: finds out in which of the usual forms a column writes them, as SQL that gives seconds since 1970."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainers.data.errors import DataError
from trainers.data.importing.columns.contents import NEWEST, OLDEST, is_missing, is_number
from trainers.data.importing.sql import text

FORMATS_READ = (
    "numbers since 1970 (s, ms, us, ns), ISO 8601, YYYYMMDD[hhmmss], 31/12/2014 and 12/31/2014 with or without a time "
    "and AM/PM, 31 Dec 2014, Wed Dec 31 08:00:00 -0700 2014, Excel's day numbers"
)
_ISO = re.compile(
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}"
    r"([T ]+\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|[A-Za-z_]+(/[A-Za-z_]+)*|[+-]\d{2}(:?\d{2})?)?)?"
)
_DAY = (
    r"(?P<compact>(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?P<clock>([01]\d|2[0-3])([0-5]\d([0-5]\d)?)?)?)",
    r"(?P<slashed>\d{1,2}(?P<mark>[/.-])\d{1,2}(?P=mark)(?P<year>\d{4}|\d{2}))",
    r"(?P<reversed>\d{4}\.\d{1,2}\.\d{1,2}|\d{4}[-/]\d{1,2}[-/]\d{1,2}(?=.*[AaPp][Mm]))",
    r"(?P<named>\d{1,2}(?P<gap>[ /-])(?P<month>[A-Za-z]{3,9})(?P=gap)(?P<named_year>\d{4}|\d{2}))",
    r"(?P<american>(?P<first>[A-Za-z]{3,9}|\d{1,2}) \d{1,2}, ?\d{4})",
)
_TEXTUAL = re.compile(
    r"(?P<weekday>[A-Za-z]{3,9}(?P<comma>,?) )?(" + "|".join(_DAY) + r")"
    r"(?P<separator>[T :,]{1,2})?(?(separator)(?P<time>\d{1,2}:\d{2}(?P<second>:\d{2}(?P<fraction>\.\d+)?)?)"
    r"(?P<half> ?[AaPp][Mm])?(?P<zone> ?([+-]\d{2}:?\d{2}|UTC|GMT|Z))?)"
)
_UNIX_DATE = re.compile(
    r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d{2}:\d{2}:\d{2} (?P<zone>[+-]\d{4} |[A-Z]{3,4} )?\d{4}"
)
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_MONTH_FIRST, _DAY_FIRST = "%m{0}%d{0}", "%d{0}%m{0}"


@dataclass(frozen=True)
class TimeFormat:
    """How a column writes times. `sql` has {0} where the text of a cell goes and gives seconds since 1970, or NULL."""

    words: str
    sql: str
    day: bool = False
    """Whether it has days only, so that events of a day cannot be told apart."""
    patterns: tuple[str, ...] = ()
    """The strptime patterns of text; those that begin with %? are not settled between day and month."""
    unit: bool = False
    """Whether it is a number whose unit all rows together decide."""

    @property
    def unsettled(self) -> bool:
        return any(pattern.startswith("%?") for pattern in self.patterns)


def guess(cells: Sequence[str], named: bool = False) -> TimeFormat | None:
    """The format of the times in a sample of a column; None if most cells are no time.

    A column that is `named` as the time may hold any number: small ones are an order.
    """
    filled = [re.sub(r"^(\d+)\.0+$", r"\1", cell.strip().strip('"')) for cell in cells if not is_missing(cell)]
    if not filled:
        return None
    texts = Counter(pattern for cell in filled if (pattern := _pattern(cell)) is not None)
    if sum(texts.values()) * 3 > len(filled) * 2 and not _are_numbers_since_1970(filled, texts):
        return of_patterns(tuple(texts), all("%H" not in p and "%I" not in p for p in texts) or _at_midnight(filled))
    if sum(_ISO.fullmatch(cell) is not None for cell in filled) * 3 > len(filled) * 2:
        return TimeFormat("ISO 8601", _ISO_SQL, day=all(_has_no_clock(cell) for cell in filled))
    numbers = [float(cell.replace(",", ".")) for cell in filled if is_number(cell.replace(",", ".", 1))]
    if len(numbers) * 3 <= len(filled) * 2:
        return None
    decimal_comma = any("," in cell for cell in filled)
    if named and _are_day_numbers(numbers):
        return of_words("excel", decimal_comma)
    if named or sum(OLDEST <= number <= NEWEST for number in numbers) * 3 > len(filled) * 2:
        return TimeFormat("", number_sql(decimal_comma), unit=True)
    return None


def of_words(given: str, decimal_comma: bool = False) -> TimeFormat:
    """The format that --timestamp-format names: iso, unix, s, ms, us, ns, excel, or a strptime pattern."""
    word = given.strip().lower()
    number = number_sql(decimal_comma)
    if word in ("unix", "epoch"):
        return TimeFormat("", number, unit=True)
    if word in UNITS:
        return TimeFormat(f"{word} since 1970", f"({number}) / {UNITS[word]!r}")
    if word == "excel":
        return TimeFormat("Excel's days since 1899-12-30", f"round((({number}) - 25569) * 86400)")
    if word == "iso":
        return TimeFormat("ISO 8601", _ISO_SQL)
    if "%" not in given:
        raise DataError(
            f"--timestamp-format {given!r} is none of iso, unix, s, ms, us, ns, excel, and no strptime pattern such as "
            "'%d/%m/%Y %H:%M'."
        )
    return of_patterns((given,), all(mark not in given for mark in ("%H", "%I", "%s", "%X", "%c")))


def of_patterns(patterns: tuple[str, ...], day: bool) -> TimeFormat:
    """Text in one of these strptime patterns."""
    kept = [pattern.replace("%?/", "%m/%d/").replace("%?-", "%d-%m-") for pattern in patterns]
    listed = ", ".join(text(pattern) for pattern in kept)
    cell = r"regexp_replace({0}, '(^\d+)\.0+$', '\1')"
    return TimeFormat(" or ".join(kept), f"epoch(try_strptime({cell}, [{listed}])::TIMESTAMPTZ)", day, patterns)


def settled(found: TimeFormat, month_first: bool) -> TimeFormat:
    """The format once it is known which of day and month comes first."""
    order = _MONTH_FIRST if month_first else _DAY_FIRST
    patterns = tuple(re.sub(r"%\?(.)", lambda mark: order.format(mark[1]), pattern) for pattern in found.patterns)
    return replace(of_patterns(patterns, found.day), patterns=patterns)


def number_sql(decimal_comma: bool) -> str:
    return "try_cast(replace({0}, ',', '.') AS DOUBLE)" if decimal_comma else "try_cast({0} AS DOUBLE)"


_ISO_SQL = (
    "coalesce(epoch(try_cast({0} AS TIMESTAMPTZ)), "
    r"epoch(try_cast(regexp_replace(replace({0}, ',', '.'), '\s+(Z|[+-])', '\1') AS TIMESTAMPTZ)), "
    "epoch(try_strptime({0}, ['%Y-%m-%dT%H', '%Y-%m-%d %H', '%Y-%m-%d %I:%M:%S %p', '%Y-%m-%d %I:%M %p'])))"
)


def _pattern(cell: str) -> str | None:
    """The strptime pattern of a date in letters or digits, with %? where day and month could be either way round."""
    if (unix := _UNIX_DATE.fullmatch(cell)) is not None:
        zone = "" if unix["zone"] is None else ("%z " if unix["zone"][0] in "+-" else "%Z ")
        return f"%a %b %d %H:%M:%S {zone}%Y"
    found = _TEXTUAL.fullmatch(cell)
    if found is None:
        return None
    weekday = "" if found["weekday"] is None else ("%a" if len(found["weekday"].strip(", ")) == 3 else "%A")
    head = f"{weekday}{found['comma']} " if weekday else ""
    return head + _day_pattern(found) + _clock_pattern(found)


def _day_pattern(found: re.Match[str]) -> str:
    if found["compact"]:
        return "%Y%m%d" + "%H%M%S"[: len(found["clock"] or "")]
    if found["slashed"]:
        year = "%Y" if len(found["year"]) == 4 else "%y"
        return f"%d.%m.{year}" if found["mark"] == "." else f"%?{found['mark']}{year}"
    if found["reversed"]:
        mark = next(mark for mark in "./-" if mark in found["reversed"])
        return f"%Y{mark}%m{mark}%d"
    if found["named"]:
        month = "%b" if len(found["month"]) == 3 else "%B"
        return f"%d{found['gap']}{month}{found['gap']}" + ("%Y" if len(found["named_year"]) == 4 else "%y")
    first = found["first"]
    head = "%m" if first.isdigit() else "%b" if len(first) == 3 else "%B"
    return f"{head} %d, %Y" if ", " in found["american"] else f"{head} %d,%Y"


def _clock_pattern(found: re.Match[str]) -> str:
    if found["time"] is None:
        return ""
    clock = ("%I" if found["half"] else "%H") + ":%M"
    clock += (":%S.%f" if found["fraction"] else ":%S") if found["second"] else ""
    half = found["half"] or ""
    clock += (" %p" if half.startswith(" ") else "%p") if half else ""
    zone = found["zone"] or ""
    space = " " if zone.startswith(" ") else ""
    clock += "" if not zone else space + ("%z" if zone.strip()[0] in "+-" else "%Z")
    return found["separator"] + clock


def _are_numbers_since_1970(filled: Sequence[str], texts: Counter[str]) -> bool:
    """Ten digits may be YYYYMMDDhh or seconds since 1970; they are seconds unless that would be in the future."""
    return set(texts) == {"%Y%m%d%H"} and not all(float(cell) > 1.95e9 for cell in filled if is_number(cell))


def _are_day_numbers(numbers: Sequence[float]) -> bool:
    """Whether numbers are Excel's: days since 1899-12-30 with the time of day as a fraction, from 1990 to 2050."""
    inside = sum(32874 <= number <= 55153 for number in numbers)
    return inside * 3 > len(numbers) * 2 and sum(number % 1 != 0 for number in numbers) * 2 > len(numbers)


def _at_midnight(filled: Sequence[str]) -> bool:
    return all(re.search(r"(^|\D)(0?0:00(:00)?|12:00(:00)? ?[Aa][Mm])|^\d{8}(0000|000000)?$", cell) for cell in filled)


def _has_no_clock(cell: str) -> bool:
    return ":" not in cell or re.search(r"[T ]+0?0:00(:00([.,]0+)?)?\s*(Z|UTC|[+-]00:?(00)?)?$", cell) is not None
