"""Applies the early-stopping rule to one training, from what memory holds of its study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memory.records import Study, Trial
from memory.store import Memory
from server.study import early_stop
from server.study.history import read_history
from trainers.contract.space import Config


def stop_below(memory: Memory, study: Study, trial: Trial) -> tuple[float, ...]:
    """How well a trial must have validated by each epoch to continue; empty if it is trained to its end.

    The default and every further seed of a configuration are always trained to their end, since noise and comparisons
    with the default rest on them; so is a trial whose request lifts the rule.
    """
    default = study.space.hash(study.space.default())
    lifted = "off" in (study.early_stop, trial.early_stop)
    if lifted or trial.replicate_of is not None or trial.config_hash == default:
        return ()
    history = read_history(memory, study.study_id)
    epochs = _most_epochs(trial.config)
    curves = list(_curves(memory, study, history.trials, epochs))
    return early_stop.stop_below(curves, history.noise.sigma, epochs)


def _curves(memory: Memory, study: Study, trials: Sequence[Trial], epochs: int) -> Iterator[early_stop.Curve]:
    """The earlier curves. A training cut off by a lower max_epochs counts as stopped, since it might have risen."""
    ids = {trial.trial_id for trial in trials}
    points_by_trial = memory.curves(study.study_id, study.metric)
    for trial in trials:
        if trial.status not in ("ok", "stopped", "timed_out") or trial.weights_of in ids:
            continue
        validation = [value for _, value in points_by_trial.get(trial.trial_id, ())]
        cut = len(validation) >= _most_epochs(trial.config) and _most_epochs(trial.config) < epochs
        if curve := early_stop.curve(trial.config_hash, validation, trial.status == "ok" and not cut):
            yield curve


def _most_epochs(config: Config) -> int:
    return int(config.get("max_epochs", 0))
