"""server.study: budget, duplicates, incumbent, noise and verdict."""

import math
from datetime import timedelta
from typing import Any

import pytest

from memory.records import NewTrial, Study, Trial
from memory.statistics.decide import DECIDED, Comparison
from memory.statistics.noise import prior
from server.study import admission, standings, verdicts
from server.study.admission import ProtocolError
from server.study.guardrails import GuardrailError, check_guardrails, violations
from server.study.history import StudyHistory
from server.study.requests import TrialRequest
from tests.support.examples import BEGAN, study, trial
from trainers.contract.space import Config, SpaceError

MORE: Config = {"dropout": 0.7}
LESS: Config = {"dropout": 0.1}


def leader(trials: list[Trial], of: Study | None = None) -> list[str] | None:
    """The trials of the configuration that leads."""
    found = verdicts.ranking_of(of or study(), trials).leader
    return None if found is None else found.trial_ids


def steady(number: int, score: float, changes: Config | None = None, seeds: int = 3) -> list[Trial]:
    """A configuration of which each seed scored nearly the same."""
    return [trial(number, score + 0.0001 * seed, changes=changes, seed=seed) for seed in range(seeds)]


def judged(trials: list[Trial], place: int = -1) -> verdicts.Judgement:
    return verdicts.verdict(study(), trials[place], trials)


def compared(trials: list[Trial], place: int = -1) -> Comparison:
    comparison = judged(trials, place).comparison
    assert comparison is not None
    return comparison


def test_the_incumbent_has_a_mean_over_seeds_not_the_luckiest_training() -> None:
    lucky = [trial(1, 0.060, changes=LESS), trial(1, 0.040, changes=LESS, seed=1)]
    default = [trial(0, 0.052), trial(0, 0.054, seed=1)]
    best = verdicts.ranking_of(study(), lucky + default).leader
    assert best is not None
    assert best.trial_ids == ["t-0", "t-0-1"]
    assert best.mean == pytest.approx(0.053)
    assert best.best_trial.trial_id == "t-0-1"


def test_a_tie_goes_to_the_earlier_configuration() -> None:
    found = standings.ranked(study(), [trial(0, 0.05), trial(1, 0.05, changes={"dropout": 0.1})])
    assert [standing.number for standing in found] == [0, 1]


def test_a_seed_that_never_started_is_left_out_of_the_mean() -> None:
    trials = [trial(0, 0.050), trial(0, 0.052, seed=1), trial(0, 0.052 * math.exp(-1.01), seed=2)]
    (standing,) = standings.ranked(study(), trials)
    assert standing.mean == pytest.approx(0.051)
    assert [one.seed for one, _ in standing.counted] == [0, 1]
    assert len(standing.scores) == 3
    (standing,) = standings.ranked(study(), [trial(0, 0.052), trial(0, 0.052 * math.exp(-0.99), seed=1)])
    assert len(standing.counted) == 2
    (standing,) = standings.ranked(study(), [trial(0, 0.0), trial(0, 0.0, seed=1)])
    assert standing.mean == 0.0


def test_failed_trials_have_no_standing() -> None:
    assert leader([trial(0, None), trial(1, 0.05, status="diverged")]) is None


def test_where_the_default_has_no_score_the_first_that_has_one_takes_its_place() -> None:
    assert leader([trial(0, None), trial(1, 0.06, changes=LESS), trial(2, 0.05, changes=MORE)]) == ["t-1"]
    assert leader([trial(0, None), trial(1, 0.06, changes=LESS), trial(2, 0.09, changes=MORE)]) == ["t-2"]


def test_the_default_is_measured_first_whenever_it_was_trained() -> None:
    late = [trial(1, 0.0505, changes=LESS), *steady(0, 0.05)]
    assert leader(late) == ["t-0", "t-0-1", "t-0-2"]


def test_a_trial_whose_time_was_up_is_compared() -> None:
    assert leader([*steady(0, 0.05), trial(1, 0.07, changes=LESS, status="timed_out")]) == ["t-1"]


def test_a_small_lead_is_open_and_a_large_one_or_a_large_loss_is_not() -> None:
    default = steady(0, 0.05)
    assert compared([*default, trial(1, 0.0515, changes=LESS)]).verdict in ("undecided", "likely worse")
    assert compared([*default, trial(1, 0.07, changes=LESS)]).verdict == "better"
    assert compared([*default, trial(1, 0.04, changes=LESS)]).verdict == "worse"


