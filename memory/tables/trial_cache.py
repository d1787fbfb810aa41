"""A cache of the trials of the studies that were read last. Only this process writes trials."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from memory.records import Trial, TrialStatus
from memory.tables import trials
from memory.tables.connection import Cursor

STUDIES = 32
"""The trials of at most this many studies are kept: those that were read last."""


class TrialCache:
    """Reads a study once. Afterwards each write updates the cache inside its transaction.

    The caller holds the connection, so calls come one at a time.
    """

    def __init__(self) -> None:
        self._studies: OrderedDict[str, dict[str, Trial]] = OrderedDict()
        self._study_of: dict[str, str] = {}
        """The study id of each cached trial."""

    def known_study(self, study_id: str) -> list[Trial] | None:
        """All trials of a study as they are now, oldest first; None if they must be read first."""
        if study_id not in self._studies:
            return None
        self._studies.move_to_end(study_id)
        return list(self._studies[study_id].values())

    def read_studies(self, cursor: Cursor, study_ids: Sequence[str]) -> dict[str, list[Trial]]:
        """All trials of each study, oldest first; an unknown study has none.

        Those that are not cached are read at once, and kept where there is room; a single one always is.
        """
        found = {study_id: self.known_study(study_id) for study_id in study_ids}
        missing = [study_id for study_id, known in found.items() if known is None]
        read: dict[str, dict[str, Trial]] = {study_id: {} for study_id in missing}
        for trial in trials.of_studies(cursor, missing) if missing else ():
            read[trial.study_id][trial.trial_id] = trial
        for study_id in missing[: max(1, STUDIES - len(self._studies))]:
            self._studies[study_id] = read[study_id]
            self._study_of |= dict.fromkeys(read[study_id], study_id)
            if len(self._studies) > STUDIES:
                self._drop(next(iter(self._studies)))
        return {study_id: list(read.get(study_id, {}).values()) if known is None else known
                for study_id, known in found.items()}  # fmt: skip

    def known_trial(self, trial_id: str) -> Trial | None:
        """The trial as it is now; None if it must be read first."""
        study_id = self._study_of.get(trial_id)
        return None if study_id is None else self._studies[study_id][trial_id]

    def stored(self, trial: Trial) -> Trial:
        """Caches a new or finished trial, and returns it."""
        if trial.study_id in self._studies:
            self._studies[trial.study_id][trial.trial_id] = trial
            self._study_of[trial.trial_id] = trial.study_id
        return trial

    def attempted(self, trial_id: str, status: TrialStatus) -> None:
        """Sets the status after an attempt began or ended, unless the trial already has its result."""
        self._change(trial_id, {"status": status}, finished=False)

    def judged(self, trial_id: str, verdict: str) -> None:
        """Sets the new verdict of a trial."""
        self._change(trial_id, {"verdict": verdict}, finished=True)

    def _change(self, trial_id: str, values: dict[str, str], finished: bool) -> None:
        if trial_id in self._study_of:
            study = self._studies[self._study_of[trial_id]]
            if finished or not study[trial_id].finished:
                study[trial_id] = study[trial_id].model_copy(update=values)

    def clear(self) -> None:
        """Drops everything, because a write failed and the cache may be wrong."""
        self._studies.clear()
        self._study_of.clear()

    def _drop(self, study_id: str) -> None:
        for trial_id in self._studies.pop(study_id, {}):
            del self._study_of[trial_id]
