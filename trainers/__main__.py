"""python -m trainers run DIR | evaluate DIR: the commands of a child process; what they find out is written to DIR."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from math import inf
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when a result was written, whatever its status; 1, with one line, when even that failed."""
    started = time.monotonic()
    cancel = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: cancel.set())  # before torch is there: it takes seconds to load
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    from trainers import reveal, trial

    try:
        if options.command == "run":
            seconds = options.deadline_seconds
            deadline = inf if seconds is None else started + seconds
            trial.run(options.directory, options.datasets, cancel.is_set, deadline)
        else:
            trial.write(options.directory / "revealed.json", reveal.reveal(options.directory, options.datasets))
    except Exception as error:
        logging.getLogger("trainers").debug("failed", exc_info=error)
        sys.stderr.write(f"trainers: {trial.line_of(error)}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m trainers", description="Train or evaluate in a prepared directory.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train the run directory DIR, from spec.json to result.json")
    run.add_argument("--deadline-seconds", type=float, metavar="S", help="end at the next epoch boundary after S")
    evaluate = commands.add_parser("evaluate", help="read the sealed test, from evaluate.json to revealed.json")
    for command in (run, evaluate):
        command.add_argument("directory", type=Path, metavar="DIR")
        command.add_argument("--datasets", type=Path, required=True, help="the folder of stored datasets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
