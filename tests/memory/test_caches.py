"""memory.store: what it keeps of earlier reads is what a new read would find, also after a write that failed."""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memory.errors import MemoryFault, UnknownStudy
from memory.records import Trial
from memory.store import Memory
from memory.tables import trial_cache, trials
from memory.tables.connection import Cursor
from memory.tables.curve_cache import CurveCache
from memory.tables.trial_cache import STUDIES, TrialCache
from memory.tables.trials import of_studies
from tests.support.examples import study
from tests.support.stored import epoch, new_trial, result


def fail(*_: Any) -> None:
    raise MemoryFault("The disk is full.")


def test_a_study_hears_of_replicates_that_landed_after_it_asked(memory: Memory) -> None:
    later = study().created_at + timedelta(seconds=1)
    heard = [memory.replicates("sasrec", "ndcg@10", later)]
    for seed, score in enumerate((0.05, 0.06)):
        memory.finish_trial(result(memory.start_trial(new_trial(seed=seed)).trial_id, score))
        heard.append(memory.replicates("sasrec", "ndcg@10", later))
    assert heard == [[], [], [(5000, (0.05, 0.06))]]


def test_a_start_that_failed_is_not_counted(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(TrialCache, "stored", fail)
        with pytest.raises(MemoryFault, match="The disk is full"):
            memory.start_trial(new_trial(request_key="k"))
    started = memory.start_trial(new_trial({"dropout": 0.3}, request_key="k"))
    assert (started.number, memory.trials("s-1")) == (0, [started])


def test_epochs_that_were_not_stored_are_in_no_curve(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    assert memory.curves("s-1", "ndcg@10") == {}
    added = CurveCache.added

    def add_and_fail(*arguments: Any) -> None:
        added(*arguments)
        fail()

    monkeypatch.setattr(CurveCache, "added", add_and_fail)
    with pytest.raises(MemoryFault, match="The disk is full"):
        memory.add_epochs(trial_id, [epoch(1)])
    assert (memory.curves("s-1", "ndcg@10"), memory.epochs(trial_id)) == ({}, [])


def test_a_curve_keeps_the_first_value_of_an_epoch(memory: Memory) -> None:
    trial_id = memory.start_trial(new_trial()).trial_id
    assert memory.curves("s-1", "ndcg@10") == {}
    memory.add_epochs(trial_id, [epoch(1)])
    memory.add_epochs(trial_id, [epoch(1).model_copy(update={"validation": {"ndcg@10": 0.9}}), epoch(2)])
    assert memory.curves("s-1", "ndcg@10") == {trial_id: ((1, 0.01), (2, 0.02))}


def test_a_trial_of_a_study_that_is_no_longer_kept_is_read_and_changed(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_cache, "STUDIES", 1)
    memory.add_study(study(study_id="s-2"))
    one, other = memory.start_trial(new_trial()), memory.start_trial(new_trial(study_id="s-2"))
    assert [memory.trials(name) for name in ("s-1", "s-2")] == [[one], [other]]
    assert memory.trial(one.trial_id) == one
    ended = memory.finish_trial(result(one.trial_id))
    assert (ended.status, memory.trials("s-1"), memory.trial(one.trial_id)) == ("ok", [ended], ended)


def test_the_trials_of_many_studies_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s-{number}" for number in range(2 * STUDIES)]
    with closing(Memory.open(tmp_path / "m.duckdb")) as memory:
        for name in names:
            memory.add_study(study(study_id=name))
        stored = {name: [memory.start_trial(new_trial(study_id=name))] for name in names[::2]}
    asked: list[int] = []

    def counted(cursor: Cursor, study_ids: Sequence[str]) -> list[Trial]:
        asked.append(len(study_ids))
        return of_studies(cursor, study_ids)

    monkeypatch.setattr(trials, "of_studies", counted)
    with closing(Memory.open(tmp_path / "m.duckdb")) as memory:
        kept = memory.trials(names[0]), memory.trials(names[1])
        assert memory.trials_of(names) == {name: stored.get(name, []) for name in names}
        assert (memory.trials(names[0]), memory.trials(names[1])) == kept
        assert asked == [1, 1, 2 * STUDIES - 2]
        with pytest.raises(UnknownStudy, match="'s-none'"):
            memory.trials_of(["s-0", "s-none"])
