"""What a child is asked to do in a directory, whether it was started for it or forked; every failure is one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

from trainers import reveal, takehome, trial
from trainers.spec import RESULT_FILES, Task


def perform(
    task: Task, directory: Path, datasets: Path, cancelled: Callable[[], bool] = lambda: False, deadline: float = inf
) -> int:
    """Exit code 0 when a result was written, whatever its status; 1, with one line, when even that failed."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    try:
        if task == "run":
            trial.run(directory, datasets, cancelled, deadline)
        elif task == "evaluate":
            trial.write(directory / RESULT_FILES[task], reveal.reveal(directory, datasets))
        elif task == "export":
            trial.write(directory / RESULT_FILES[task], takehome.export(directory, datasets, cancelled))
        else:
            trial.write(directory / RESULT_FILES[task], takehome.recommend(directory, datasets))
    except Exception as error:
        logging.getLogger("trainers").debug("failed", exc_info=error)
        sys.stderr.write(f"trainers: {trial.line_of(error)}\n")
        return 1
    return 0
