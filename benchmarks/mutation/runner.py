"""Runs tests over and over: a process that has large packages loaded forks a child for each run.

python -m benchmarks.mutation.runner [PACKAGE …]

A child imports the code under test anew, so PACKAGE is none of our own.

Reads one line of JSON for each run, {"words": [arguments of pytest], "seconds": limit}, and answers with one line:
{"code": exit code, or null where the time was up, "output": the end of what pytest printed}.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO

LAST_CHARACTERS = 4000


def run(words: list[str], seconds: float, output: IO[bytes]) -> int | None:
    """Runs pytest in a child with a session of its own; ends whatever the child left behind."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        import pytest

        code = 70
        try:
            code = int(pytest.main(words))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    ended, status = 0, 0
    try:
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0 if ended else 0.02)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    if not ended:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Answers until its input ends, or until it is terminated; then it ends the run under way."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as output:
            code = run(request["words"], request["seconds"], output)
            output.seek(0)
            text = output.read().decode(errors="replace")[-LAST_CHARACTERS:]
        print(json.dumps({"code": code, "output": text}), flush=True)


if __name__ == "__main__":
    main()