def test_a_loss_of_a_fifth_is_worse_and_a_gain_of_six_sigmas_better_at_the_second_seed() -> None:
    default = steady(0, 0.05)
    assert compared([*default, trial(1, 0.0395, changes=LESS)]).verdict == "worse"
    gain = math.exp(6 * prior(5000).sigma)
    lead = [trial(1, 0.05 * gain, changes=LESS, seed=seed) for seed in range(2)]
    assert compared([*default, *lead]).verdict == "better"


def test_a_replicate_makes_the_interval_narrower_and_says_what_it_changed() -> None:
    trials = [*steady(0, 0.05), trial(1, 0.053, changes=LESS)]
    first = compared(trials)
    trials.append(trial(1, 0.0531, changes=LESS, seed=1))
    found = judged(trials)
    assert found.before == first
    assert found.comparison is not None
    assert found.comparison.high - found.comparison.low < first.high - first.low
    assert judged(trials, 3).before is None


def test_an_open_verdict_names_the_trainings_that_would_settle_it() -> None:
    trials = [trial(0, 0.05), trial(1, 0.054, changes=LESS)]
    found = judged(trials)
    assert found.comparison is not None
    assert found.comparison.verdict not in DECIDED
    again = {retest.trial_id: retest.seeds for retest in found.retest}
    assert set(again) <= {"t-0", "t-1"}
    assert all(seeds == tuple(range(1, 1 + len(seeds))) for seeds in again.values())
    # Played, with the gain as it was, they do settle it.
    for name, seeds in again.items():
        number, score, changes = (0, 0.05, None) if name == "t-0" else (1, 0.054, LESS)
        trials += [trial(number, score, changes=changes, seed=seed) for seed in seeds]
    assert compared([*trials[:1], *trials[2:], trials[1]]).verdict in DECIDED


def test_a_seed_that_failed_is_not_asked_for_again() -> None:
    trials = [*steady(0, 0.05), trial(1, 0.0535, changes=LESS)]
    assert judged(trials).retest[-1] == verdicts.Retest("t-1", judged(trials).retest[-1].seeds)
    assert judged(trials).retest[-1].seeds[0] == 1
    failed = trial(1, None, changes=LESS, seed=1, status="diverged")
    assert judged([*trials[:3], failed, trials[3]]).retest[-1].seeds[0] == 2


def test_nothing_is_asked_of_a_configuration_that_was_beaten_long_ago() -> None:
    trials = [*steady(0, 0.05), *steady(1, 0.08, LESS), trial(2, 0.0535, changes=MORE)]
    assert compared(trials).verdict == "worse"
    assert judged(trials).retest == ()
    # A fresh seed of the default, which has been beaten, is compared and asks for nothing either.
    trials.append(trial(0, 0.052, seed=7))
    assert compared(trials).verdict == "worse"
    assert judged(trials).retest == ()


def test_an_open_pair_of_scorings_asks_for_the_same_seeds_of_both() -> None:
    default = trial(0, 0.0500)
    scored = trial(1, 0.0514, changes={"item_cf_alpha": 1.0}, weights_of="t-0")
    fine = study(min_gain=0.001)
    found = verdicts.verdict(fine, scored, [default, scored])
    assert found.comparison is not None
    assert found.comparison.paired
    first, second = found.retest
    assert (first.trial_id, second.trial_id) == ("t-0", "t-1")
    assert first.seeds == second.seeds
    more = trial(0, 0.0510, seed=4)
    wanted = verdicts.verdict(fine, scored, [default, more, scored]).retest
    assert wanted[-1].seeds[0] == 4  # the default has it already


def test_a_lead_inside_the_noise_is_neither_built_on_nor_chosen() -> None:
    assert leader([*steady(0, 0.0500), trial(1, 0.0505, changes=LESS)]) == ["t-0", "t-0-1", "t-0-2"]


def test_a_lead_is_built_on_until_fresh_seeds_take_it_back() -> None:
    trials = [*steady(0, 0.0500), trial(1, 0.0560, changes=LESS)]
    assert leader(trials) == ["t-1"]
    trials.append(trial(1, 0.0450, changes=LESS, seed=1))
    assert leader(trials) == ["t-0", "t-0-1", "t-0-2"]


