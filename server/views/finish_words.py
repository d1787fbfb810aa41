"""The end of a study in words: which baseline wins, whether the choice beats the default, and on which seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from memory.records import Closing, Reveal, Study, Trial
from memory.statistics.final import FinalGain
from server.study import confirming
from server.study.history import StudyHistory
from server.study.standings import Standing
from trainers.data import FEW_USERS, noise_of

RESULTS = {True: "beats the default", False: "is worse than the default", None: "is not told apart from the default"}


def baseline_words(history: StudyHistory, chosen: Standing, reveal: Reveal) -> str:
    """Says which baselines beat the chosen configuration, on validation or on the test; empty where none does."""
    metric = history.study.metric
    test = fmean(reveal.test[name][metric] for name in reveal.chosen if name in reveal.test)
    sentences: list[str] = []
    for name, validation in history.baselines.items():
        scores = [("validation", validation[metric], chosen.mean)]
        if name in reveal.baselines:
            scores.append(("the test", reveal.baselines[name][metric], test))
        wins = [f"on {where} ({score:.4f} against {own:.4f})" for where, score, own in scores if score > own]
        if wins:
            sentences.append(f"{name} beats the chosen configuration {' and '.join(wins)}.")
    return " ".join(sentences)


def gain_words(study: Study, gain: FinalGain) -> str:
    """Whether the chosen configuration beats the default on the test, with the gain and its interval."""
    interval = f"{gain.gain:+.1%}, 95 % interval {gain.low:+.1%} to {gain.high:+.1%}"
    return f"The chosen configuration {RESULTS[gain.beats]} on the sealed test ({study.metric}: {interval})."


def seed_words(history: StudyHistory, reveal: Reveal, choice: Closing | None, lost: bool) -> str:
    """On which seeds the test rests, what is missing of the fresh ones, and that a lost choice stands."""
    by_id = {trial.trial_id: trial for trial in history.trials}
    sides = [[by_id[name] for name in ids] for ids in (reveal.chosen, reveal.default)]
    planned = (choice.chosen_seeds, choice.default_seeds) if choice else ((), ())
    fresh = all(trial.seed in seeds for side, seeds in zip(sides, planned, strict=True) for trial in side)
    sentences: list[str] = []
    if fresh:
        sentences.append(f"Tested on {_seeds(*sides)}, drawn after the choice.")
    else:
        sentences.append(
            f"The seeds that chose it also test it, which flatters it: {_why_not_fresh(history, planned)}."
        )
    wanted = confirming.wanted(history.study)
    if planned[0] and len(planned[0]) < wanted:
        sentences.append(f"The budget had room for {len(planned[0])} of {wanted} fresh seeds a side.")
    for of_choice, trial, ended in confirming.left_out(history.study, history.trials, choice) if choice else []:
        side = "the choice" if of_choice else "the default"
        sentences.append(f"Fresh seed {trial.seed} of {side} ended {ended} and is left out.")
    if fresh and lost:
        sentences.append("The choice stands although its fresh seeds lost: it was made before they were drawn.")
    return " ".join(sentences)


def _seeds(chosen: Sequence[Trial], default: Sequence[Trial]) -> str:
    first, second = (
        ("seed " if len(side) == 1 else "seeds ") + " and ".join(str(trial.seed) for trial in side)
        for side in (chosen, default)
    )
    return f"{first} of either side" if first == second else f"{first} of the choice and {second} of the default"


def _why_not_fresh(history: StudyHistory, planned: tuple[Sequence[int], Sequence[int]]) -> str:
    study = history.study
    if planned[0]:
        return "no fresh seed of one side scored"
    if study.confirm_seeds == 0:
        return "no fresh seeds were asked for (confirm_seeds=0)"
    if study.budget_seconds is not None or study.gpu_seconds is not None:
        return "the budget had no room for fresh seeds"
    return "no fresh seeds were trained"


def user_words(study: Study, reveal: Reveal, compared: bool) -> str:
    """How many users were measured and tested, and whether the interval counts them."""
    tested = study.facts.users if reveal.users is None else reveal.users
    words = f"Measured on {study.facts.measured_users:,} users, tested on {tested:,}."
    if (few := min(tested, study.facts.measured_users)) < FEW_USERS:
        words += f" So few say little: {noise_of(few)}."
    if reveal.apart_users is not None:
        score = fmean(reveal.apart[name][study.metric] for name in reveal.chosen if name in reveal.apart)
        words += (
            f" Apart from them, {reveal.apart_users:,} tested users have no training event; on these the choice scores "
            f"{score:.4f}."
        )
    if compared and reveal.user_variance is None:
        words += " The interval counts seeds alone: how the gain varies with the users is not known here."
    return words
