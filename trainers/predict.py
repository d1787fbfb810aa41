"""Uses an exported model: `load(path).recommend(histories, k)`. Needs torch, numpy, pydantic and safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainers.contract.fields import Spec
from trainers.contract.specs import SPECS
from trainers.data.held_out import HeldOut
from trainers.models import device as devices
from trainers.models.backbones import Encoder, build
from trainers.ranking.evaluate import Evaluation
from trainers.ranking.scoring import Scoring, rank_all

MODEL = "model.safetensors"
FORMAT = "virtualmle model 1"
_ENCODER, _POPULARITY, _PLACES, _WEIGHTS = "encoder.", "scoring.popularity", "scoring.places", "scoring.weights"
_IDS, _ENDS = "items.ids", "items.ends"


class ModelError(ValueError):
    """The model cannot be read or used, or an argument is not valid; the message says why."""


class Recommended(NamedTuple):
    """A recommended item, by its own id, and its score."""

    item: str
    score: float


@dataclass(frozen=True)
class Recommender:
    """An encoder, the scoring that makes its scores final, and the ids (V,) of its items, by item number."""

    spec: Spec
    encoder: Encoder
    scoring: Scoring | None
    ids: list[str]

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Item numbers by id."""
        return {item: number for number, item in enumerate(self.ids)}

    def unknown(self, history: Iterable[str | int]) -> list[str]:
        """The items of `history` that the dataset did not have; the model ignores them."""
        return [str(item) for item in history if str(item) not in self.numbers]

    def recommend(
        self, histories: Sequence[Sequence[str | int]], k: int = 10, exclude_seen: bool = True
    ) -> list[list[Recommended]]:
        """The `k` best items for each of `histories` (item ids, oldest first), best first.

        Unknown items are ignored; a history without known items gets an empty list. A list is shorter than `k` if no
        more items are left. `exclude_seen` leaves out all items of the history. Raises ModelError if `k` is below 1.
        """
        if k < 1:
            raise ModelError(f"k={k!r} asks for no item; it must be 1 or more.")
        numbers = self.numbers
        known_items = [[numbers[str(item)] for item in history if str(item) in numbers] for history in histories]
        users = [user for user, items in enumerate(known_items) if items]
        recommended: list[list[Recommended]] = [[] for _ in histories]
        if users:
            items, scores = self._best_items([known_items[user] for user in users], min(k, len(self.ids)), exclude_seen)
            for user, best, values in zip(users, items.tolist(), scores.tolist(), strict=True):
                pairs = zip(best, values, strict=True)
                recommended[user] = [Recommended(self.ids[number], score) for number, score in pairs if number >= 0]
        return recommended

    def _best_items(
        self, sequences: Sequence[Sequence[int]], k: int, exclude_seen: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (B, k) of the best items after B sequences, -1 where none is left, and their scores (B, k)."""
        items = np.concatenate([np.asarray(sequence, dtype=np.int32) for sequence in sequences])
        offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64)
        held_out = HeldOut(items, offsets, np.zeros(len(sequences), dtype=np.int32))
        device = next(self.encoder.parameters()).device
        rule = "yes" if exclude_seen else "no"
        evaluation = Evaluation.of(held_out, len(self.ids), self.spec.max_length, rule, device)
        everyone = rank_all(self.encoder, evaluation, self.scoring, k)
        return everyone.items, everyone.scores


def save(path: Path, recommender: Recommender, about: Mapping[str, str]) -> None:
    """Writes everything that recommending needs to one file, by rename; `about` says where the model comes from."""
    texts = [item.encode() for item in recommender.ids]
    tensors = {_ENCODER + name: tensor for name, tensor in recommender.encoder.state_dict().items()}
    tensors[_IDS] = torch.from_numpy(np.frombuffer(b"".join(texts) or b"\0", dtype=np.uint8).copy())
    tensors[_ENDS] = torch.from_numpy(np.cumsum([len(text) for text in texts]))
    scoring = recommender.scoring
    if scoring is not None and scoring.popularity is not None:
        tensors[_POPULARITY] = scoring.popularity
    if scoring is not None and scoring.related is not None:
        tensors[_PLACES], tensors[_WEIGHTS] = scoring.related.indices(), scoring.related.values()
    metadata = {
        **about,
        "format": FORMAT,
        "backbone": recommender.spec.backbone,
        "config": recommender.spec.model_dump_json(),
    }
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    temporary.replace(path)


def load(path: str | Path, device: str | None = None) -> Recommender:
    """The model in the folder that `virtualmle export` wrote, or in its model.safetensors. Raises ModelError.

    `device` is the name of a torch device; the default is a GPU if there is one.
    """
    file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
    try:
        torch_device = torch.device(device) if device else devices.pick()
    except RuntimeError as error:
        raise ModelError(f"device={device!r} is none: {' '.join(str(error).split())[:200]}") from None
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - the file is not a mapping
        if metadata.get("format") != FORMAT:
            raise ModelError(f"{str(file)!r} is no model of this version: its format is {metadata.get('format')!r}.")
        spec = SPECS[metadata["backbone"]].model_validate(json.loads(metadata["config"]))
        ends = [0, *tensors.pop(_ENDS).tolist()]
        text = tensors.pop(_IDS).numpy().tobytes()
        ids = [text[start:stop].decode() for start, stop in pairwise(ends)]
        encoder = build(spec, len(ids))
        counts = _take_counts(tensors, len(ids))
        encoder.load_state_dict({name.removeprefix(_ENCODER): tensor for name, tensor in tensors.items()})
    except ModelError:
        raise
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{str(file)!r} cannot be read as a model ({reason}); export it again.") from None
    try:
        return Recommender(spec, encoder.to(torch_device).eval(), Scoring.given(spec, *counts, torch_device), ids)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device={device!r} cannot be used: {' '.join(str(error).split())[:200]}") from None


def _take_counts(tensors: dict[str, Tensor], num_items: int) -> tuple[Tensor | None, Tensor | None]:
    """The saved weighted popularity (V,) and relations (V, V), which are removed from `tensors`."""
    popularity = tensors.pop(_POPULARITY, None)
    places, weights = tensors.pop(_PLACES, None), tensors.pop(_WEIGHTS, None)
    if places is None or weights is None:
        return popularity, None
    size = (num_items, num_items)
    return popularity, torch.sparse_coo_tensor(places, weights, size, check_invariants=True).coalesce()