def test_two_scorings_of_the_same_weights_are_compared_seed_by_seed() -> None:
    default = [trial(0, score, seed=seed) for seed, score in enumerate((0.050, 0.060))]
    counts = trial(1, 0.062, changes={"item_cf_alpha": 1.0}, seed=1, weights_of="t-0-1")
    found = compared([*default, counts])
    assert (found.observed, found.paired) == (pytest.approx(0.062 / 0.060 - 1), True)
    found = compared([*default, trial(1, 0.062, changes={"dropout": 0.1}, seed=1)])
    assert (found.observed, found.paired) == (pytest.approx(0.062 / math.sqrt(0.05 * 0.06) - 1), False)


def test_a_scoring_without_effect_on_lucky_weights_is_never_chosen() -> None:
    default = [trial(0, score, seed=seed) for seed, score in enumerate((0.050, 0.056, 0.050))]
    lucky = trial(1, 0.05601, changes={"transition_alpha": 0.001}, seed=1, weights_of="t-0-1")
    assert leader([*default, lucky]) == ["t-0", "t-0-1", "t-0-2"]


def test_the_same_seed_trained_twice_is_no_pair() -> None:
    """A fingerprint says what weights a whole training has, not those of one that ended early."""
    default = trial(0, 0.050, fingerprint="f", status="timed_out")
    counts = trial(1, 0.056, changes={"item_cf_alpha": 1.0}, fingerprint="f")
    assert not compared([default, counts]).paired


def test_weights_of_another_study_count_as_a_seed_and_the_same_weights_once() -> None:
    own = [trial(0, 0.050), trial(0, 0.053, seed=1)]
    reused = [own[0], trial(0, 0.053, seed=1, weights_of="t-elsewhere")]
    assert verdicts.noise_of(study(), reused) == verdicts.noise_of(study(), own) != verdicts.noise_of(study(), own[:1])
    scored = [trial(1, 0.051 + 0.003 * seed, changes={"item_cf_alpha": 1.0}, seed=seed,
                    weights_of="t-0" if not seed else "t-0-1") for seed in (0, 1)]  # fmt: skip
    assert verdicts.noise_of(study(), [*own, *scored]) == verdicts.noise_of(study(), own)


def test_a_trial_that_was_stopped_early_is_not_measured() -> None:
    trials = [*steady(0, 0.05), trial(1, 0.02, changes=LESS, status="stopped")]
    assert (judged(trials).comparison, judged(trials).retest) == (None, ())


def test_the_study_says_which_gain_matters() -> None:
    trials = [*steady(0, 0.05, seeds=9), *steady(1, 0.0502, LESS, seeds=9)]
    for least, equivalent in ((0.5, True), (0.0001, False)):
        found = verdicts.verdict(study(min_gain=least), trials[-1], trials).comparison
        assert found is not None
        assert (found.verdict == "equivalent") is equivalent


def test_a_judgement_does_not_change_when_later_trials_land() -> None:
    trials = [trial(0, 0.05), trial(1, 0.06, changes={"dropout": 0.1})]
    later = [*trials, trial(2, 0.9, changes={"dropout": 0.2}), trial(0, 0.02, seed=1)]
    assert verdicts.verdict(study(), trials[1], trials) == verdicts.verdict(study(), trials[1], later)


def test_replicates_set_the_noise() -> None:
    calm = [trial(0, 0.0500), *(trial(0, 0.0500 + 0.00001 * seed, seed=seed) for seed in range(1, 12))]
    assert verdicts.noise_of(study(), calm).sigma < verdicts.noise_of(study(), calm[:1]).sigma


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


def planned(trials: list[Trial], **request: Any) -> NewTrial:
    return admission.plan_trial(StudyHistory(study(), trials), TrialRequest(study_id="s-1", **request))


def test_the_first_plan_without_changes_is_the_default() -> None:
    new = planned([])
    assert (new.parent, new.changes, new.seed, new.config) == (None, {}, 0, study().space.default())


def test_changes_apply_to_the_incumbent_unless_a_parent_is_named() -> None:
    trials = [trial(0, 0.05), trial(1, 0.06, changes={"dropout": 0.1}, verdict="better")]
    on_best = planned(trials, changes={"num_blocks": 1})
    on_default = planned(trials, changes={"num_blocks": 1}, parent="t-0")
    assert (on_best.parent, on_best.config["dropout"]) == ("t-1", 0.1)
    assert (on_default.parent, on_default.config["dropout"]) == ("t-0", 0.5)


