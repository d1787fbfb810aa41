"""server.studies: budget, duplicates, incumbent, noise and verdict."""

from datetime import timedelta
from typing import Any

import pytest

from memory.records import Trial
from server import admission, studies
from server.admission import ProtocolError
from server.guardrails import GuardrailError, checked, violations
from server.studies import Retest
from tests.examples import BEGAN, study, trial
from trainers.space import SpaceError


def test_the_incumbent_is_the_best_mean_over_seeds_not_the_luckiest_training() -> None:
    lucky = [trial(1, 0.060, changes={"dropout": 0.1}), trial(1, 0.040, changes={"dropout": 0.1}, seed=1)]
    steady = [trial(0, 0.052), trial(0, 0.054, seed=1)]
    best = studies.chosen(study(), lucky + steady)
    assert best is not None
    assert best.trial_ids == ["t-0", "t-0-1"]
    assert best.mean == pytest.approx(0.053)
    assert best.best_trial.trial_id == "t-0-1"


def test_a_tie_goes_to_the_earlier_configuration() -> None:
    found = studies.standings(study(), [trial(0, 0.05), trial(1, 0.05, changes={"dropout": 0.1})])
    assert [standing.number for standing in found] == [0, 1]


def test_failed_trials_have_no_standing() -> None:
    assert studies.incumbent(study(), [trial(0, None), trial(1, 0.05, status="diverged")]) is None


def test_a_trial_whose_time_was_up_is_compared() -> None:
    found = studies.chosen(study(), [trial(0, 0.05), trial(1, 0.06, changes={"dropout": 0.1}, status="timed_out")])
    assert found is not None
    assert found.number == 1


def test_a_small_lead_is_not_called_better() -> None:
    trials = [trial(0, 0.0500), trial(1, 0.0505, changes={"dropout": 0.1})]
    judged = studies.verdict(study(), trials[1], trials)
    assert judged.comparison is not None
    assert judged.comparison.delta == pytest.approx(0.01)
    assert judged.comparison.verdict in ("tied", "retest")


def told(trials: list[Trial]) -> list[str | None]:
    """The verdict of each trial, each knowing those before it."""
    for place, one in enumerate(trials):
        found = studies.verdict(study(), one, trials[: place + 1]).comparison
        trials[place] = one.model_copy(update={"verdict": found.verdict if found else None})
    return [one.verdict for one in trials]


MORE, LESS = {"dropout": 0.7}, {"dropout": 0.1}


def test_a_large_lead_is_better_once_fresh_seeds_show_it_and_a_large_loss_is_worse_at_once() -> None:
    default = [trial(0, 0.05 + 0.0001 * seed, seed=seed) for seed in range(3)]
    lead = [trial(1, 0.10 + 0.0002 * seed, changes=LESS, seed=seed) for seed in range(2)]
    assert told([*default, *lead, trial(2, 0.02, changes=MORE)]) == [None, None, None, "retest", "better", "worse"]


def test_the_training_that_got_it_noticed_decides_nothing() -> None:
    default = [trial(0, 0.05 + 0.0001 * seed, seed=seed) for seed in range(3)]
    lucky = [trial(1, 0.06, changes=LESS), trial(1, 0.0500, changes=LESS, seed=1)]
    assert told([*default, *lucky])[3:] == ["retest", "tied"]
    found = studies.verdict(study(), lucky[1], [*default, *lucky]).comparison
    assert found is not None
    assert found.delta == pytest.approx(0.0500 / 0.0501 - 1)


def test_a_retest_names_the_seeds_of_both_sides_as_they_are_needed() -> None:
    default = [trial(0, 0.05)]
    first = trial(1, 0.055, changes=LESS)
    again = trial(1, 0.054, changes=LESS, seed=1)
    assert studies.verdict(study(), first, [*default, first]).retest == (Retest("t-1", (1,)),)
    wanted = studies.verdict(study(), again, [*default, first, again]).retest
    assert wanted == (Retest("t-0", (1,)), Retest("t-1", (2,)))  # two fresh seeds against two


def test_an_open_retest_of_scorings_asks_for_the_same_seed_of_both() -> None:
    default = trial(0, 0.0500)
    scored = trial(1, 0.0520, changes={"item_cf_alpha": 1.0}, weights_of="t-0")
    found = studies.verdict(study(), scored, [default, scored])
    assert found.comparison is not None
    assert (found.comparison.verdict, found.retest) == ("retest", (Retest("t-0", (1,)), Retest("t-1", (1,))))
    more = trial(0, 0.0510, seed=4)
    assert studies.verdict(study(), scored, [default, more, scored]).retest == (Retest("t-1", (4,)),)


def test_a_lead_inside_the_noise_makes_no_incumbent_but_is_chosen() -> None:
    trials = [trial(0, 0.0500), trial(1, 0.0505, changes=LESS)]
    assert told(trials) == [None, "tied"]
    best, chosen = studies.incumbent(study(), trials), studies.chosen(study(), trials)
    assert best is not None
    assert chosen is not None
    assert (best.trial_ids, chosen.trial_ids) == (["t-0"], ["t-1"])


