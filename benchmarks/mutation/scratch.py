"""A copy of the checkout in which one mistake at a time is planted, and a runner that tries tests on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutation.choice import Choice
from benchmarks.mutation.operators import Mutant

OPTIONS = (
    "-x",
    "-q",
    "-rfE",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-m",
    "not (docker or ray or node or gpu or data)",
)
LARGE_PACKAGES = ("pytest", "numpy", "torch", "duckdb", "pydantic", "safetensors", "yaml", "psutil")
"""What takes long to import. None has a plugin of pytest, which refuses to find such a package loaded."""
LONGEST_TEST = 60
"""Seconds after which a single test counts as failed: a mistake that makes code wait forever is noticed."""
LONGEST_RUN = 300
"""Seconds after which a run of several tests is given up."""
PASSED = (0, 5)
"""The exit codes of pytest where no test failed; 5 means that none was left to run."""
FAILED = (1, 2, 4)
"""Its exit codes where a test failed, and where the tests or conftest.py could not be imported."""


@dataclass(frozen=True)
class Verdict:
    """Whether a mistake was noticed, and by which test; `by` is empty if by none, "time" if the time was up."""

    noticed: bool
    by: str
    seconds: float


class Scratch:
    """The copy at `folder`. Close it to end its runner."""

    def __init__(self, root: Path, folder: Path, load: Sequence[str] = LARGE_PACKAGES) -> None:
        self.folder = folder
        self._failing: dict[str, bool] = {}
        """Whether a test fails on the unchanged code, too."""
        self._touched = int(time.time()) - 10_000_000
        copy_checkout(root, folder)
        variables = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "benchmarks.mutation.runner", *load]
        self._runner = subprocess.Popen(
            command, cwd=folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """Ends the runner, which ends after its run."""
        self._runner.terminate()
        self._runner.communicate()

    def try_on(self, mutant: Mutant, choice: Choice, seconds: float) -> Verdict:
        """Runs the chosen tests with the mistake until one notices it. Nothing is started after `seconds`."""
        began = time.monotonic()
        ignored: list[str] = []
        for tests in (choice.direct, choice.indirect):
            while tests:
                if time.monotonic() - began > seconds:
                    return Verdict(False, "time", time.monotonic() - began)
                with self._planted(mutant):
                    words = [f"--timeout={LONGEST_TEST}", *(f"--deselect={test}" for test in ignored), *tests]
                    code, output = self._run(words, LONGEST_RUN)
                if code is None:
                    return Verdict(False, "time", time.monotonic() - began)
                if code in PASSED:
                    break
                if code not in FAILED:
                    raise RuntimeError(f"pytest ended with {code}: {output[-1000:]}")
                name = failed_test(output)
                if not self._fails_unchanged(name or tests[0]):
                    return Verdict(True, name or "conftest.py", time.monotonic() - began)
                ignored.append(name or tests[0])
        return Verdict(False, "", time.monotonic() - began)

    def _fails_unchanged(self, name: str) -> bool:
        if name not in self._failing:
            code, _ = self._run([name], LONGEST_RUN)
            self._failing[name] = code not in PASSED
        return self._failing[name]

    def _run(self, words: Sequence[str], seconds: float) -> tuple[int | None, str]:
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        self._runner.stdin.write(json.dumps({"words": [*OPTIONS, *words], "seconds": seconds}) + "\n")
        self._runner.stdin.flush()
        line = self._runner.stdout.readline()
        if not line:
            raise RuntimeError(f"the runner of {self.folder} has ended; free some memory and repeat")
        answer = json.loads(line)
        return answer["code"], answer["output"]

    @contextmanager
    def _planted(self, mutant: Mutant) -> Iterator[None]:
        path = self.folder / mutant.path
        source = path.read_text(encoding="utf-8")
        self._write(path, mutant.planted(source))
        try:
            yield
        finally:
            self._write(path, source)

    def _write(self, path: Path, source: str) -> None:
        """Writes a file with a time of its own: compiled code is reused by time and size, and both could be equal."""
        path.write_text(source, encoding="utf-8")
        self._touched += 10
        os.utime(path, (self._touched, self._touched))


def failed_test(output: str) -> str | None:
    """The first test that pytest's summary names as failed, or the file that it could not collect."""
    found = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output, re.MULTILINE)
    return found.group(1) if found else None


def copy_checkout(root: Path, folder: Path) -> None:
    """Copies what git tracks, or would track, in the checkout at `root`."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
