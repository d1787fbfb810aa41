"""server.study.diagnosis: what a training says, one finding at a time, near the borders and in reported cases."""

from itertools import product
from typing import Any

import pytest

from memory.records import Trial
from server.policies.rules import DIAGNOSES
from server.study.diagnosis import beside_baseline, curve_points, diagnose
from tests.support.examples import trial
from trainers.contract.wire import Epoch

METRIC = "ndcg@10"
SIGMA = 0.02
BASELINES = {"popularity": {METRIC: 0.02}, "item_knn": {METRIC: 0.1}}


def curve(*points: tuple[float, float]) -> list[Epoch]:
    """Epochs from (loss, validation) pairs."""
    return [
        Epoch(epoch=number, loss=loss, validation={METRIC: score}, seconds=1, eval_seconds=1)
        for number, (loss, score) in enumerate(points, 1)
    ]


def falling(*scores: float) -> list[Epoch]:
    """Epochs with these validations, under a loss that keeps falling."""
    return curve(*((10 - 0.1 * number, score) for number, score in enumerate(scores)))


def ended(epochs: list[Epoch], patience: int | None = 8, max_epochs: int | None = 100, **values: Any) -> Trial:
    """The finished trial that trained these epochs."""
    limits = {"patience": patience, "max_epochs": max_epochs}
    config = {name: limit for name, limit in limits.items() if limit is not None}
    best = max(epoch.validation[METRIC] for epoch in epochs)
    return trial(0, best).model_copy(update={"config": config, "epochs": len(epochs), **values})


def found(*scores: float, sigma: float = SIGMA, baselines: Any = None, **values: Any) -> str:
    """The one finding on a training with these validations, under a loss that keeps falling."""
    epochs = falling(*scores)
    (finding,) = diagnose(ended(epochs, **values), epochs, METRIC, sigma, baselines or {})
    return finding


def first(finding: str) -> str:
    return finding.split(":")[0]


CLIMB = (0.4, 0.6, 0.8, 0.9)
FLAT = (1.0, 0.99, 0.98, 0.99, 1.0, 0.99, 0.99, 0.98, 0.99)


def scaled(*shares: float) -> tuple[float, ...]:
    """A curve as shares of a best score of 0.5, which is far above the baselines."""
    return tuple(0.5 * share for share in shares)


# One finding for each shape of a curve


@pytest.mark.parametrize(
    ("shares", "values", "finding"),
    [
        ((*CLIMB, *FLAT), {}, "converged: best epoch 5 of 13, flat over the last 9 (-0.3%, noise ±5.0%)"),
        (
            (0.4, 0.5, 0.6, 0.8, 1.0, 0.98, 0.99, 0.97, 0.98), {"patience": 4},
            "cut short: patience (4) ended a curve whose level was still rising (+70.4% over the last 9 epochs, best "
            "epoch 5 of 9); raise patience or learning_rate",
        ),
        (
            (0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 1.0), {"max_epochs": 7},
            "undertrained: still rising (+90.0% over the last 7 epochs) when max_epochs was reached; more epochs or a "
            "higher learning_rate",
        ),
        (
            (0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 1.0), {"status": "timed_out"},
            "undertrained: still rising (+90.0% over the last 7 epochs) when time was up; more epochs or a higher "
            "learning_rate",
        ),
        (
            (0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 1.0), {"patience": None, "max_epochs": None},
            "undertrained: still rising (+90.0% over the last 7 epochs) when the training ended; more epochs or a "
            "higher learning_rate",
        ),
        (
            (0.8, 1.0, 0.9, 0.8), {"patience": 2},
            "overfitting: after epoch 2 validation fell by 20.0% while the loss kept falling; regularise (dropout, "
            "weight_decay) or shrink the model",
        ),
    ],
)  # fmt: skip
def test_each_shape_of_a_curve_has_its_finding(shares: tuple[float, ...], values: dict[str, Any], finding: str) -> None:
    assert found(*scaled(*shares), **values) == finding


