"""Performs the task of a child in a directory, whether it was started or forked; any failure is one line on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

from trainers.child import export, reveal, trial
from trainers.contract.wire import RESULT_FILES, ChildTask


def perform(
    task: ChildTask,
    directory: Path,
    datasets: Path,
    cancelled: Callable[[], bool] = lambda: False,
    deadline: float = inf,
) -> int:
    """Returns exit code 0 if a result was written, whatever its status; else 1, with one line on stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    try:
        if task == "run":
            trial.run(directory, datasets, cancelled, deadline)
        elif task == "evaluate":
            trial.write(directory / RESULT_FILES[task], reveal.reveal(directory, datasets))
        elif task == "export":
            trial.write(directory / RESULT_FILES[task], export.export(directory, datasets, cancelled))
        else:
            trial.write(directory / RESULT_FILES[task], export.recommend(directory, datasets))
    except Exception as error:
        logging.getLogger("trainers").debug("failed", exc_info=error)
        sys.stderr.write(f"trainers: {trial.line_of(error)}\n")
        return 1
    return 0
