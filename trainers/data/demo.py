"""The generated dataset `demo`: item clusters, skewed popularity, and transitions that depend on the last two items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.data.dataset import Dataset, ImportReport, Sequences
from trainers.data.errors import DataError
from trainers.data.staging import staging_folder
from trainers.data.store import find, save

DEMO = "demo"
USERS, CLUSTERS, CLUSTER_ITEMS = 1000, 20, 20
SHORTEST, LONGEST, MEAN_LENGTH = 5, 40, 8.3
SKEW, SKEW_FROM = 0.9, 20
"""The item at place r has the popularity (SKEW_FROM + r) ** -SKEW: Zipf's law with a flat head."""
ALTERNATE, FOLLOW, STAY = 0.45, 0.1, 0.15
"""Chances that an event continues from the item two back, continues from the last item, or is a popular item of the
interest whose turn it is. Otherwise it is any item, drawn by popularity."""
REACH = (0.7, 0.2, 0.1)
"""Chances that an event that continues from an item moves 1, 2 or 3 steps along the cycle of its cluster."""


def add_demo(datasets_dir: Path, seed: int = 0) -> Dataset:
    """Generates and stores the synthetic dataset `demo`, which depends only on the seed and needs no download."""
    return save_generated(datasets_dir, DEMO, generate(seed), seed)


def save_generated(datasets_dir: Path, name: str, sequences: Sequences, seed: int) -> Dataset:
    """Stores generated sequences as the synthetic dataset `name`; the ids count from 1."""
    report = ImportReport(source=f"generated, seed {seed}", format="synthetic", rows_read=len(sequences.items))
    with staging_folder(datasets_dir) as staging:
        for table, size in (("users", len(sequences.offsets) - 1), ("items", sequences.num_items)):
            staging.connection.execute(
                f"CREATE TABLE {table} AS SELECT range::INTEGER AS index, (range + 1)::VARCHAR AS id FROM range({size})"
            )
        return save(staging, name, sequences, report, synthetic=True)


def ensure(datasets_dir: Path, name: str) -> Dataset:
    """The dataset called `name`; `demo` is generated if it is missing. Raises DataError."""
    if name == DEMO and not (datasets_dir / DEMO).exists():
        return add_demo(datasets_dir)
    return find(datasets_dir, name)


def refuse_demo(name: str) -> None:
    """Raises DataError for the name of the generated dataset, which files may not take: reports call it synthetic."""
    if name == DEMO:
        raise DataError("The name 'demo' is kept for the generated dataset; choose another one.")


def generate(seed: int) -> Sequences:
    """Sequences of all users, drawn together, one position after another.

    A user has two interests and alternates between them: if the item two back was the k-th of its cluster, the next
    item is often one of the few after it. So the last item alone says little, and the one before it says much.
    """
    random = np.random.default_rng(seed)
    lengths = np.clip(SHORTEST - 1 + random.geometric(1 / (MEAN_LENGTH - SHORTEST + 1), USERS), SHORTEST, LONGEST)
    catalogue = _Catalogue.draw(random)
    interests = random.integers(CLUSTERS, size=(USERS, 2))
    history = np.full((USERS, LONGEST), -1, dtype=np.int64)
    for position in range(LONGEST):
        pending = np.arange(USERS)
        while len(pending):  # nobody takes an item twice
            past = history[pending, :position]
            drawn = catalogue.next_items(random, past, interests[pending, position % 2])
            history[pending, position] = drawn
            pending = pending[(past == drawn[:, None]).any(axis=1)]
    kept = history[np.arange(LONGEST) < lengths[:, None]]
    present, items = np.unique(kept, return_inverse=True)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Sequences(items.astype(np.int32), offsets.astype(np.int64), len(present))


@dataclass(frozen=True)
class _Catalogue:
    """Items in clusters of equal size, each ordered in a cycle. C clusters of K items, V items in all.

    `cycles` (C, K) holds the items of each cluster in order, and `place` (V, 2) the reverse: the cluster of an item and
    its position in the cycle. `popularity` (V,) sums to 1. `cumulated` (C, K) is the running share of popularity
    inside each cluster, up to 1.
    """

    cycles: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    popularity: npt.NDArray[np.float64]
    cumulated: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, random: np.random.Generator) -> _Catalogue:
        size = CLUSTERS * CLUSTER_ITEMS
        popularity = 1 / (SKEW_FROM + np.arange(size)) ** SKEW
        cycles = random.permutation(size).reshape(CLUSTERS, CLUSTER_ITEMS)
        place = np.empty((size, 2), dtype=np.int64)
        place[cycles.ravel()] = np.argwhere(cycles >= 0)
        cumulated = np.cumsum(popularity[cycles], axis=1)
        return cls(cycles, place, popularity / popularity.sum(), cumulated / cumulated[:, -1:])

    def next_items(
        self, random: np.random.Generator, history: npt.NDArray[np.int64], interest: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The next item (B,) for each row of `history` (B, events so far) and the `interest` (B,) whose turn it is."""
        users, events = history.shape
        anything = random.choice(np.arange(len(self.popularity)), size=users, p=self.popularity)
        inside = (self.cumulated[interest] < random.random((users, 1))).sum(axis=1)
        of_interest = self.cycles[interest, inside]
        kind = random.choice(np.arange(4), size=users, p=(ALTERNATE, FOLLOW, STAY, 1 - ALTERNATE - FOLLOW - STAY))
        step = random.choice(np.arange(1, len(REACH) + 1), size=users, p=REACH)
        if events < 2:
            return np.where(kind == 3, anything, of_interest)
        choices = (self._along(history[:, -2], step), self._along(history[:, -1], step), of_interest, anything)
        return np.select([kind == number for number in range(4)], choices)

    def _along(self, items: npt.NDArray[np.int64], step: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        cluster, position = self.place[items].T
        return self.cycles[cluster, (position + step) % CLUSTER_ITEMS]