def test_a_flat_end_at_the_last_epoch_is_converged() -> None:
    creeping = (0.98, 0.98, 0.98, 0.98, 0.985, 0.99, 0.99, 0.99, 1.0)
    assert first(found(*scaled(*creeping), max_epochs=9)) == "converged"


@pytest.mark.parametrize(("rise", "word"), [(1.049, "converged"), (1.051, "cut short")])
def test_patience_ended_a_rise_of_more_than_five_per_cent(rise: float, word: str) -> None:
    assert first(found(*scaled(*[0.9] * 4, 0.96, *[0.9 * rise] * 4))) == word


@pytest.mark.parametrize(("sigma", "word"), [(0.049, "cut short"), (0.051, "converged")])
def test_a_rise_within_two_sigmas_is_no_rise(sigma: float, word: str) -> None:
    assert first(found(*scaled(*[0.9] * 4, 1.0, *[0.99] * 4), sigma=sigma)) == word


@pytest.mark.parametrize(("rise", "word"), [(1.019, "converged"), (1.021, "undertrained")])
def test_the_last_epoch_allowed_ended_a_rise_of_more_than_two_per_cent(rise: float, word: str) -> None:
    assert first(found(*scaled(*[0.9] * 4, 0.9, *[0.9 * rise] * 4), max_epochs=9)) == word


@pytest.mark.parametrize(("wobble", "word"), [(0.097, "cut short"), (0.099, "converged")])
def test_a_rise_within_twice_the_error_of_the_curve_itself_is_no_rise(wobble: float, word: str) -> None:
    """A later half of 0.86 ± w has variance 4/3 w², so the rise of 0.16 is two errors at w = 0.08 sqrt(3/2) = 0.098."""
    assert first(found(*scaled(*[0.7] * 4, 1.0, *(0.86 - wobble, 0.86 + wobble) * 2), sigma=0.05)) == word


def test_the_rise_counts_the_last_nine_epochs_alone() -> None:
    assert first(found(*scaled(0.1, 0.2, 0.4, 0.8, *[0.99] * 4, 1.0, *[0.99] * 4))) == "converged"


@pytest.mark.parametrize(("end", "word"), [(0.95, "converged"), (0.93, "overfitting")])
def test_a_fall_of_more_than_three_sigmas_is_overfitting(end: float, word: str) -> None:
    assert first(found(*scaled(*[0.97] * 4, 1.0, *[end] * 4))) == word


def test_one_low_epoch_at_the_end_is_no_overfitting() -> None:
    assert first(found(*scaled(*[0.99] * 5, 1.0, 0.99, 0.99, 0.9))) == "converged"
    assert first(found(*scaled(*[0.99] * 5, 1.0, 0.8, 0.8, 0.99))) == "converged"


def test_a_fall_without_the_loss_is_unstable_not_overfitting() -> None:
    epochs = curve((5, 0.4), (4, 0.5), (4.1, 0.4), (4.2, 0.3))
    assert diagnose(ended(epochs), epochs, METRIC, SIGMA, {}) == [
        "unstable: after epoch 2 validation fell by 40.0%, and the loss did not fall either; lower learning_rate"
    ]


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [
        ((5.0, 4.0, 4.19, 3.0), None),
        ((5.0, 4.0, 4.21, 3.0), 3),
        ((-5.0, -6.0, -5.71, -7.0), None),
        ((-5.0, -6.0, -5.69, -7.0), 3),
        ((5.0, 0.02, 0.06, 0.02), None),
        ((5.0, 0.02, 0.08, 0.02), 3),
    ],
)
def test_a_loss_that_rises_by_more_than_five_per_cent_is_unstable(losses: tuple[float, ...], epoch: int | None) -> None:
    epochs = curve(*((loss, 0.5) for loss in losses))
    (finding,) = diagnose(ended(epochs), epochs, METRIC, SIGMA, {})
    expected = f"unstable: the loss rose by more than 5% at epoch {epoch}; lower learning_rate"
    assert finding == (expected if epoch else "converged: best epoch 1 of 4, flat over the last 4 (+0.0%, noise ±5.0%)")


# Beside the strongest baseline


