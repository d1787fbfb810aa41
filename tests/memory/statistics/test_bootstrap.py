"""Two trainings compared user by user: the bootstrap by hand, and the comparison through the tool."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from memory.statistics.bootstrap import OverUsers, over_users
from server.scheduler.run_directory import read_ranks
from server.settings import Settings
from tests.support.tool_client import tool_client
from trainers.contract.metrics import metrics_of, values_of


def test_values_of_users_sum_to_the_metric_and_clipped_ranks_add_nothing() -> None:
    ranks = np.array([1, 3, 20, 255], dtype=np.uint8)
    for name, mean in metrics_of(ranks).items():
        assert values_of(ranks, name).mean() == pytest.approx(mean)
    assert values_of(ranks, "ndcg@10").tolist() == [1.0, 0.5, 0.0, 0.0]


def test_equal_trainings_differ_by_nothing_for_sure() -> None:
    same = np.array([1.0, 0.5, 0.0] * 20)
    found = over_users(same, same)
    assert (found.delta, found.low, found.high, found.gained, found.lost) == (0, 0, 0, 0, 0)


def test_the_interval_agrees_with_resampling_users_one_by_one() -> None:
    draw = np.random.default_rng(1)
    own, other = draw.choice([0.0, 0.5, 1.0], 400), draw.choice([0.0, 0.5, 1.0], 400)
    found = over_users(own, other)
    picked = draw.integers(0, 400, (4000, 400))
    gains = own[picked].mean(axis=1) / other[picked].mean(axis=1) - 1
    assert found.delta == pytest.approx(own.mean() / other.mean() - 1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])), abs=0.02)
    assert found.gained == pytest.approx(float((own > other).mean()))


def test_the_interval_is_that_of_a_share_where_one_side_never_varies() -> None:
    """Half of 400 users score, beside a baseline where all do: -50 %, with a standard error of 0.5 / 20."""
    own = np.array([1.0, 0.0] * 200)
    found = over_users(own, np.ones(400))
    assert (found.delta, found.gained, found.lost) == (-0.5, 0.0, 0.5)
    assert (found.low, found.high) == pytest.approx((-0.5 - 1.96 * 0.025, -0.5 + 1.96 * 0.025), abs=0.003)
    assert found == over_users(own, np.ones(400))
    assert found != over_users(own, np.ones(400), seed=1)
    assert found.words == (
        f"-50.0%, {found.low:+.1%} to {found.high:+.1%} over users of these two trainings: 0.0% of users gain and "
        "50.0% lose. Other seeds would differ, too."
    )


def test_beside_a_baseline_of_zero_a_gain_is_relative_to_the_candidate() -> None:
    assert over_users(np.array([0.5]), np.array([0.0])) == OverUsers(1.0, 1.0, 1.0, 1.0, 0.0)
    assert over_users(np.array([0.0]), np.array([0.0])) == OverUsers(0.0, 0.0, 0.0, 0.0, 0.0)
    assert over_users(np.array([0.5]), np.array([2.0])) == OverUsers(-0.75, -0.75, -0.75, 0.0, 1.0)


def test_users_have_to_be_the_same() -> None:
    with pytest.raises(ValueError, match="got 0 and 0"):
        over_users(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="both trainings need the same users; got 2 and 3"):
        over_users(np.zeros(2), np.zeros(3))


@pytest.mark.anyio
async def test_a_trial_is_compared_with_another_and_in_detail_with_the_incumbent(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="demo"))["study_id"]
        first = (await at.call("run_trial", study_id=study))["trial_id"]
        second = (await at.call("run_trial", study_id=study, changes={"dropout": 0.1}))["trial_id"]
        alone = await at.refused("get_trial", trial_id=second, compare_to=first)
        assert "left no validation ranks, so its users cannot be compared" in alone
        assert "users" not in await at.call("get_trial", trial_id=second, detail="full")
        for name, ranks in ((first, [2, 2, 30, 1]), (second, [1, 2, 30, 1])):
            folder = Settings(home=tmp_path).trials_dir / name
            save_file({"ranks": np.array(ranks, dtype=np.uint8)}, folder / "validation_ranks.safetensors")
        found = (await at.call("get_trial", trial_id=second, compare_to=first))["users"]
        assert (found["against"], found["gained"], found["lost"]) == (first, 0.25, 0.0)
        assert found["words"].startswith("ndcg@10: +16.3%, ")
        assert (await at.call("get_trial", trial_id=second, detail="full"))["users"] == found
        assert "users" not in await at.call("get_trial", trial_id=second)
        missing = await at.refused("get_trial", trial_id=second, compare_to="t-nobody")
        assert missing.startswith("Unknown trial 't-nobody'")


def test_torn_ranks_are_no_ranks(tmp_path: Path) -> None:
    (tmp_path / "validation_ranks.safetensors").write_bytes(b"torn")
    assert read_ranks(tmp_path) is None
    assert read_ranks(tmp_path / "nowhere") is None
