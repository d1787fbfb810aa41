"""Which rows are events: the conditions of --where and --min-rating as SQL over the columns of the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trainers.data.errors import DataError
from trainers.data.importing.columns.contents import is_missing, is_number
from trainers.data.importing.columns.names import RATINGS, bare, plain, quoted
from trainers.data.importing.columns.roles import Columns
from trainers.data.importing.options import Options
from trainers.data.importing.sql import column
from trainers.data.importing.where import check_where


@dataclass(frozen=True)
class Selection:
    """The two conditions, and the SQL type of each column that --where uses."""

    where: str | None = None
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    """By column of the file."""
    native: bool = False
    """Whether the source has types of its own."""
    least: float | None = None
    rating: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the file that the conditions need."""
        return tuple(dict.fromkeys([*self.types, *([self.rating] if self.rating else [])]))

    def kept(self) -> str:
        """The condition of --where, over the columns that `typed` gives."""
        return "true" if self.where is None else f"coalesce((\n{self.where}\n), false)"

    def rated(self, places: Mapping[str, str]) -> str:
        """The condition of --min-rating; `places` has the SQL name of each column of the file."""
        if self.rating is None:
            return "true"
        return f"coalesce({_number(places[self.rating])} >= {self.least!r}, false)"

    def typed(self, places: Mapping[str, str]) -> list[str]:
        """The columns that --where uses, each with its type and the name that it has in the file."""
        return [f"{self._cell(places[name], kind)} AS {column(bare(name))}" for name, kind in self.types.items()]

    def _cell(self, place: str, kind: str) -> str:
        if self.native or kind == "VARCHAR":
            return place
        return _number(place) if kind == "DOUBLE" else f"try_cast({place} AS {kind})"


def selection_of(
    columns: Columns, native: Mapping[str, str], taken: Iterable[str], options: Options, source: str
) -> Selection:
    """The conditions of the options. `native` has the types of a source that has them. Raises DataError."""
    types = dict(native) or {name: _type_of(columns.cells.get(name, ())) for name in columns.names}
    rating = None if options.min_rating is None else _rating(columns, set(taken), source)
    by_bare = {bare(name): name for name in reversed(columns.names)}
    used = () if options.where is None else check_where(options.where, {b: types[name] for b, name in by_bare.items()})
    read = {by_bare[name]: types[by_bare[name]] for name in used}
    return Selection(options.where, read, bool(native), options.min_rating, rating)


def _rating(columns: Columns, taken: set[str], source: str) -> str:
    free = [name for name in columns.names if name not in taken]
    named = [name for rating in RATINGS for name in free if plain(name) == rating]
    if columns.numbered:
        named = [name for name in free if all(_is_small(cell) for cell in columns.cells[name] if not is_missing(cell))]
    if not named:
        raise DataError(
            f"No column of {source!r} is called like a rating, which --min-rating needs; it has "
            f'{quoted(columns.names)}. Say the condition with --where, such as --where "stars >= 4".'
        )
    return named[0]


def _is_small(cell: str) -> bool:
    return is_number(cell) and 0 <= float(cell) <= 100


def _type_of(cells: Iterable[str]) -> str:
    """The SQL type that a column of text has in --where: a number or a truth value if all its cells are."""
    filled = [cell.strip() for cell in cells if not is_missing(cell)]
    if filled and all(cell.lower() in ("true", "false") for cell in filled):
        return "BOOLEAN"
    numbers = all(is_number(cell.replace(",", ".", 1)) for cell in filled)
    codes = any(len(cell) > 1 and cell[0] == "0" and cell.isdigit() for cell in filled)
    return "DOUBLE" if filled and numbers and not codes else "VARCHAR"


def _number(place: str) -> str:
    return f"try_cast(replace({place}::VARCHAR, ',', '.') AS DOUBLE)"
