"""server.study.verdict_words: what an engineer reads of a verdict."""

import re

import pytest

from memory.records import Trial
from server.study import verdicts
from server.study.verdict_words import chance_words, leader_words, verdict_words
from tests.support.examples import study, trial
from trainers.contract.space import Config

LESS: Config = {"dropout": 0.1}
MORE: Config = {"dropout": 0.7}
DEFAULT = [trial(0, 0.0500), trial(0, 0.0502, seed=1), trial(0, 0.0498, seed=2)]


def words(*trials: Trial, left_out: int = 0) -> str:
    """What is said of the last of these trials, after the default's."""
    judged = verdicts.verdict(study(), trials[-1], [*DEFAULT, *trials])
    found = verdict_words(judged, left_out)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("chance", "said"), [(0.0, "below 1 %"), (0.009, "below 1 %"), (0.5, "50%"), (0.99, "99%"), (0.9999, "above 99 %")]
)
def test_a_chance_is_never_quite_none_or_all(chance: float, said: str) -> None:
    assert chance_words(chance) == said


def test_a_verdict_says_gain_interval_chance_and_what_was_observed() -> None:
    found = words(trial(1, 0.07, changes=LESS))
    pattern = (
        r"\+(\d+\.\d)%, 90 % interval \+\d+\.\d% to \+\d+\.\d%, chance of being better above 99 %, against number 0\. "
        r"Observed \+40\.0% with 1 training against 3\."
    )
    assert re.fullmatch(pattern, found)


def test_an_open_verdict_says_what_would_settle_it_and_a_small_chance_that_nothing_hangs_on_it() -> None:
    found = words(trial(1, 0.0535, changes=LESS))
    assert re.search(r"\d+ more trainings? would show it better if the observed gain stays\.$", found)
    assert words(trial(1, 0.0485, changes=LESS)).endswith(
        "It can hardly change the choice: only trainings that are left over at the end are worth a seed of it."
    )


def test_a_seed_says_what_it_changed_and_why_an_interval_grew() -> None:
    first = trial(1, 0.0530, changes=LESS)
    calm = words(first, trial(1, 0.0532, changes=LESS, seed=1))
    assert re.search(r"This seed moved the gain from \+\d\.\d% \([-+]\d\.\d% to \+\d+\.\d%\)\.", calm)
    assert "scattered" not in calm
    assert "it scattered more than expected, so the interval is wider." in words(
        first, trial(1, 0.0420, changes=LESS, seed=1)
    )


@pytest.mark.parametrize(
    ("count", "said"), [(1, "One seed never started to learn and does"), (2, "2 seeds never started")]
)
def test_seeds_that_never_started_are_named(count: int, said: str) -> None:
    assert said in words(trial(1, 0.07, changes=LESS), left_out=count)


def test_pairs_are_called_pairs() -> None:
    scored = trial(1, 0.0520, changes={"item_cf_alpha": 1.0}, weights_of="t-0")
    assert "with 1 pair on the same weights." in words(scored)


def test_nothing_is_said_without_a_comparison() -> None:
    assert verdict_words(verdicts.verdict(study(), DEFAULT[0], DEFAULT[:1])) is None


def test_a_higher_mean_that_does_not_lead_is_explained() -> None:
    lucky = trial(1, 0.0508, changes=LESS)
    found = leader_words(verdicts.ranking_of(study(), [*DEFAULT, lucky]))
    assert found is not None
    assert re.fullmatch(
        r"Number 1 has a mean that is \+1\.6% higher over one training, mostly by luck: its chance of being better is "
        r"\d\d%, and it takes 60% to lead\.",
        found,
    )
    assert leader_words(verdicts.ranking_of(study(), [*DEFAULT, trial(2, 0.08, changes=MORE)])) is None
    assert leader_words(verdicts.ranking_of(study(), [])) is None


def test_a_further_seed_is_compared_with_the_best_of_the_others_and_said_so() -> None:
    first = trial(1, 0.0530, changes=LESS)
    assert ", against number 0. Observed" in words(first)
    assert ", against number 0, the best of the others. Observed" in words(
        first, trial(1, 0.0532, changes=LESS, seed=1)
    )


def test_an_expected_gain_of_another_sign_than_the_observed_one_is_explained() -> None:
    turned = "; what is tried later is mostly worse, which turns the sign of what may be expected."
    assert turned in words(trial(1, 0.0501, changes=LESS))
    assert turned not in words(trial(1, 0.0490, changes=LESS))
