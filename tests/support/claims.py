"""A small memory with studies whose effects are known, for tests of claims."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memory.claim import Claim, checked, read_claim
from memory.records import NewTrial, Note
from memory.store import Memory
from tests.support.examples import FACTS, study
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import TrialResult

SPACE = space_of(SPECS["sasrec"])


LESS = {"change": {"field": "dropout", "to": 0.2}}


def claim(**given: Any) -> Claim:
    return checked(read_claim({**LESS, **given}), SPACE)


class House:
    """A memory with studies on several datasets, whose trials have the scores they are told."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.studies: dict[str, str] = {}

    def study(self, dataset: str, **facts: Any) -> str:
        study_id = f"s-{len(self.studies)}"
        known = FACTS.model_copy(update=facts)
        self.memory.add_study(study(study_id=study_id, dataset=dataset, dataset_hash=dataset, facts=known))
        self.studies[study_id] = dataset
        return study_id

    def train(self, study_id: str, changes: Config, score: float, *, seed: int = 0, parent: str | None = None) -> str:
        config = SPACE.apply(SPACE.default(), changes)
        new = NewTrial(
            study_id=study_id, parent=parent, changes=changes, config=config, config_hash=SPACE.hash(config), seed=seed
        )
        trial_id = self.memory.start_trial(new).trial_id
        result = TrialResult(trial_id=trial_id, status="ok", validation={"ndcg@10": score}, epochs=1)
        return self.memory.finish_trial(result).trial_id

    def pair(self, study_id: str, gain: float, seeds: int = 3) -> None:
        """The default and dropout 0.2, `seeds` of both."""
        for seed in range(seeds):
            first = self.train(study_id, {}, 0.05 * (1 + 0.001 * seed), seed=seed)
            self.train(study_id, {"dropout": 0.2}, 0.05 * (1 + gain) * (1 + 0.001 * seed), seed=seed, parent=first)

    def claim(self, study_id: str, text: str = "Less dropout helps.", **given: Any) -> Note:
        evidence, force = given.pop("evidence", ()), given.pop("force", False)
        asked = read_claim({**LESS, **given})
        return self.memory.add_note(study_id, "heuristic", text, evidence, (), asked, force)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    memory = Memory.open(tmp_path / "memory.duckdb")
    yield House(memory)
    memory.close()
