"""HeldOut: items to predict, and the histories of their users. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class HeldOut:
    """Items to predict: `targets` (F,) int32, each after a history in `items` (N,), packed by `offsets` (F + 1,)."""

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int32]
    untrained: npt.NDArray[np.bool_] | None = None
    """Whether each user (F,) has no training event; None where all have some."""
