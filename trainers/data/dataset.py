"""Dataset and TrainingData: what is known of a stored dataset, and the arrays that a training may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from trainers.held_out import HeldOut
from trainers.spec import DatasetFacts

SPLIT = "leave-one-out"
"""The last item of a user is the test, the last but one the validation, the rest training."""


class ImportReport(BaseModel):
    """What an import read and what it left out: every dropped row is counted under exactly one reason."""

    model_config = ConfigDict(frozen=True)

    source: str
    format: str
    columns: dict[str, str] = {}
    """Which column was taken for user, item and timestamp; empty for sequence lines."""
    rows_read: int
    dropped: dict[str, int] = {}
    """Rows by reason: the keys of importing.REASONS."""
    share_lost: float = 0.0


class Dataset(BaseModel):
    """One stored dataset; `path` is its folder and is no part of its JSON."""

    model_config = ConfigDict(frozen=True)

    name: str
    content_hash: str
    split: str = SPLIT
    facts: DatasetFacts
    report: ImportReport
    cold: dict[str, int] = {}
    """Of a time split: `users` and `items` that only appear after the training period."""
    updates: str | None = None
    """The content hash of the dataset that this one is a newer version of."""
    synthetic: bool = False
    path: Path = Field(default=Path(), exclude=True)


@dataclass(frozen=True)
class Cuts:
    """Events before `valid` are training, those from `test` on are sealed; `words` names both in a report."""

    valid: float
    test: float
    words: str


@dataclass(frozen=True)
class TrainingData:
    """The part of a dataset that a training may see: training items, packed, and one validation item a user.

    items (N,) int32, the users' training items one after the other, oldest first; user u's are
    items[offsets[u]:offsets[u + 1]]. offsets (users + 1,) int64. validation (F,) int32, items to find for the users in
    validated (F,) int64: all of them, where that is None. Items count from 0.
    """

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int32]
    num_items: int
    facts: DatasetFacts
    validated: npt.NDArray[np.int64] | None = None

    def held_out(self) -> HeldOut:
        """The validation items with what their users had before."""
        if self.validated is None:
            return HeldOut(self.items, self.offsets, self.validation)
        lengths = np.diff(self.offsets)
        wanted = np.zeros(len(lengths), dtype=np.bool_)
        wanted[self.validated] = True
        kept = np.concatenate(([0], np.cumsum(lengths[self.validated])))
        return HeldOut(self.items[np.repeat(wanted, lengths)], kept.astype(np.int64), self.validation)


@dataclass(frozen=True)
class Sequences:
    """Every kept event before the split: items (N,) int32 by user and time, offsets (users + 1,) int64.

    `times` (N,) float64 is None where the source had no timestamps. `cuts`: it is to be split by time.
    """

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    num_items: int
    times: npt.NDArray[np.float64] | None = None
    cuts: Cuts | None = None
    cold: Mapping[str, int] = field(default_factory=dict[str, int])
    """Numbers of users and items that only appear after the training period."""
