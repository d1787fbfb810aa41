"""The answer of finish_study: the chosen configuration beside the default, with the sealed test once it is revealed."""

from __future__ import annotations

from collections.abc import Sequence

from memory.records import Closing, Reveal, Study
from memory.store import Memory
from server.answers import FinishAnswer, Finished, rounded, rounded_all
from server.settings import Settings
from server.study import standings
from server.study.confirming import final_gain_of
from server.study.guardrail_words import guardrail_words
from server.study.guardrails import violations
from server.study.history import StudyHistory, read_history
from server.study.previous_version import still_wins
from server.study.replayed import NOTICE, replay_of
from server.study.standings import Standing
from server.views.finish_words import baseline_words, gain_words, seed_words, user_words
from server.views.replay import without_test
from trainers.contract.wire import CHECKPOINT_FILE


def finish_answer(memory: Memory, settings: Settings, study: Study) -> FinishAnswer:
    """The answer of finish_study: chosen and default configuration with validation and revealed test."""
    trials = memory.trials(study.study_id)
    if not study.finished:
        return FinishAnswer(
            study_id=study.study_id,
            status="running",
            next=f"finish_study(study_id={study.study_id!r}, wait_seconds=45) waits on for the sealed test.",
        )
    reveal, history = memory.reveals.of_study(study.study_id), read_history(memory, study.study_id)
    if reveal is not None:
        return _revealed_answer(memory, settings, history, reveal)
    if history.incumbent is not None and (history.default is None or replay_of(study) is not None):
        return without_test(history, settings.trials_dir)
    return FinishAnswer(
        study_id=study.study_id,
        status="finished",
        trainings=len(trials),
        words=f"{_why_nothing(history)}, so there was nothing to evaluate; the test split stays sealed.",
        next="start_study opens a new study; "
        + ("wider guardrails admit more." if history.ranked else "a smaller learning_rate or model may train."),
    )


def _why_nothing(history: StudyHistory) -> str:
    if history.ranked and (words := guardrail_words(history)):
        return words
    return "No training scored" if history.trials else "No training was started"


def _revealed_answer(memory: Memory, settings: Settings, history: StudyHistory, reveal: Reveal) -> FinishAnswer:
    study, trials = history.study, history.trials
    chosen = next(one for one in history.ranked if reveal.chosen[0] in one.trial_ids)
    default = next((one for one in history.ranked if set(reveal.default) & set(one.trial_ids)), None)
    best, base = _finished(study, chosen, reveal.chosen, reveal), None
    if default is not None:
        base = _finished(study, default, reveal.default, reveal)
    words, delta = _words(history, chosen, base, reveal, memory.reveals.closing(study.study_id))
    if default is not None and (limits := violations(study.guardrails, default.trials)):
        words += f" The default violates a guardrail ({'; '.join(limits)}), so it could not be chosen."
    words += still_wins(study, trials, chosen)
    checkpoint = settings.trials_dir / chosen.best_trial.trial_id / CHECKPOINT_FILE
    replay = replay_of(study)
    return FinishAnswer(
        study_id=study.study_id,
        status="finished",
        chosen=best,
        default=base,
        test_delta=delta,
        baselines={name: rounded(values[study.metric]) for name, values in reveal.baselines.items()} or None,
        words=words,
        replay=NOTICE if replay else None,
        test_reveal=reveal.ordinal,
        checkpoint=None if replay else str(checkpoint),
        trainings=len(trials),
        seconds=rounded(sum(trial.seconds + trial.eval_seconds for trial in trials)),
        next=f"write_heuristic(study_id={study.study_id!r}, kind='heuristic', …) keeps what was learned.",
    )


def _words(
    history: StudyHistory, chosen: Standing, base: Finished | None, reveal: Reveal, choice: Closing | None
) -> tuple[str, float | None]:
    """The outcome in a few sentences, and the relative gain on the test."""
    study, delta, compared = history.study, None, False
    sentences = [baseline_words(history, chosen, reveal)]
    if base is None:
        sentences.append("The default configuration was never trained, so there is nothing to compare with.")
    elif base.config == chosen.config:
        sentences.append("The default configuration is the best found; nothing beat it on validation.")
        delta = 0.0
    elif base.test[study.metric] <= 0:
        sentences.append("The default scores 0 on the test, so a relative difference means nothing.")
    else:
        gain, compared = final_gain_of(history, reveal), True
        sentences += [gain_words(study, gain), seed_words(history, reveal, choice, gain.gain < 0)]
        delta = rounded(gain.gain)
    sentences.append(user_words(study, reveal, compared))
    if reveal.ordinal > 1:
        sentences.append(f"Test reused: reveal {reveal.ordinal} of this dataset.")
    return " ".join(filter(None, sentences)), delta


def _finished(study: Study, standing: Standing, tested: Sequence[str], reveal: Reveal) -> Finished:
    validation = [trial.validation for trial, _ in standing.counted]
    return Finished(
        trial_ids=standing.trial_ids,
        config=standing.config,
        changes=standings.changes_from(standing.config, study.space.default()),
        validation=rounded_all(_mean(validation)),
        test=rounded_all(_mean([reveal.test[name] for name in tested if name in reveal.test])),
        tested=list(tested),
    )


def _mean(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(values[name] for values in metrics) / len(metrics) for name in metrics[0]}
