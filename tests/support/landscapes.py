"""Datasets with scored configurations made by hand, for tests of advice."""

from __future__ import annotations

from typing import Any

import pytest

from memory.statistics.landscape import Landscape, Run, Setting
from tests.support.examples import FACTS
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS

SPACE = space_of(SPECS["sasrec"]).restrict(
    {
        "dropout": [0.2, 0.5],
        "learning_rate": [0.0003, 0.001, 0.003],
        "num_blocks": [1, 2],
        "loss": ["full_softmax", "bce"],
    }
)


OTHER = FACTS.model_copy(update={"users": 500_000, "items": 90_000, "mean_length": 90.0})


class Grown(Landscape):
    """A landscape that is told scores by changes of the default."""

    def train(self, changes: Config, *scores: float, parent: Config | None = None) -> None:
        config = SPACE.apply(SPACE.default(), changes)
        for score in scores:
            order = sum(len(runs) for runs in self.runs.values())
            run = Run(
                trial_id=f"t-{self.dataset_hash}-{order}", setting=Setting("auto", "2"), config_hash=SPACE.hash(config),
                seed=order, order=order, is_default=not changes, weights=f"t-{self.dataset_hash}-{order}",
                parent=None if parent is None else SPACE.hash(SPACE.apply(SPACE.default(), parent)),
                scores={"ndcg@10": score},
            )  # fmt: skip
            self.add(run, config, SPACE.rests(config))


def land(name: str, facts: Any = FACTS) -> Grown:
    return Grown(name, "sasrec", facts)


@pytest.fixture
def lands() -> list[Grown]:
    """Two datasets where a higher rate and less dropout help, most of all together."""
    found = [land("a"), land("b")]
    for one in found:
        one.train({}, 0.050, 0.0501)
        one.train({"learning_rate": 0.003}, 0.060, 0.0601)
        one.train({"dropout": 0.2}, 0.055, 0.0551)
        one.train({"learning_rate": 0.003, "dropout": 0.2}, 0.070, 0.0701)
        one.train({"num_blocks": 1}, 0.045, 0.0451)
    return found