def test_an_open_lead_is_built_on_until_fresh_seeds_take_it_back() -> None:
    trials = [trial(0, 0.0500), trial(1, 0.0700, changes=LESS)]
    told(trials)
    assert [one.trial_ids for one in [studies.incumbent(study(), trials)] if one] == [["t-1"]]
    trials.append(trial(1, 0.0490, changes=LESS, seed=1))
    told(trials)
    assert trials[-1].verdict == "tied"
    assert [one.trial_ids for one in [studies.incumbent(study(), trials)] if one] == [["t-0"]]


def test_two_scorings_of_the_same_weights_are_compared_seed_by_seed() -> None:
    default = [trial(0, score, seed=seed) for seed, score in enumerate((0.050, 0.060))]
    counts = trial(1, 0.062, changes={"item_cf_alpha": 1.0}, seed=1, weights_of="t-0-1")
    found = studies.verdict(study(), counts, [*default, counts]).comparison
    assert found is not None
    assert found.delta == pytest.approx(0.062 / 0.060 - 1)
    assert "1 pair on the same weights" in found.words
    other = trial(1, 0.062, changes={"dropout": 0.1}, seed=1)
    found = studies.verdict(study(), other, [*default, other]).comparison
    assert found is not None
    assert found.delta == pytest.approx(0.062 / 0.055 - 1)


def test_a_fresh_seed_of_a_scoring_counts_although_the_other_lacks_it() -> None:
    default = trial(0, 0.050)
    counts = trial(1, 0.056, changes={"item_cf_alpha": 1.0}, weights_of="t-0")
    fresh = trial(1, 0.030, changes={"item_cf_alpha": 1.0}, seed=1)
    found = studies.verdict(study(), fresh, [default, counts, fresh]).comparison
    assert found is not None
    assert found.delta == pytest.approx(0.030 / 0.050 - 1)


def test_the_same_seed_trained_twice_is_no_pair() -> None:
    """A fingerprint says what weights a whole training has, not those of one that ended early."""
    default = trial(0, 0.050, fingerprint="f", status="timed_out")
    counts = trial(1, 0.056, changes={"item_cf_alpha": 1.0}, fingerprint="f")
    found = studies.verdict(study(), counts, [default, counts]).comparison
    assert found is not None
    assert "on the training that got it noticed" in found.words


def test_a_judgement_does_not_change_when_later_trials_land() -> None:
    trials = [trial(0, 0.05), trial(1, 0.06, changes={"dropout": 0.1})]
    later = [*trials, trial(2, 0.9, changes={"dropout": 0.2}), trial(0, 0.02, seed=1)]
    assert studies.verdict(study(), trials[1], trials) == studies.verdict(study(), trials[1], later)


def test_replicates_set_the_noise() -> None:
    calm = [trial(0, 0.0500), *(trial(0, 0.0500 + 0.00001 * seed, seed=seed) for seed in range(1, 12))]
    assert studies.noise_of(study(), calm).sigma < studies.noise_of(study(), calm[:1]).sigma


def test_configurations_are_limited_and_replicates_are_not() -> None:
    limited = study(max_trials=2)
    trials = [trial(0, 0.05), trial(1, 0.06, changes={"dropout": 0.1})]
    assert admission.trials_left(limited, trials) == 0
    admission.check_open(limited, trials, trials[0].config_hash, BEGAN)
    with pytest.raises(ProtocolError, match="All 2 configurations of this study are used; replicate_of may train"):
        admission.check_open(limited, trials, "new", BEGAN)


def test_nothing_starts_when_the_time_is_spent() -> None:
    timed = study(budget_seconds=60)
    assert admission.seconds_left(timed, BEGAN + timedelta(seconds=20)) == 40
    with pytest.raises(ProtocolError, match="The budget of 60 seconds is spent; finish_study"):
        admission.check_open(timed, [], "new", BEGAN + timedelta(seconds=61))


def test_nothing_starts_in_a_finished_study() -> None:
    with pytest.raises(ProtocolError, match="is finished and its test split revealed"):
        admission.check_open(study(finished=True), [], "new", BEGAN)


def test_the_first_plan_without_changes_is_the_default() -> None:
    new = admission.plan_trial(study(), [], {}, None, None, None)
    assert (new.parent, new.changes, new.seed, new.config) == (None, {}, 0, study().space.default())


def test_changes_apply_to_the_incumbent_unless_a_parent_is_named() -> None:
    trials = [trial(0, 0.05), trial(1, 0.06, changes={"dropout": 0.1}, verdict="better")]
    on_best = admission.plan_trial(study(), trials, {"num_blocks": 1}, None, None, None)
    on_default = admission.plan_trial(study(), trials, {"num_blocks": 1}, "t-0", None, None)
    assert (on_best.parent, on_best.config["dropout"]) == ("t-1", 0.1)
    assert (on_default.parent, on_default.config["dropout"]) == ("t-0", 0.5)


