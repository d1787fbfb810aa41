"""The one look at a sealed test split that ends a study; it goes on when the caller vanishes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from memory.noise import compare, compare_paired
from memory.records import Reveal, Study, Trial
from memory.store import Memory
from server import run_directory, studies
from server.admission import ProtocolError
from server.answers import FinishAnswer, Finished
from server.brief import rounded, rounded_all
from server.executors.base import ExecutorError
from server.lineage import still_wins
from server.settings import Settings
from server.studies import Standing
from server.supervisor import Supervisor
from trainers.spec import CheckpointPath, EvaluationSpec, FilterSeen, Revealed


class Reveals:
    """The evaluations of sealed tests that are under way, at most one a study."""

    def __init__(self, memory: Memory, supervisor: Supervisor) -> None:
        self._memory = memory
        self._supervisor = supervisor
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def active(self) -> bool:
        """Whether an evaluation is under way."""
        return bool(self._running)

    async def finish(self, study: Study, seconds: float) -> None:
        """Reveal the test of `study` once and end it; waits at most `seconds`, then it goes on by itself."""
        task = self._running.get(study.study_id)
        if task is None:
            if study.finished:
                return
            self._refuse_unfinished(study)
            task = asyncio.create_task(self._reveal(study), name=study.study_id)
            self._running[study.study_id] = task
            task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            task.result()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task.get_name(), None)
        if not task.cancelled():
            task.exception()  # the caller may have vanished; the next finish_study begins anew

    def _refuse_unfinished(self, study: Study) -> None:
        for trial in self._memory.trials(study.study_id):
            if trial.status in ("queued", "running"):
                raise ProtocolError(
                    f"Trial {trial.trial_id!r} is still {trial.status}: wait with "
                    f"get_trial(trial_id={trial.trial_id!r}, wait_seconds=45) or end it with cancel_trial first."
                )

    async def _reveal(self, study: Study) -> None:
        trials = self._memory.trials(study.study_id)
        chosen, default = studies.chosen(study, trials), studies.default_standing(study, trials)
        if chosen is not None:
            ids = dict.fromkeys(chosen.trial_ids + (default.trial_ids if default else []))
            found = await evaluate(self._supervisor, study.study_id, study.dataset_hash, study.filter_seen, list(ids))
            self._memory.add_reveal(
                study.study_id,
                study.dataset_hash,
                chosen.trial_ids,
                default.trial_ids if default else [],
                found.trials,
            )
        self._memory.mark_finished(study.study_id)

    async def aclose(self) -> None:
        """End evaluations under way; a later finish_study begins them anew."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)


async def evaluate(
    supervisor: Supervisor, study_id: str, dataset_hash: str, filter_seen: FilterSeen, trial_ids: Sequence[str]
) -> Revealed:
    """Reads the sealed test for the checkpoints of these trials; cancelling ends that. Raises ExecutorError."""
    paths = tuple(CheckpointPath(trial_id=one, path=f"../{one}/checkpoint.safetensors") for one in trial_ids)
    asked = EvaluationSpec(dataset_hash=dataset_hash, filter_seen=filter_seen, checkpoints=paths)
    directory = supervisor.trials / f"reveal-{study_id}"
    try:
        run_directory.prepare_evaluation(directory, asked)
    except OSError as error:
        raise ExecutorError(f"{directory.name} cannot be written: {error.strerror or error}.") from None
    await supervisor.produce(directory, "evaluate")
    revealed = run_directory.read_revealed(directory)
    if revealed.status != "ok":
        raise ExecutorError(f"The evaluation of study {study_id!r} failed: {revealed.message}")
    return revealed


