"""Options: what the user asked of an import. It is stored with the dataset, and the same options import it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from trainers.data.errors import DataError

Format = Literal["sequences", "csv", "tsv", "json", "parquet", "inter", "movielens"]
FORMATS: tuple[Format, ...] = get_args(Format)
Duplicates = Literal["exact", "day", "none"]
DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "colons": "::"}
"""Words that --delimiter takes beside the characters themselves."""


class Split(BaseModel):
    """The two points in time of a time split, as the user gave them."""

    model_config = ConfigDict(frozen=True)

    valid_from: datetime | None = None
    test_from: datetime | None = None
    valid_days: float | None = None
    test_days: float | None = None


class Options(BaseModel):
    """How a file becomes a dataset. Everything that is None or at its default is decided by the file."""

    model_config = ConfigDict(frozen=True)

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    format: Format | None = None
    delimiter: str | None = None
    no_header: bool = False
    timestamp_format: str | None = None
    where: str | None = None
    min_rating: float | None = None
    drop_duplicates: Duplicates | None = None
    """None is `exact`, and says that the user did not ask for it."""
    collapse_repeats: bool = False
    max_events_per_user: int | None = None
    k_core: int | None = None
    split: Split | None = None
    ties_seed: int | None = None

    @property
    def named(self) -> bool:
        """Whether the user named a column, which makes any file a table."""
        return not (self.user is None and self.item is None and self.timestamp is None)

    def checked(self) -> Options:
        """These options with the delimiter as its characters. Raises DataError for a value that no import can take."""
        for name in ("k_core", "max_events_per_user"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name}={value!r} must be at least 1; leave it out to keep everything.")
        if self.delimiter is None:
            return self
        delimiter = DELIMITERS.get(self.delimiter.lower(), self.delimiter)
        if not 1 <= len(delimiter.encode()) <= 4 or any(mark in delimiter for mark in "\r\n\"'"):
            words = ", ".join(word for word in DELIMITERS if word.isalpha())
            raise DataError(f"--delimiter {self.delimiter!r} is not one to four characters, or one of: {words}.")
        return self.model_copy(update={"delimiter": delimiter})

    def arguments(self) -> Iterator[str]:
        """The options of `virtualmle data add` that ask for this again, each with its value, quoted for a shell."""
        for name, value in self.model_dump(exclude={"split", "ties_seed"}, exclude_defaults=True).items():
            option = "--" + name.replace("_", "-")
            if name == "delimiter":
                value = next((word for word, mark in DELIMITERS.items() if mark == value and word.isalpha()), value)
            yield option if value is True else f"{option} {shlex.quote(_text(value))}"
        if self.split is not None:
            yield "--split time"
            for name, value in self.split.model_dump(exclude_none=True).items():
                yield f"--{name.replace('_', '-')} {shlex.quote(_text(value))}"
        if self.ties_seed is not None:
            yield f"--ties random --seed {self.ties_seed}"


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{value:.15g}" if isinstance(value, float) else str(value)
