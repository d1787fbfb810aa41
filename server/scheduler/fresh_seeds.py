"""Trains the fresh seeds of a study that closes, through the ordinary queue; clients stay refused meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from memory.off_loop import off_loop
from memory.records import Closing, Study, Trial
from memory.store import Memory
from server.executors.base import ExecutorError
from server.scheduler.supervisor import Supervisor
from server.study import confirming
from trainers.contract.space import Config

WAIT_SECONDS = 3600.0


async def train_fresh_seeds(memory: Memory, supervisor: Supervisor, study: Study, choice: Closing) -> None:
    """Trains what is missing of the fresh seeds and returns when each has ended, however it ended.

    What an earlier owner trained is not trained again. Raises ExecutorError where a training could not be brought to an
    end; the next call goes on.
    """
    trials = await off_loop(memory.trials, study.study_id)
    chosen = next(trial.config for trial in trials if trial.trial_id == choice.chosen[0])
    sides = (chosen, choice.chosen_seeds), (study.space.default(), choice.default_seeds)
    for config, seeds in sides:  # one side after the other, so that a default with the same weights can reuse them
        await _train(memory, supervisor, study, config, seeds)


async def _train(memory: Memory, supervisor: Supervisor, study: Study, config: Config, seeds: Sequence[int]) -> None:
    begun: list[Trial] = []
    for seed in seeds:
        trial = await off_loop(_begin, memory, study, config, seed)
        begun.append(trial)
        if not trial.finished:
            with suppress(ExecutorError):  # the trial itself records the failure
                await supervisor.enqueue(trial, study)
    for trial in begun:
        while supervisor.holds(trial.trial_id):
            await supervisor.wait(trial.trial_id, WAIT_SECONDS)
        if not (await off_loop(memory.trial, trial.trial_id)).finished:
            why = supervisor.failure(trial.trial_id) or "it was interrupted"
            raise ExecutorError(
                f"Fresh seed {trial.seed} of study {study.study_id!r} (trial {trial.trial_id}) has not ended: {why} "
                f"finish_study(study_id={study.study_id!r}) goes on with it."
            )


def _begin(memory: Memory, study: Study, config: Config, seed: int) -> Trial:
    found = confirming.fresh_trial(study, memory.trials(study.study_id), config, seed)
    return found if isinstance(found, Trial) else memory.start_trial(found, confirms=True)