def test_a_change_to_the_value_it_has_already_is_no_change() -> None:
    assert planned([trial(0, 0.05)], changes={"dropout": 0.5}).changes == {}


def test_a_replicate_takes_the_next_free_seed_and_names_the_first_of_its_kind() -> None:
    trials = [trial(0, 0.05), trial(0, 0.05, seed=1, replicate_of="t-0")]
    new = planned(trials, replicate_of="t-0-1")
    assert (new.seed, new.replicate_of, new.config) == (2, "t-0", trials[0].config)


def test_a_replicate_takes_the_first_free_seed_of_the_study_whatever_seed_it_repeats() -> None:
    new = planned([trial(0, 0.05, seed=5)], replicate_of="t-0-5")
    assert (new.seed, new.replicate_of) == (0, "t-0-5")


def test_the_same_configuration_with_another_seed_is_a_replicate_without_being_asked() -> None:
    assert planned([trial(0, 0.05)], seed=5).replicate_of == "t-0"


def test_an_equal_trial_is_the_latest_that_was_neither_cancelled_nor_crashed() -> None:
    new = planned([])
    ends = ("diverged", "crashed", "cancelled")
    first, *others = [trial(0, None, status=status, trial_id=f"t-{status}") for status in ends]
    other_seed, other = trial(0, 0.05, seed=1), trial(1, 0.05, changes={"dropout": 0.1})
    assert admission.equal_trial([], new) is None
    assert admission.equal_trial([first, *others, other_seed, other], new) == first
    queued = trial(0, None, status="queued", trial_id="t-queued")
    assert admission.equal_trial([first, queued, *others], new) == queued
    assert admission.equal_trial([*others, other_seed, other], new) is None


def test_a_replicate_admits_no_changes() -> None:
    with pytest.raises(ProtocolError, match="leave changes and parent out"):
        planned([trial(0, 0.05)], changes={"dropout": 0.1}, replicate_of="t-0")


@pytest.mark.parametrize("name", ["parent", "replicate_of"])
def test_a_trial_of_another_study_is_refused_with_those_there_are(name: str) -> None:
    given = {"parent": None, "replicate_of": None, name: "t-9"}
    with pytest.raises(ProtocolError, match=f"{name}='t-9' is not a trial of study 's-1'; its trials: t-0"):
        planned([trial(0, 0.05)], parent=given["parent"], replicate_of=given["replicate_of"])


def test_a_misspelled_field_gets_its_nearest_name() -> None:
    with pytest.raises(SpaceError, match="Did you mean 'dropout'"):
        planned([], changes={"droput": 0.1})


# Guardrails

COVERED = study(guardrails=check_guardrails({"coverage@10": {"min": 0.2}}))


def measured(number: int, score: float, coverage: float | None = None, **values: Any) -> Trial:
    return trial(
        number, score, changes={"dropout": round(0.5 - number / 100, 2)} if number else {},
        measures={} if coverage is None else {"coverage@10": coverage}, **values,
    )  # fmt: skip


def test_a_configuration_that_violates_a_guardrail_is_not_chosen() -> None:
    trials = [measured(0, 0.05, 0.3), measured(1, 0.09, 0.1), measured(2, 0.07, 0.25)]
    assert leader(trials, COVERED) == ["t-2"]
    assert leader(trials) == ["t-1"]


def test_it_gets_no_verdict_and_is_nobodys_rival() -> None:
    trials = [measured(0, 0.05, 0.3), measured(1, 0.09, 0.1), measured(2, 0.06, 0.25)]
    assert verdicts.verdict(COVERED, trials[1], trials).comparison is None
    against = verdicts.verdict(COVERED, trials[2], trials).against
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
    assert violations(check_guardrails(limit), trials) == words


def test_a_value_at_its_limit_is_allowed() -> None:
    exactly = check_guardrails({"coverage@10": {"min": 0.2, "max": 0.2}})
    assert violations(exactly, [measured(1, 0.05, 0.2)]) == []


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
        check_guardrails(wanted)


def test_a_study_whose_slot_seconds_are_spent_admits_nothing() -> None:
    limited = study(gpu_seconds=100.0)
    admission.check_open(limited, [], "new", BEGAN, held=99.0)
    with pytest.raises(
        ProtocolError, match=r"^The 100 slot seconds of this study are spent \(gpu_seconds\); finish_study"
    ):
        admission.check_open(limited, [], "new", BEGAN, held=100.0)
