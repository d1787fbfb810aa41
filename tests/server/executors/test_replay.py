"""The replay executor: what it writes for a recorded training, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.executors.base import ExecutorError
from server.executors.replay.executor import ReplayExecutor, replayed
from server.replay.recorded import Training
from server.replay.tables import Tables
from tests.support.recorded_tables import recorded_tables
from tests.support.trials import SLOT
from trainers.contract.wire import Epoch, TrialSpec

CURVE = tuple(
    Epoch(epoch=number, loss=1.0, validation={"ndcg@10": score}, seconds=10.0, eval_seconds=0.0)
    for number, score in enumerate((0.04, 0.10, 0.09), 1)
)
TRIAL = TrialSpec(
    trial_id="t-1", backbone="sasrec", config={}, seed=1, dataset_hash="abc", threads=1, stop_below=(0.05,)
)  # fmt: skip


def test_a_hopeless_curve_ends_where_the_training_would_have() -> None:
    epochs, result = replayed(TRIAL, Training(1, "ok", {"ndcg@10": 0.10}, CURVE, best_epoch=2, seconds=30.0))
    assert len(epochs) == 1
    assert (result.status, result.validation, result.seconds) == ("stopped", {"ndcg@10": 0.04}, 10.0)
    never = Training(1, "ok", {"ndcg@10": 0.2}, simulated=True)
    assert replayed(TRIAL, never)[1].status == "ok"
    last = Training(1, "ok", {"ndcg@10": 0.01}, CURVE[:1])
    assert replayed(TRIAL, last)[1].status == "ok"  # it had ended by itself


def test_a_result_says_whether_its_seed_was_recorded() -> None:
    recorded = replayed(TRIAL, Training(1, "ok", {"ndcg@10": 0.2}), (1, 2))[1]
    assert (recorded.versions, recorded.message) == ({"replay": "recorded"}, "replayed from a recorded training")
    drawn = replayed(TRIAL, Training(1, "ok", {"ndcg@10": 0.2}, simulated=True), (2, 3))[1]
    assert drawn.versions == {"replay": "simulated seed"}
    assert drawn.message == (
        "replayed with a simulated seed: seed 1 was not recorded, so its scores are drawn around the recorded mean of "
        "the seeds 2, 3"
    )


@pytest.mark.anyio
async def test_a_replay_has_no_weights(tmp_path: Path) -> None:
    tables = Tables(recorded_tables(tmp_path / "tables"), {"log": "abc"})
    async with ReplayExecutor(tables) as executor:
        with pytest.raises(ExecutorError, match="nothing to take home"):
            await executor.run([tmp_path], SLOT, task="export")
