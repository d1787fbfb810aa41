"""`python -m trainers`: run, evaluate, export or recommend in DIR, serve such tasks as a worker, or compile kernels."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from math import inf
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Returns exit code 0 if a result was written, whatever its status; else 1, with one line on stderr."""
    started = time.monotonic()
    cancel = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: cancel.set())  # before torch, which takes seconds to load
    options = _parser().parse_args(arguments)
    if options.command == "worker":
        from trainers.child import worker

        return worker.serve(options.datasets, forks=not options.one_at_a_time)
    if options.command == "kernels":
        from trainers.models import native

        return native.build_all(options.into)
    from trainers.child.tasks import perform

    seconds = options.deadline_seconds if options.command == "run" else None
    deadline = inf if seconds is None else started + seconds
    return perform(options.command, options.directory, options.datasets, cancel.is_set, deadline)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m trainers", description="Train or evaluate in a prepared directory.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train the run directory DIR, from spec.json to result.json")
    run.add_argument("--deadline-seconds", type=float, metavar="S", help="end at the next epoch boundary after S")
    evaluate = commands.add_parser("evaluate", help="read the sealed test, from evaluate.json to revealed.json")
    export = commands.add_parser("export", help="leave a trained model as files, from export.json to exported.json")
    recommend = commands.add_parser("recommend", help="from recommend.json to recommended.json")
    worker = commands.add_parser("worker", help="stay loaded, and do what each line of stdin asks for")
    worker.add_argument("--one-at-a-time", action="store_true", help="work in this process, which keeps its GPU open")
    kernels = commands.add_parser("kernels", help="compile the kernels for every processor they are written for")
    kernels.add_argument("--into", type=Path, metavar="DIR", help="default: beside their source, as an image has them")
    for command in (run, evaluate, export, recommend):
        command.add_argument("directory", type=Path, metavar="DIR")
    for command in (run, evaluate, export, recommend, worker):
        command.add_argument("--datasets", type=Path, required=True, help="the folder of stored datasets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
