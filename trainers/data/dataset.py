"""Dataset and TrainingData: what is known of a stored dataset, and the arrays that a training may see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

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
    """Rows by reason: broken_row, missing_field, broken_timestamp, duplicate, short_user, k_core."""
    share_lost: float = 0.0


class Dataset(BaseModel):
    """One stored dataset; `path` is its folder and is no part of its JSON."""

    model_config = ConfigDict(frozen=True)

    name: str
    content_hash: str
    split: str = SPLIT
    facts: DatasetFacts
    report: ImportReport
    synthetic: bool = False
    path: Path = Field(default=Path(), exclude=True)


@dataclass(frozen=True)
class TrainingData:
    """The part of a dataset that a training may see: training items, packed, and one validation item a user.

    items (N,) int32, the users' training items one after the other, oldest first; user u's are
    items[offsets[u]:offsets[u + 1]]. offsets (users + 1,) int64. validation (users,) int32. Items count from 0.
    """

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int32]
    num_items: int
    facts: DatasetFacts


@dataclass(frozen=True)
class Sequences:
    """Every kept event before the split: items (N,) int32 by user and time, offsets (users + 1,) int64.

    `times` (N,) float64 is None where the source had no timestamps.
    """

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    num_items: int
    times: npt.NDArray[np.float64] | None = None
