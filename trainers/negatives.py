"""Negatives: items drawn to stand for the catalogue, all alike or by popularity, and how likely each was."""

from __future__ import annotations

from math import log

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.fields import Spec


class Negatives:
    """`counts` (V,): how often each item stands in the training split; one is added, so that all can be drawn."""

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
        """Items (K,) for all positions, or (positions, K) of their own."""
        shape = (self.number,) if self.shared else (positions, self.number)
        if self.chances is None:
            return torch.randint(self.num_items, shape, generator=generator, device=generator.device)
        points = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return torch.searchsorted(self.up_to, points).clamp(max=self.num_items - 1)

    def correction(self, negatives: Tensor) -> Tensor | None:
        """What is added to the scores of `negatives`, of their shape: minus the log of how often each is expected.

        Then the sum over negatives is, on average, the sum over the catalogue (Bengio & Senecal 2008).
        """
        if not self.corrected:
            return None
        if self.chances is None:
            return torch.full(negatives.shape, log(self.num_items / self.number), device=negatives.device)
        return -(self.chances[negatives] * self.number).log().float()
