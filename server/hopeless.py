"""What the rule of early stopping asks of one training, given what memory holds of its study."""

from __future__ import annotations

from collections.abc import Iterator

from memory.records import Study, Trial
from memory.store import Memory
from server import stopping, studies
from server.views import earlier_groups
from trainers.space import Config


def stop_below(memory: Memory, study: Study, trial: Trial) -> tuple[float, ...]:
    """How well a trial must have validated by each epoch to go on; empty where it is trained to its end.

    The default and every further seed of a configuration are: noise and comparisons with the default rest on them.
    """
    default = study.space.hash(study.space.default())
    if study.early_stop == "off" or trial.replicate_of is not None or trial.config_hash == default:
        return ()
    trials = memory.trials(study.study_id)
    sigma = studies.noise_of(study, trials, earlier_groups(memory, study)).sigma
    epochs = _most_epochs(trial.config)
    return stopping.stop_below(list(_curves(memory, study, trials, epochs)), sigma, epochs)


def _curves(memory: Memory, study: Study, trials: list[Trial], epochs: int) -> Iterator[stopping.Curve]:
    """The earlier curves. One that a lower max_epochs cut off might have risen, as if it had been stopped there."""
    ids = {trial.trial_id for trial in trials}
    known = memory.curves(study.study_id, study.metric)
    for trial in trials:
        if trial.status not in ("ok", "stopped", "timed_out") or trial.weights_of in ids:
            continue
        validation = [value for _, value in known.get(trial.trial_id, ())]
        cut = len(validation) >= _most_epochs(trial.config) and _most_epochs(trial.config) < epochs
        if curve := stopping.curve(trial.config_hash, validation, trial.status == "ok" and not cut):
            yield curve


def _most_epochs(config: Config) -> int:
    return int(config.get("max_epochs", 0))