@pytest.mark.parametrize(
    ("score", "sigma", "place"),
    [
        (0.025, 0.02, "below"), (0.0979, 0.02, "below"), (0.0981, 0.02, "at"), (0.1, 0.02, "at"), (0.1019, 0.02, "at"),
        (0.1021, 0.02, "barely above"), (0.1049, 0.02, "barely above"), (0.1051, 0.02, None), (0.118, 0.02, None),
        (0.118, 0.5, None), (0.0949, 0.5, "below"), (0.0951, 0.5, "at"), (0.1049, 0.5, "at"),
    ],
)  # fmt: skip
def test_a_score_is_below_at_or_barely_above_the_strongest_baseline(score: float, sigma: float, place: str) -> None:
    expected = f"ndcg@10 {score:.4f} is {place} the strongest untrained baseline, item_knn (0.1000)"
    assert beside_baseline(score, METRIC, sigma, BASELINES) == (expected if place else None)


def test_a_flat_end_at_a_quarter_of_the_baseline_is_below_it_with_both_numbers() -> None:
    assert found(*[0.025] * 12, baselines=BASELINES) == (
        "underfitting: ndcg@10 0.0250 is below the strongest untrained baseline, item_knn (0.1000); raise "
        "learning_rate or hidden_dim, or lower dropout"
    )


def test_nothing_is_said_of_a_baseline_that_is_eighteen_per_cent_lower() -> None:
    assert (
        found(*[0.118] * 12, baselines=BASELINES)
        == "converged: best epoch 1 of 12, flat over the last 9 (+0.0%, noise ±5.0%)"
    )


@pytest.mark.parametrize("baseline", [0.96, 0.999, 1.0])
def test_a_perfect_score_is_no_underfitting_beside_any_baseline(baseline: float) -> None:
    finding = found(0.9, 1.0, 1.0, 1.0, baselines={"popularity": {METRIC: baseline}})
    assert finding == "converged: ndcg@10 is 1.0000, and 1 is the highest there is"


def test_overfitting_below_the_baseline_is_overfitting_and_names_the_baseline() -> None:
    finding = found(0.04, 0.05, 0.04, 0.03, baselines=BASELINES)
    assert first(finding) == "overfitting"
    assert "underfitting" not in finding
    assert finding.endswith("; ndcg@10 0.0500 is below the strongest untrained baseline, item_knn (0.1000)")


def test_validation_that_never_left_zero_comes_before_the_shape() -> None:
    expected = "underfitting: ndcg@10 never left zero; raise learning_rate or train longer"
    assert found(0.0, 0.0, 0.0, baselines=BASELINES) == expected


def test_a_curve_that_leaves_zero_late_is_rising() -> None:
    assert first(found(0.0, 0.0, 0.0, 0.0, 0.3, 0.4, max_epochs=6)) == "undertrained"
    assert first(found(0.5, *[0.0] * 9, sigma=0.5)) == "converged"


def test_without_a_curve_only_the_baseline_says_something() -> None:
    assert diagnose(trial(0, 0.5), [], METRIC, SIGMA, BASELINES) == []
    assert diagnose(trial(0, 0.5), curve((5, 0.5)), METRIC, SIGMA, {}) == []
    (finding,) = diagnose(trial(0, 0.05), [], METRIC, SIGMA, BASELINES)
    assert first(finding) == "underfitting"


# Failures, and what never stands together


@pytest.mark.parametrize(
    ("status", "word"), [("diverged", "unstable"), ("out_of_memory", "memory"), ("crashed", "crashed")]
)
def test_a_failure_comes_before_its_curve(status: str, word: str) -> None:
    epochs = curve((5, 0.02), (4, 0.05), (6, 0.04))
    assert [first(one) for one in diagnose(trial(0, None, status=status), epochs, METRIC, SIGMA, BASELINES)] == [word]


def test_a_cancelled_trial_has_no_finding() -> None:
    assert diagnose(trial(0, None, status="cancelled"), falling(0.1, 0.2), METRIC, SIGMA, BASELINES) == []


