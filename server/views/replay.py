"""What a replay home answers in its own words, and the end of a study whose test stays sealed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from server.answers import DatasetList, FinishAnswer, Finished, rounded, rounded_all
from server.replay.tables import Tables
from server.study import standings
from server.study.history import StudyHistory
from server.study.replayed import NOTICE, replay_of
from server.study.standings import Standing
from server.views.items import dataset_line
from trainers.contract.wire import CHECKPOINT_FILE
from trainers.data import Dataset


def replayed_list(tables: Tables, datasets: Sequence[Dataset]) -> DatasetList:
    """The datasets that can be tuned on in a replay home, with the backbones that were recorded on each."""
    recorded = tables.recorded
    lines = [
        dataset_line(dataset).model_copy(update={"recorded": list(recorded[dataset.name])})
        for dataset in datasets
        if dataset.name in recorded and tables.is_recorded(dataset.name, dataset.content_hash)
    ]
    return DatasetList(datasets=lines, replay=NOTICE, next="start_study(dataset=NAME, backbone=ONE OF ITS recorded).")


def without_test(history: StudyHistory, trials_dir: Path) -> FinishAnswer:
    """The end of a study whose test stays sealed: the choice stands on validation alone."""
    study, chosen, default = history.study, history.incumbent, history.default
    words = "The recorded tables hold no test, so none was revealed: the choice rests on validation alone."
    if default is None:
        words = (
            "The default configuration has no score, so the choice could be compared with nothing, and the test split "
            "stays sealed: the choice rests on validation alone."
        )
    replay = replay_of(study)
    weights = None if replay or chosen is None else str(trials_dir / chosen.best_trial.trial_id / CHECKPOINT_FILE)
    return FinishAnswer(
        study_id=study.study_id,
        status="finished",
        chosen=_validated(history, chosen) if chosen else None,
        default=_validated(history, default) if default else None,
        words=words,
        replay=NOTICE if replay else None,
        checkpoint=weights,
        trainings=len(history.trials),
        seconds=rounded(sum(trial.seconds + trial.eval_seconds for trial in history.trials)),
        next=f"write_heuristic(study_id={study.study_id!r}, kind='heuristic', …) keeps what was learned.",
    )


def _validated(history: StudyHistory, standing: Standing) -> Finished:
    metrics = [trial.validation for trial in standing.trials]
    means = {name: sum(values[name] for values in metrics) / len(metrics) for name in metrics[0]}
    return Finished(
        trial_ids=standing.trial_ids,
        config=standing.config,
        changes=standings.changes_from(standing.config, history.study.space.default()),
        validation=rounded_all(means),
        test={},
    )
