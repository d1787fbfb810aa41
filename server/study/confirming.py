"""The fresh seeds with which a study confirms its choice: how many, which, and the room that is kept for them.

The seeds by which a configuration was chosen flatter it, so its test is that of seeds drawn after the choice, beside as
many of the default. The choice stands even if they lose. Pure functions over records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean, median

from memory.records import Closing, NewTrial, Reveal, Study, Trial
from memory.statistics.final import FinalGain, Values, final_gain, noise_of_test, user_variance
from memory.statistics.noise import log_score, started
from server.replay.marker import REPLAY_VERSION
from server.study.admission import training_fingerprint
from server.study.history import StudyHistory
from server.study.standings import next_free, score_of
from trainers.contract.space import Config

DEFAULT_SEEDS = 2
"""Fresh seeds of the choice and of the default where a study names no number."""
KEPT_SHARE = 0.25
"""The most of a budget of seconds that is kept for fresh seeds whose number the study does not name."""


def wanted(study: Study) -> int:
    """How many fresh seeds of either side the study wants."""
    return DEFAULT_SEEDS if study.confirm_seeds is None else study.confirm_seeds


def usual_seconds(study: Study, trials: Sequence[Trial]) -> float:
    """Median seconds of a training of the study; 0 before the first, and where recorded tables answer."""
    seconds = [
        0.0 if REPLAY_VERSION in trial.versions else trial.seconds + trial.eval_seconds
        for trial in trials
        if score_of(study, trial) is not None and trial.weights_of is None
    ]
    return median(seconds) if seconds else 0.0


def kept_seconds(study: Study, trials: Sequence[Trial]) -> float:
    """Seconds of the budget that an open study keeps for its fresh seeds; 0 for a study that closes."""
    limits = [limit for limit in (study.budget_seconds, study.gpu_seconds) if limit is not None]
    if not limits or study.closing or study.finished:
        return 0.0
    pair, count = 2 * usual_seconds(study, trials), wanted(study)
    if study.confirm_seeds is None:
        while count and count * pair > KEPT_SHARE * min(limits):
            count -= 1
    return count * pair


def seeds_to_confirm(
    study: Study, trials: Sequence[Trial], chosen: Config, now: datetime, held_seconds: float = 0.0
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The fresh seeds of the choice and of the default, as many as the budget has room for.

    A choice that is the default needs none. A default that has no score yet gets at least one, since nothing could be
    compared without it. `held_seconds`: how long the study's trainings have held slots so far.
    """
    default = study.space.default()
    if study.space.hash(chosen) == study.space.hash(default):
        return (), ()
    count, pair = wanted(study), 2 * usual_seconds(study, trials)
    spent = {study.budget_seconds: (now - study.created_at).total_seconds(), study.gpu_seconds: held_seconds}
    left = min((limit - used for limit, used in spent.items() if limit is not None), default=None)
    while count and left is not None and count * pair > left:
        count -= 1
    seeds = _unused(study, trials, (chosen, default), max(count, 1))
    missing = all(score_of(study, trial) is None for trial in trials if trial.config_hash == study.space.hash(default))
    return seeds[:count], seeds if missing else seeds[:count]


def _unused(study: Study, trials: Sequence[Trial], configs: Sequence[Config], count: int) -> tuple[int, ...]:
    """The smallest seeds with which no trial of the study trained any of these configurations, or the same weights."""
    hashes = {study.space.hash(config) for config in configs}
    used = {
        trial.seed
        for trial in trials
        if trial.config_hash in hashes
        or (
            trial.fingerprint is not None
            and trial.fingerprint in {training_fingerprint(study, config, trial.seed) for config in configs}
        )
    }
    seeds: list[int] = []
    while len(seeds) < count:
        seeds.append(next_free(study.seed, used | set(seeds)))
    return tuple(seeds)


def fresh_trial(study: Study, trials: Sequence[Trial], config: Config, seed: int) -> NewTrial | Trial:
    """The trial that trains this fresh seed: the one that is there, or a new one."""
    same = [trial for trial in trials if trial.config_hash == study.space.hash(config)]
    if (there := next((trial for trial in same if trial.seed == seed), None)) is not None:
        return there
    first = same[0] if same else None
    return NewTrial(
        study_id=study.study_id,
        parent=first.parent if first else None,
        changes=first.changes if first else {},
        config=config,
        config_hash=study.space.hash(config),
        fingerprint=training_fingerprint(study, config, seed),
        seed=seed,
        replicate_of=(first.replicate_of or first.trial_id) if first else None,
        hypothesis="a fresh seed for the end of the study, drawn after the choice was made",
    )


