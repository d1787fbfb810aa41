"""The end of a study: its fresh seeds, then one evaluation on the sealed test; it continues if the caller goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from memory.off_loop import off_loop
from memory.records import Closing, NewReveal, Study, Trial
from memory.store import Memory
from server.executors.base import ExecutorError
from server.scheduler import run_directory
from server.scheduler.fresh_seeds import train_fresh_seeds
from server.scheduler.supervisor import Supervisor
from server.study import confirming, standings
from server.study.admission import ProtocolError
from server.study.history import StudyHistory, read_history
from server.study.standings import Standing
from trainers.contract.metrics import values_of
from trainers.contract.wire import CHECKPOINT_FILE, CheckpointPath, EvaluationSpec, FilterSeen, Revealed

log = logging.getLogger(__name__)


class SealedTests:
    """The evaluations of sealed tests that are under way, at most one for each study.

    A study first closes: its choice is stored. Then the fresh seeds of the choice and of the default are trained, which
    are the last trainings of the study. Then its look at the test is counted, and only then does the evaluation start.
    Without a score of the default nothing could be compared, and the study finishes without a look, as it does where
    `holds_test` says that there is no test. An owner that starts goes on with the studies that an earlier one closed.
    """

    def __init__(
        self, memory: Memory, supervisor: Supervisor, holds_test: Callable[[Study], bool] = lambda study: True
    ) -> None:
        self._memory = memory
        self._supervisor = supervisor
        self._holds_test = holds_test
        self._running: dict[str, asyncio.Task[None]] = {}
        self._admitting = asyncio.Lock()

    @property
    def active(self) -> bool:
        """Whether an evaluation is under way."""
        return bool(self._running)

    async def resume(self) -> None:
        """Goes on with the studies that closed and have not finished."""
        for study in await off_loop(self._memory.studies):
            if study.closing:
                self._start(study)

    async def finish(self, study_id: str, seconds: float, write_summary: Callable[[Study], None]) -> None:
        """Closes a study and reveals its test once. Waits at most `seconds`; trainings and test go on by themselves.

        `write_summary` is called off the event loop once the study has closed, and before the test is read: so a
        refused call writes nothing, and nobody writes a summary who has seen the test. Raises ProtocolError where the
        study trained nothing or a trial is queued or running, ExecutorError where the evaluation fails: the study then
        stays closed, and the next call evaluates again.
        """
        async with self._admitting:
            task = self._running.get(study_id)
            if task is None:
                study = await off_loop(self._close, study_id, write_summary)
                if study.finished:
                    return
                task = self._start(study)
        finished, _ = await asyncio.wait({task}, timeout=seconds)
        if finished:
            task.result()

    def _start(self, study: Study) -> asyncio.Task[None]:
        task = asyncio.create_task(self._reveal(study), name=study.study_id)
        self._running[study.study_id] = task
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task.get_name(), None)
        if not task.cancelled() and (error := task.exception()) is not None:  # the caller may be gone
            log.warning("the sealed test of study %s: %s", task.get_name(), error)

    def _close(self, study_id: str, write_summary: Callable[[Study], None]) -> Study:
        study = self._memory.study(study_id)
        if study.finished or study.closing:
            return study
        trials = self._memory.trials(study_id)
        for trial in trials:
            if trial.status in ("queued", "running"):
                raise ProtocolError(
                    f"Trial {trial.trial_id!r} is still {trial.status}: wait with "
                    f"get_trial(trial_id={trial.trial_id!r}, wait_seconds=45) or end it with cancel_trial first."
                )
        if all(trial.status in ("interrupted", "cancelled") for trial in trials):
            raise ProtocolError(
                f"Study {study_id!r} has trained nothing, so there is nothing to finish: "
                f"run_trial(study_id={study_id!r}) trains its default; an open study may also stay as it is."
            )
        history = read_history(self._memory, study_id)
        chosen, default = history.incumbent, history.default
        compared = default if chosen else None
        seeds = self._fresh_seeds(history, chosen) if chosen else ((), ())
        first, second = (standing.trial_ids if standing else [] for standing in (chosen, compared))
        self._memory.reveals.close(study_id, first, second, seeds)
        write_summary(study)
        return self._memory.study(study_id)

    def _fresh_seeds(self, history: StudyHistory, chosen: Standing) -> tuple[tuple[int, ...], tuple[int, ...]]:
        study = history.study
        if not self._holds_test(study):
            return (), ()
        held = self._memory.slot_seconds(study.study_id) if study.gpu_seconds is not None else 0.0
        return confirming.seeds_to_confirm(study, history.trials, chosen.config, datetime.now(UTC), held)

    async def _reveal(self, study: Study) -> None:
        choice = await off_loop(self._memory.reveals.closing, study.study_id)
        assert choice is not None
        if not choice.chosen or not await off_loop(self._holds_test, study):
            await off_loop(self._memory.mark_finished, study.study_id)
            return
        await off_loop(self._supervisor.check_dataset, study)
        await train_fresh_seeds(self._memory, self._supervisor, study, choice)
        chosen, default, tested = await off_loop(self._sides, study, choice)
        if not chosen or not default:
            await off_loop(self._memory.mark_finished, study.study_id)
            return
        await off_loop(self._supervisor.check_dataset, study)  # what is refused is no look
        await off_loop(self._memory.reveals.look, study.study_id, study.dataset_hash)
        ids = [trial.trial_id for trial in tested]
        revealed = await evaluate(self._supervisor, study.study_id, study.dataset_hash, study.filter_seen, ids)
        await off_loop(self._store, study, chosen, default, tested, revealed)

    def _sides(self, study: Study, choice: Closing) -> tuple[tuple[Trial, ...], tuple[Trial, ...], list[Trial]]:
        """The trials over which the test of the choice and of the default is reported, and all that are tested.

        The seeds that are not reported are tested, too, for they tell how much a test score varies by seed.
        """
        trials = self._memory.trials(study.study_id)
        chosen, default = confirming.reported(study, trials, choice)
        configs = {trial.config_hash for trial in (*chosen, *default)}
        tested = [
            trial for trial in trials if trial.config_hash in configs and standings.score_of(study, trial) is not None
        ]
        return chosen, default, tested

    def _store(
        self, study: Study, chosen: Sequence[Trial], default: Sequence[Trial], tested: Sequence[Trial], seen: Revealed
    ) -> None:
        users = study.facts.users if seen.users is None else seen.users
        directory = self._supervisor.trials_dir / f"reveal-{study.study_id}"
        ranks = run_directory.take_test_ranks(directory, [trial.trial_id for trial in tested], users)
        values = {name: values_of(places, study.metric) for name, places in ranks.items()}
        self._memory.reveals.add(
            NewReveal(
                study_id=study.study_id,
                dataset_hash=study.dataset_hash,
                chosen=tuple(trial.trial_id for trial in chosen),
                default=tuple(trial.trial_id for trial in default),
                test=seen.trials,
                baselines=seen.baselines,
                users=seen.users,
                apart=seen.apart,
                apart_users=seen.apart_users,
                user_variance=confirming.user_variance_of(chosen, default, tested, values) if values else None,
            )
        )
        self._memory.mark_finished(study.study_id)

    async def aclose(self) -> None:
        """Ends the evaluations under way; a later finish_study starts them again."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)


async def evaluate(
    supervisor: Supervisor, study_id: str, dataset_hash: str, filter_seen: FilterSeen, trial_ids: Sequence[str]
) -> Revealed:
    """Evaluates the checkpoints of these trials on the sealed test; can be cancelled. Raises ExecutorError."""
    paths = tuple(CheckpointPath(trial_id=name, path=f"../{name}/{CHECKPOINT_FILE}") for name in trial_ids)
    request = EvaluationSpec(dataset_hash=dataset_hash, filter_seen=filter_seen, checkpoints=paths)
    directory = supervisor.trials_dir / f"reveal-{study_id}"
    try:
        run_directory.prepare_evaluation(directory, request)
    except OSError as error:
        raise ExecutorError(f"{directory.name} cannot be written: {error.strerror or error}.") from None
    await supervisor.run_task(directory, "evaluate")
    revealed = run_directory.read_revealed(directory)
    if revealed.status != "ok":
        raise ExecutorError(f"The evaluation of study {study_id!r} failed: {revealed.message}")
    if missing := [name for name in trial_ids if name not in revealed.trials]:
        raise ExecutorError(f"The evaluation of study {study_id!r} answered nothing for {', '.join(missing)}.")
    return revealed
