"""Items to find, and what their users had before. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class HeldOut:
    """Items to find: `targets` (F,) int32, each after the history of its user, packed like training items."""

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int32]
