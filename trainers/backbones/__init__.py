"""The backbones by name, and what each of them is: an encoder of packed sequences with a table to score items by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Self

from torch import Tensor, nn

from trainers.batches import Layout
from trainers.fields import Spec
from trainers.fused import Masks

BACKBONES = {
    "sasrec": "trainers.backbones.sasrec:SASRec",
    "hstu": "trainers.backbones.hstu:HSTU",
}


class Encoder(nn.Module, ABC):
    """An item is scored as the dot product of a state and the item's row of the output table.

    `masks` gives the dropout masks of a training step; restarting it repeats them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.masks = Masks()

    def train(self, mode: bool = True) -> Self:
        """Training drops, evaluation does not."""
        self.masks.training = mode
        return super().train(mode)

    def encode(self, items: Tensor, offsets: Tensor) -> Tensor:
        """States (N, D) after each item: `items` (N,) of sequences that start at `offsets` (B+1,), held on the host.

        No sequence is empty or longer than max_length; a state knows only the items up to its own.
        """
        return self(items, Layout.of(offsets, items.device))

    @abstractmethod
    def forward(self, items: Tensor, layout: Layout) -> Tensor:
        """States (N, D) of the packed sequences whose places `layout` tells."""

    num_items: int

    @abstractmethod
    def output_rows(self, items: Tensor) -> Tensor:
        """The rows (K, D) of the output table that belong to `items` (K,)."""

    @abstractmethod
    def output_table(self) -> Tensor:
        """The rows (V, D) that states are scored against."""


def build(spec: Spec, num_items: int) -> Encoder:
    """A freshly initialised encoder of `spec`, drawn from torch's global generator."""
    module, name = BACKBONES[spec.backbone].split(":")
    return getattr(import_module(module), name)(spec, num_items)
