"""memory.statistics.posterior: against closed forms of priors that have one."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from memory.statistics.posterior import Posterior
from memory.statistics.posterior import posterior as posterior_of
from memory.statistics.recorded import Gains, recorded
from memory.statistics.t_distribution import t_quantile

Array = npt.NDArray[np.float64]
FLAT = Gains(scales=(50.0,), down=(0.5,), up=(0.5,))
SHIPPED = recorded().gains


def posterior(observed: float, error: float, df: float, gains: Gains) -> Posterior:
    return posterior_of(observed, lambda true: np.full_like(true, error), df, gains)


def test_a_gain_that_would_be_seen_less_exactly_does_not_look_likelier_for_it() -> None:
    # A difference of 0.5 is out of the question where nothing differs (error 0.03), though not where much does.
    def error(true: Array) -> Array:
        return np.where(true > 0.3, 0.25, 0.03)

    found = posterior_of(0.5, error, 12, FLAT)
    assert found.chance > 0.999
    assert posterior(0.5, 0.25, 12, FLAT).chance < 0.97


@pytest.mark.parametrize("df", [4.0, 9.5, 60.0])
@pytest.mark.parametrize("observed", [-0.1, 0.0, 0.03])
def test_without_prior_knowledge_the_interval_is_students(observed: float, df: float) -> None:
    found = posterior(observed, 0.02, df, FLAT)
    half = t_quantile(0.95, df) * 0.02
    assert found.mean == pytest.approx(observed, abs=3e-4)
    assert (found.low, found.high) == (
        pytest.approx(observed - half, rel=0.02),
        pytest.approx(observed + half, rel=0.02),
    )


@pytest.mark.parametrize("chance", [0.6, 0.9, 0.99])
def test_without_prior_knowledge_the_chance_is_students(chance: float) -> None:
    found = posterior(t_quantile(chance, 7) * 0.02, 0.02, 7, FLAT)
    assert found.chance == pytest.approx(chance, abs=0.004)
    assert posterior(-t_quantile(chance, 7) * 0.02, 0.02, 7, FLAT).chance == pytest.approx(1 - chance, abs=0.004)


def test_a_normal_prior_and_normal_noise_are_combined_by_their_precisions() -> None:
    # Prior sd 0.04, error 0.03, observed 0.05: mean 0.05 * 16 / 25 = 0.032, sd 0.04 * 0.03 / 0.05 = 0.024.
    found = posterior(0.05, 0.03, 1e6, Gains(scales=(0.04,), down=(0.5,), up=(0.5,)))
    assert found.mean == pytest.approx(0.032, abs=2e-4)
    assert (found.low, found.high) == (
        pytest.approx(0.032 - 1.645 * 0.024, abs=5e-4),
        pytest.approx(0.032 + 1.645 * 0.024, abs=8e-4),
    )
    assert found.chance == pytest.approx(0.9088, abs=0.003)  # P(Z < 4 / 3)


def test_a_prior_that_leans_leans_the_chance() -> None:
    # Nothing is observed, so the sides keep their weights.
    assert posterior(0.0, 50.0, 1e6, Gains(scales=(0.04,), down=(0.7,), up=(0.3,))).chance == pytest.approx(
        0.3, abs=0.01
    )
    assert posterior(0.0, 0.02, 9, Gains(scales=(0.04,), down=(1.0,), up=(0.0,))).chance == pytest.approx(0, abs=0.01)


def test_a_small_lead_is_mostly_luck_and_a_large_one_is_hardly_corrected() -> None:
    small, large = posterior(0.03, 0.026, 11, SHIPPED), posterior(0.3, 0.026, 11, SHIPPED)
    assert -0.01 < small.mean < 0.015
    assert large.mean == pytest.approx(0.3, abs=0.01)
    assert large.chance > 0.999


@pytest.mark.parametrize("observed", [-6.0, -0.2, -0.01, 0.0, 1e-5, 0.02, 0.7, 6.0])
@pytest.mark.parametrize("error", [0.0, 1e-4, 0.02, 0.5])
def test_any_gain_has_an_ordered_interval_and_a_chance(observed: float, error: float) -> None:
    found = posterior(observed, error, 3.5, SHIPPED)
    assert found.low <= found.mean <= found.high
    assert 0 <= found.chance <= 1
    assert all(map(math.isfinite, (found.low, found.mean, found.high)))


def test_more_observed_is_more_expected() -> None:
    found = [posterior(step / 100, 0.026, 11, SHIPPED) for step in range(-20, 31)]
    assert [one.mean for one in found] == sorted(one.mean for one in found)
    assert [one.chance for one in found] == sorted(one.chance for one in found)
