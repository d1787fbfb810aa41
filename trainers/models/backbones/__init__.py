"""The backbones by name, and their base class: an encoder of packed sequences with a table to score items by.

A backbone is one file and one line in the registry below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Self

from torch import Tensor, nn

from trainers.contract.fields import Spec
from trainers.models.batches import Layout
from trainers.models.fused import Masks

BACKBONES = {
    "sasrec": "trainers.models.backbones.sasrec:SASRec",
    "hstu": "trainers.models.backbones.hstu:HSTU",
}


class Encoder(nn.Module, ABC):
    """Base class of encoders. The score of an item is the dot product of a state and its row of the output table.

    `masks` provides the dropout masks of a training step; restarting it repeats them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masks = Masks()

    def train(self, mode: bool = True) -> Self:
        """Switches dropout on for training, or off for evaluation."""
        self.masks.training = mode
        return super().train(mode)

    def encode(self, items: Tensor, offsets: Tensor) -> Tensor:
        """States (N, D) after each of `items` (N,), in sequences that start at `offsets` (B+1,), held on the host.

        No sequence may be empty or longer than max_length. A state depends only on the items up to its own.
        """
        return self(items, Layout.of(offsets, items.device))

    @abstractmethod
    def forward(self, items: Tensor, layout: Layout) -> Tensor:
        """States (N, D) of packed `items` (N,), whose sequences `layout` describes."""

    num_items: int

    @abstractmethod
    def output_rows(self, items: Tensor) -> Tensor:
        """The rows (K, D) of the output table for `items` (K,)."""

    @abstractmethod
    def output_table(self) -> Tensor:
        """The output table (V, D) that states are scored against."""


def build(spec: Spec, num_items: int) -> Encoder:
    """A newly initialised encoder for `spec`; weights are drawn from torch's global generator."""
    module, name = BACKBONES[spec.backbone].split(":")
    return getattr(import_module(module), name)(spec, num_items)