def test_a_stopped_trial_is_not_measured_whatever_its_curve_looks_like() -> None:
    epochs = curve((5, 0.01), (4, 0.02), (6, 0.01))
    stopped = ended(epochs, status="stopped")
    assert diagnose(stopped, epochs, METRIC, SIGMA, BASELINES) == [
        "stopped: not measured, because the early-stopping rule ended it at epoch 3; slow is not hopeless: "
        "run_trial(replicate_of='t-0') trains it to its end"
    ]


def test_reused_weights_are_a_second_line() -> None:
    epochs = falling(*[0.5] * 9)
    lines = diagnose(ended(epochs, weights_of="t-9"), epochs, METRIC, SIGMA, {})
    assert lines == [
        "converged: best epoch 1 of 9, flat over the last 9 (+0.0%, noise ±5.0%)",
        "reused: weights of t-9, evaluated again; nothing was trained",
    ]


def test_over_a_grid_of_curves_each_finding_is_what_the_curve_shows() -> None:
    words: set[str] = set()
    for shares in product((0.2, 0.9, 1.0), repeat=6):
        for limit, sigma in product((6, 100), (0.01, 0.1)):
            finding = found(*scaled(*shares), max_epochs=limit, sigma=sigma)
            early, late, fall = sum(shares[:3]), sum(shares[3:]), 1 - shares[-1] / max(shares)
            words.add(first(finding))
            match first(finding):
                case "converged":
                    assert late / early - 1 <= max(0.05, 2 * sigma) or len(set(shares[3:])) > 1
                case "overfitting":
                    assert fall > 3 * sigma
                case _:
                    assert late > early
    assert words == {"converged", "cut short", "undertrained", "overfitting"}


def test_every_finding_that_names_a_cure_is_one_that_the_playbook_knows() -> None:
    assert {"unstable", "memory", "overfitting", "cut short", "undertrained", "underfitting"} <= set(DIAGNOSES)


# The curve that is shown


def test_a_long_curve_becomes_ten_points_with_first_best_and_last() -> None:
    epochs = curve(*((100 - n, 0.01 * (n if n < 33 else 20)) for n in range(100)))
    points = curve_points(epochs, METRIC)
    assert len(points) == 10
    assert [point["epoch"] for point in points if point["epoch"] in (1, 33, 100)] == [1, 33, 100]


def test_a_short_curve_is_shown_whole() -> None:
    assert curve_points(curve((2, 0.1), (1, 0.2)), METRIC) == [
        {"epoch": 1, "loss": 2, METRIC: 0.1},
        {"epoch": 2, "loss": 1, METRIC: 0.2},
    ]
    assert curve_points([], METRIC) == []


def test_a_training_that_measured_no_epoch_has_no_trend() -> None:
    epochs = [
        Epoch(epoch=number, loss=2.0 / number, validation={}, seconds=1.0, eval_seconds=0.0) for number in (1, 2, 3)
    ]
    scored = trial(1, 0.05)
    assert diagnose(scored, epochs, "ndcg@10", SIGMA, {}) == []
    low = diagnose(scored, epochs, "ndcg@10", SIGMA, {"popularity": {"ndcg@10": 0.2}})
    assert low[0].startswith("underfitting: ")


def test_a_seed_that_never_started_is_no_finding_on_the_configuration() -> None:
    epochs = falling(0.01, 0.016)
    dud = trial(0, 0.016)
    (found,) = diagnose(dud, epochs, METRIC, SIGMA, BASELINES, (0.0675, 0.016))
    assert found.startswith(
        "never started: ndcg@10 0.0160, where another seed of the same configuration reached 0.0675;"
    )
    for seeds in ((), (0.016,), (0.043, 0.016)):  # e * 0.016 is 0.0435
        (found,) = diagnose(dud, epochs, METRIC, SIGMA, BASELINES, seeds)
        assert first(found) != "never started"
    crashed = trial(0, None, status="crashed")
    (found,) = diagnose(crashed, epochs, METRIC, SIGMA, BASELINES, (0.0675,))
    assert first(found) == "crashed"
