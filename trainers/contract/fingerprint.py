"""The training fingerprint: trials that share it train to the same weights and have the same best epoch. No torch."""

from __future__ import annotations

import hashlib
import json

from trainers.contract.metrics import Filter
from trainers.contract.space import Config, Space
from trainers.contract.wire import TRAINER_VERSION


def fingerprint(space: Space, config: Config, *, seed: int, dataset_hash: str, metric: str, filter_rule: Filter) -> str:
    """A short stable hash of everything that decides the weights; fields of the group `scoring` do not.

    `metric` and `filter_rule` are included because they decide which epoch is the best.
    """
    kept = {name: value for name, value in space.canonical(config).items() if space.field(name).group != "scoring"}
    decisive = [space.backbone, kept, seed, dataset_hash, metric, filter_rule, TRAINER_VERSION]
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
