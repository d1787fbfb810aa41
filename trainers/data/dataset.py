"""Dataset and TrainingData: the description of a stored dataset, and the arrays that a training may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from trainers.contract.facts import DatasetFacts
from trainers.data.held_out import HeldOut

SPLIT = "leave-one-out"
"""The split in which a user's last item is the test, the one before it the validation, and the rest training."""


class Event(BaseModel):
    """One event as it was understood; `time` is in UTC, None without timestamps."""

    model_config = ConfigDict(frozen=True)

    user: str
    item: str
    time: str | None = None


class ImportReport(BaseModel):
    """What an import understood and what it dropped; every dropped row is counted under exactly one reason."""

    model_config = ConfigDict(frozen=True)

    source: str
    format: str
    columns: dict[str, str] = {}
    """The columns taken for user, item and timestamp, by role; empty for a file of sequences."""
    ignored: list[str] = []
    """The columns that were not read."""
    time_format: str | None = None
    rows_read: int
    dropped: dict[str, int] = {}
    """Number of dropped rows by reason; the reasons are the keys of importing.add.REASONS."""
    share_lost: float = 0.0
    """Share that was dropped without the user having asked for it, of the rows that --where and --min-rating keep."""
    examples: list[Event] = []
    """The first events of the file. They hold ids, so no client of the server sees them."""
    heaviest_user: str | None = None
    """The id of the user with far more events than others; like the examples, only for whoever has the file."""
    span: tuple[str, str] | None = None
    """The first and the last time, in UTC."""
    warnings: list[str] = []
    """What is odd, in sentences that say what to do and hold no id."""


class Dataset(BaseModel):
    """One stored dataset. `path` is its folder and is not part of its JSON."""

    model_config = ConfigDict(frozen=True)

    name: str
    content_hash: str
    split: str = SPLIT
    facts: DatasetFacts
    report: ImportReport
    cold: dict[str, int] = {}
    """For a time split, the numbers of `users` and `items` that only appear after the training period."""
    updates: str | None = None
    """The content hash of the dataset that this one is a newer version of."""
    tested_users: int | None = None
    """The number of users with a test item; None if every user has one."""
    recipe: str | None = None
    """The options of `virtualmle data add` that make it from its file again; None where none is known."""
    synthetic: bool = False
    checksums: dict[str, str] = {}
    """SHA-256 of each of its files."""
    path: Path = Field(default=Path(), exclude=True)


@dataclass(frozen=True)
class Cuts:
    """A time split: events before `valid` are training, those from `test` on are sealed; `words` describes both."""

    valid: float
    test: float
    words: str


@dataclass(frozen=True)
class TrainingData:
    """The part of a dataset that a training may see: packed training items, and one validation item per user.

    `items` (N,) int32 holds the training items of one user after another, oldest first; user u's are
    items[offsets[u]:offsets[u + 1]]. `offsets` is (users + 1,) int64. `validation` (F,) int32 holds the items to find
    for the users in `validated` (F,) int64, where None means all users. Item numbers start at 0.
    """

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int32]
    num_items: int
    facts: DatasetFacts
    validated: npt.NDArray[np.int64] | None = None
    times: npt.NDArray[np.float64] | None = None
    """When the training items were taken (N,), in seconds since 1970; None without timestamps."""

    def held_out(self) -> HeldOut:
        """The validation items, each with the training items of its user."""
        if self.validated is None:
            return HeldOut(self.items, self.offsets, self.validation)
        lengths = np.diff(self.offsets)
        is_validated = np.zeros(len(lengths), dtype=np.bool_)
        is_validated[self.validated] = True
        offsets = np.concatenate(([0], np.cumsum(lengths[self.validated])))
        return HeldOut(self.items[np.repeat(is_validated, lengths)], offsets.astype(np.int64), self.validation)


@dataclass(frozen=True)
class Sequences:
    """All events that an import kept, not split yet: `items` (N,) int32 by user and time, `offsets` (users + 1,) int64.

    `times` (N,) float64 is None if the source had no timestamps. `cuts` is given for a split by time.
    """

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    num_items: int
    times: npt.NDArray[np.float64] | None = None
    cuts: Cuts | None = None
    cold: Mapping[str, int] = field(default_factory=dict[str, int])
    """For a time split, the numbers of users and items that only appear after the training period."""