def reported(study: Study, trials: Sequence[Trial], choice: Closing) -> tuple[tuple[Trial, ...], tuple[Trial, ...]]:
    """The trials of the choice and of the default over which the test is reported.

    Those are the fresh seeds where either side has one that scored, else all seeds. Seeds that never started to learn
    are left out, by their validation. A choice that differs from the default in scoring only is compared on the weights
    that both scored. Either side is empty where nothing of it scored.
    """
    by_id = {trial.trial_id: trial for trial in trials}
    default = study.space.hash(study.space.default())
    sides = (by_id[choice.chosen[0]].config_hash, choice.chosen_seeds), (default, choice.default_seeds)
    scored = [_that_started(study, [trial for trial in trials if trial.config_hash == name]) for name, _ in sides]
    fresh = [[trial for trial in side if trial.seed in seeds] for side, (_, seeds) in zip(scored, sides, strict=True)]
    first, second = fresh if all(fresh) else scored
    by_print = {trial.fingerprint: trial for trial in second if trial.fingerprint is not None}
    pairs = [(trial, by_print[trial.fingerprint]) for trial in first if trial.fingerprint in by_print]
    if pairs:
        return tuple(own for own, _ in pairs), tuple(other for _, other in pairs)
    return tuple(first), tuple(second)


def _that_started(study: Study, trials: Sequence[Trial]) -> list[Trial]:
    """The trials of one configuration that scored, without seeds that never started to learn."""
    users = study.facts.measured_users
    scores = [(trial, log_score(score, users)) for trial in trials if (score := score_of(study, trial)) is not None]
    kept = set(started([value for _, value in scores]))
    return [trial for trial, value in scores if value in kept]


def same_weights(first: Sequence[Trial], second: Sequence[Trial]) -> bool:
    """Whether both sides score the same weights, in the same order; whether these were cached makes no difference."""
    prints = [[trial.fingerprint for trial in side] for side in (first, second)]
    return bool(prints[0]) and None not in prints[0] and prints[0] == prints[1]


def left_out(study: Study, trials: Sequence[Trial], choice: Closing) -> list[tuple[bool, Trial, str]]:
    """The fresh seeds that do not count: whether of the choice (else of the default), the trial, and how it ended."""
    by_id = {trial.trial_id: trial for trial in trials}
    default = study.space.hash(study.space.default())
    sides = (True, by_id[choice.chosen[0]].config_hash, choice.chosen_seeds), (False, default, choice.default_seeds)
    found: list[tuple[bool, Trial, str]] = []
    for of_choice, name, seeds in sides:
        same = [trial for trial in trials if trial.config_hash == name]
        kept = {trial.trial_id for trial in _that_started(study, same)}
        for trial in same:
            if trial.seed in seeds and trial.trial_id not in kept:
                ended = trial.status if score_of(study, trial) is None else "without ever starting to learn"
                found.append((of_choice, trial, ended))
    return found


def user_variance_of(
    chosen: Sequence[Trial], default: Sequence[Trial], tested: Sequence[Trial], values: Mapping[str, Values]
) -> float:
    """Variance of the log gain over the users, from the test value of each user by trial."""
    sides = [[values[trial.trial_id] for trial in side] for side in (chosen, default)]
    reported = {trial.trial_id for trial in (*chosen, *default)}
    more = [
        [values[one.trial_id] for one in tested if one.config_hash == name and one.trial_id not in reported]
        for name in (chosen[0].config_hash, default[0].config_hash)
    ]
    return user_variance(sides[0], sides[1], more=(more[0], more[1]), paired=same_weights(chosen, default))


def final_gain_of(history: StudyHistory, reveal: Reveal) -> FinalGain:
    """The gain of the choice over the default on the test, from what its one look showed."""
    study, metric = history.study, history.study.metric
    by_id = {trial.trial_id: trial for trial in history.trials}
    sides = [[by_id[name] for name in side if name in reveal.test] for side in (reveal.chosen, reveal.default)]
    paired = same_weights(sides[0], sides[1])
    groups = [
        [reveal.test[trial.trial_id][metric] for trial in history.trainings(side[0]) if trial.trial_id in reveal.test]
        for side in sides
    ]
    replicates = [max(groups, key=len)] if paired else groups  # the same weights are one group
    users = study.facts.users if reveal.users is None else reveal.users
    noise = noise_of_test(history.noise, study.facts.measured_users, users, replicates)
    first, second = ([reveal.test[trial.trial_id][metric] for trial in side] for side in sides)
    own, other = (_level(study, history.trainings(side[0])) for side in sides)
    below = own - max(own, other), other - max(own, other)
    return final_gain(first, second, noise, users, reveal.user_variance or 0.0, below=below, paired=paired)


def _level(study: Study, trainings: Sequence[Trial]) -> float:
    """The mean log validation score of one configuration."""
    users = study.facts.measured_users
    return fmean(log_score(score_of(study, trial) or 0.0, users) for trial in _that_started(study, trainings))
