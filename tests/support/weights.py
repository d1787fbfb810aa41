"""The weights of a training as a dictionary, and whether two are the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.training.state import TrainState


def weights_of(state: TrainState) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def table(model: nn.Module, name: str = "items") -> nn.Embedding:
    """An embedding table of an encoder."""
    found = model.get_submodule(name)
    assert isinstance(found, nn.Embedding)
    return found


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
