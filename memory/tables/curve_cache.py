"""A cache of the validation curves of the studies that were read last. New trainings are compared with them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite

from memory.tables import attempts
from memory.tables.connection import Cursor
from trainers.contract.wire import Epoch

STUDIES = 8
"""The curves of at most this many studies are kept: those that were read last."""
Points = tuple[tuple[int, float], ...]


class CurveCache:
    """Reads the curves of a study once; afterwards each write adds to them, inside its transaction.

    The caller holds the connection, so calls come one at a time.
    """

    def __init__(self) -> None:
        self._studies: OrderedDict[tuple[str, str], dict[str, Points]] = OrderedDict()
        """The (epoch, value) points, by study and metric, then by trial id."""

    def of_study(self, cursor: Cursor, study_id: str, metric: str) -> dict[str, Points]:
        """The (epoch, value) points of a metric in each trial's last attempt, in order, by trial id."""
        key = study_id, metric
        if key not in self._studies:
            curves = attempts.curves(cursor, study_id, metric)
            self._studies[key] = {trial_id: tuple(points) for trial_id, points in curves.items()}
            while len(self._studies) > STUDIES:
                self._studies.popitem(last=False)
        self._studies.move_to_end(key)
        return dict(self._studies[key])

    def added(self, study_id: str, trial_id: str, epochs: Sequence[Epoch]) -> None:
        """Adds epochs of a trial. Epochs that are already there stay as they are."""
        for (cached_id, metric), curves in self._studies.items():
            if cached_id == study_id:
                points = dict(curves.get(trial_id, ()))
                for epoch in epochs:
                    value = epoch.validation.get(metric)
                    if value is not None and isfinite(value):  # other values are not stored either
                        points.setdefault(epoch.epoch, value)
                curves[trial_id] = tuple(sorted(points.items()))

    def restarted(self, study_id: str, trial_id: str) -> None:
        """Drops the curve of a trial, because it has a new attempt."""
        for (cached_id, _), curves in self._studies.items():
            if cached_id == study_id:
                curves.pop(trial_id, None)

    def clear(self) -> None:
        """Drops everything, because a write failed and the cache may be wrong."""
        self._studies.clear()