def finish_answer(memory: Memory, settings: Settings, study: Study) -> FinishAnswer:
    """What finish_study tells: chosen and default configuration with validation and revealed test."""
    trials = memory.trials(study.study_id)
    if not study.finished:
        return FinishAnswer(
            study_id=study.study_id,
            status="running",
            next=f"finish_study(study_id={study.study_id!r}, wait_seconds=45) waits on for the sealed test.",
        )
    reveal = memory.reveal(study.study_id)
    if reveal is None:
        return FinishAnswer(
            study_id=study.study_id,
            status="finished",
            trainings=len(trials),
            words=f"{_why_nothing(study, trials)}, so there was nothing to evaluate; the test split stays sealed.",
            next="start_study opens a new study; a smaller learning_rate or model may train.",
        )
    return _revealed_answer(memory, settings, study, reveal)


def _why_nothing(study: Study, trials: list[Trial]) -> str:
    if studies.standings(study, trials):
        return f"Every configuration violates a guardrail ({', '.join(study.guardrails)})"
    return "No training scored"


def _revealed_answer(memory: Memory, settings: Settings, study: Study, reveal: Reveal) -> FinishAnswer:
    trials = memory.trials(study.study_id)
    by_first = {standing.trial_ids[0]: standing for standing in studies.standings(study, trials)}
    chosen = by_first[reveal.chosen[0]]
    default = by_first[reveal.default[0]] if reveal.default else None
    best, base = _finished(study, chosen, reveal), _finished(study, default, reveal) if default else None
    words, delta = _words(study, chosen, default, best, base, reveal)
    words += still_wins(study, trials, chosen)
    checkpoint = settings.trials / chosen.best_trial.trial_id / "checkpoint.safetensors"
    return FinishAnswer(
        study_id=study.study_id,
        status="finished",
        chosen=best,
        default=base,
        test_delta=delta,
        words=words,
        test_reveal=reveal.ordinal,
        checkpoint=str(checkpoint),
        trainings=len(trials),
        seconds=rounded(sum(trial.seconds + trial.eval_seconds for trial in trials)),
        next=f"write_heuristic(study_id={study.study_id!r}, kind='heuristic', …) keeps what was learned.",
    )


def _words(
    study: Study, chosen: Standing, default: Standing | None, best: Finished, base: Finished | None, reveal: Reveal
) -> tuple[str, float | None]:
    """The outcome in one or two sentences, and the relative test difference; noise is that of the validation."""
    reused = f" Test reused: reveal {reveal.ordinal} of this dataset." if reveal.ordinal > 1 else ""
    if base is None or default is None:
        return f"The default configuration was never trained, so there is nothing to compare with.{reused}", None
    if chosen.config_hash == default.config_hash:
        return f"The default configuration is the best found; nothing beat it on validation.{reused}", 0.0
    own, other = best.test[study.metric], base.test[study.metric]
    if other <= 0:
        return f"The default scores 0 on the test, so a relative difference means nothing.{reused}", None
    noise = studies.noise_of(study, [*chosen.trials, *default.trials])
    if pairs := studies.same_weights(chosen, default):
        test = {trial_id: metrics[study.metric] for trial_id, metrics in reveal.test.items()}
        compared = compare_paired([(test[one.trial_id], test[its.trial_id]) for one, its in pairs], noise)
    else:
        compared = compare([own] * len(chosen.scores), [other] * len(default.scores), noise)
    believed = {
        "better": "beats the default on the sealed test by more than seed noise",
        "worse": "is worse than the default on the sealed test by more than seed noise",
    }.get(compared.verdict, "does not beat the default on the sealed test by more than seed noise")
    interval = f"{compared.delta:+.1%}, interval {compared.low:+.1%} to {compared.high:+.1%}"
    return f"The chosen configuration {believed} ({study.metric}: {interval}).{reused}", rounded(compared.delta)


def _finished(study: Study, standing: Standing, reveal: Reveal) -> Finished:
    test = [reveal.test[trial_id] for trial_id in standing.trial_ids if trial_id in reveal.test]
    validation = [trial.validation for trial in standing.trials]
    return Finished(
        trial_ids=standing.trial_ids,
        config=standing.config,
        changes=studies.changes_from(standing.config, study.space.default()),
        validation=rounded_all(_mean(validation)),
        test=rounded_all(_mean(test)),
    )


def _mean(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in metrics) / len(metrics) for name in metrics[0]}
