"""Negatives: items sampled to stand for the catalogue, uniformly or by popularity, and the logQ correction."""

from __future__ import annotations

from math import log

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.contract.fields import Spec


class Negatives:
    """Draws negatives. `counts` (V,) is each item's number of training events; 1 is added, so all can be drawn."""

    def __init__(self, spec: Spec, counts: npt.NDArray[np.int64], device: torch.device) -> None:
        self.num_items = len(counts)
        self.number = spec.num_negatives
        self.shared = spec.negative_sharing == "batch"
        self.corrected = spec.logq_correction and spec.loss == "sampled_softmax"
        self.chances = None
        if spec.negative_distribution == "popularity":
            chances = torch.from_numpy((counts + 1) / (counts + 1).sum())
            self.chances = chances.to(device)
            self.up_to = chances.cumsum(0).to(device)

    def draw(self, positions: int, generator: torch.Generator) -> Tensor:
        """Negatives (K,) shared by all positions, or a set for each, (positions, K)."""
        shape = (self.number,) if self.shared else (positions, self.number)
        if self.chances is None:
            return torch.randint(self.num_items, shape, generator=generator, device=generator.device)
        points = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return torch.searchsorted(self.up_to, points).clamp(max=self.num_items - 1)

    def correction(self, negatives: Tensor) -> Tensor | None:
        """Terms to add to the scores of `negatives`, in their shape: minus the log of the expected count of each.

        With them, the sum over negatives is on average that over the catalogue (Bengio & Senecal 2008). None if off.
        """
        if not self.corrected:
            return None
        if self.chances is None:
            return torch.full(negatives.shape, log(self.num_items / self.number), device=negatives.device)
        return -(self.chances[negatives] * self.number).log().float()
