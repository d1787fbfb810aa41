"""server.diagnosis: what a learning curve says."""

from server.diagnosis import curve_points, diagnose
from tests.examples import trial
from trainers.spec import Epoch

METRIC = "ndcg@10"


def curve(*points: tuple[float, float]) -> list[Epoch]:
    """Epochs from (loss, validation) pairs."""
    return [
        Epoch(epoch=number, loss=loss, validation={METRIC: score}, seconds=1, eval_seconds=1)
        for number, (loss, score) in enumerate(points, 1)
    ]


def first_words(findings: list[str]) -> list[str]:
    return [finding.split(":")[0] for finding in findings]


def test_a_falling_validation_under_a_falling_loss_is_overfitting() -> None:
    epochs = curve((5, 0.02), (4, 0.05), (3, 0.045), (2, 0.03))
    assert first_words(diagnose(trial(0, 0.05), epochs, METRIC, 0.02, {})) == ["overfitting"]


def test_a_best_last_epoch_is_undertrained() -> None:
    epochs = curve((5, 0.02), (4, 0.03), (3, 0.04))
    assert first_words(diagnose(trial(0, 0.04), epochs, METRIC, 0.02, {})) == ["undertrained"]


def test_a_flat_end_is_converged() -> None:
    epochs = curve((5, 0.02), (4, 0.05), (3, 0.0499), (2, 0.0498))
    assert first_words(diagnose(trial(0, 0.05), epochs, METRIC, 0.02, {})) == ["converged"]


def test_a_jumping_loss_is_unstable() -> None:
    epochs = curve((5, 0.02), (4, 0.05), (6, 0.0499), (3, 0.0499))
    assert first_words(diagnose(trial(0, 0.05), epochs, METRIC, 0.02, {})) == ["converged", "unstable"]


def test_a_score_near_popularity_is_underfitting() -> None:
    epochs = curve((5, 0.02), (4, 0.05), (3, 0.0499))
    findings = diagnose(trial(0, 0.05), epochs, METRIC, 0.02, {"popularity": {METRIC: 0.048}})
    assert first_words(findings) == ["converged", "underfitting"]


def test_a_diverged_trial_is_unstable_and_one_without_curve_says_nothing() -> None:
    assert first_words(diagnose(trial(0, None, status="diverged"), [], METRIC, 0.02, {})) == ["unstable"]
    assert diagnose(trial(0, 0.05), curve((5, 0.05)), METRIC, 0.02, {}) == []


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