def test_a_change_to_the_value_it_has_already_is_no_change() -> None:
    assert admission.plan_trial(study(), [trial(0, 0.05)], {"dropout": 0.5}, None, None, None).changes == {}


def test_a_replicate_takes_the_next_free_seed_and_names_the_first_of_its_kind() -> None:
    trials = [trial(0, 0.05), trial(0, 0.05, seed=1, replicate_of="t-0")]
    new = admission.plan_trial(study(), trials, {}, None, "t-0-1", None)
    assert (new.seed, new.replicate_of, new.config) == (2, "t-0", trials[0].config)


def test_the_same_configuration_with_another_seed_is_a_replicate_without_being_asked() -> None:
    assert admission.plan_trial(study(), [trial(0, 0.05)], {}, None, None, 5).replicate_of == "t-0"


def test_a_replicate_admits_no_changes() -> None:
    with pytest.raises(ProtocolError, match="leave changes and parent out"):
        admission.plan_trial(study(), [trial(0, 0.05)], {"dropout": 0.1}, None, "t-0", None)


@pytest.mark.parametrize("name", ["parent", "replicate_of"])
def test_a_trial_of_another_study_is_refused_with_those_there_are(name: str) -> None:
    given = {"parent": None, "replicate_of": None, name: "t-9"}
    with pytest.raises(ProtocolError, match=f"{name}='t-9' is not a trial of study 's-1'; its trials: t-0"):
        admission.plan_trial(study(), [trial(0, 0.05)], {}, given["parent"], given["replicate_of"], None)


def test_a_misspelled_field_gets_its_nearest_name() -> None:
    with pytest.raises(SpaceError, match="Did you mean 'dropout'"):
        admission.plan_trial(study(), [], {"droput": 0.1}, None, None, None)


# Guardrails

COVERED = study(guardrails=checked({"coverage@10": {"min": 0.2}}))


def measured(number: int, score: float, coverage: float | None = None, **values: Any) -> Trial:
    return trial(
        number, score, changes={"dropout": round(0.5 - number / 100, 2)} if number else {},
        measures={} if coverage is None else {"coverage@10": coverage}, **values,
    )  # fmt: skip


def test_a_configuration_that_violates_a_guardrail_is_not_chosen() -> None:
    trials = [measured(0, 0.05, 0.3), measured(1, 0.09, 0.1), measured(2, 0.06, 0.25)]
    best = studies.chosen(COVERED, trials)
    assert best is not None
    assert best.trial_ids == ["t-2"]
    without = studies.chosen(study(), trials)
    assert without is not None
    assert without.trial_ids == ["t-1"]


def test_it_gets_no_verdict_and_is_nobodys_rival() -> None:
    trials = [measured(0, 0.05, 0.3), measured(1, 0.09, 0.1), measured(2, 0.06, 0.25)]
    assert studies.verdict(COVERED, trials[1], trials).comparison is None
    against = studies.verdict(COVERED, trials[2], trials).against
    assert against is not None
    assert against.trial_ids == ["t-0"]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"coverage@10": {"min": 0.2}}, ["coverage@10 is 0.15, below the least allowed 0.2"]),
        ({"coverage@10": {"min": 0.1, "max": 0.14}}, ["coverage@10 is 0.15, above the most allowed 0.14"]),
        ({"recall@10": {"min": 0.2}}, []),
        ({"parameters": {"max": 1000}}, ["parameters is 2000, above the most allowed 1000"]),
    ],
)
def test_the_mean_over_the_seeds_of_a_configuration_decides(limit: dict[str, Any], words: list[str]) -> None:
    trials = [measured(1, 0.05, 0.1, parameters=2000), measured(1, 0.05, 0.2, parameters=2000, seed=1)]
    assert violations(checked(limit), trials) == words


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"coverage": {"min": 0.2}}, "Nothing measured is called 'coverage'. Did you mean 'coverage@10'"),
        ({"coverage@10": {}}, 'The guardrail of coverage@10 is {"min": …}, {"max": …} or both; got {}'),
        ({"coverage@10": {"least": 1}}, "or both; got"),
        ({"coverage@10": {"min": float("nan")}}, "or both; got"),
        ({"coverage@10": {"min": "0.2"}}, "or both; got"),
    ],
)
def test_a_limit_on_nothing_is_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(GuardrailError, match=message):
        checked(wanted)


def test_a_study_whose_slot_seconds_are_spent_admits_nothing() -> None:
    limited = study(gpu_seconds=100.0)
    admission.check_open(limited, [], "new", BEGAN, held_seconds=99.0)
    with pytest.raises(
        ProtocolError, match=r"^The 100 slot seconds of this study are spent \(gpu_seconds\); finish_study"
    ):
        admission.check_open(limited, [], "new", BEGAN, held_seconds=100.0)
