"""A child for tests: it behaves as `config["behaviour"]` of its spec.json says. Loads nothing heavy, warm or cold."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

VALIDATION = {"ndcg@10": 0.05, "recall@10": 0.1}


asked: tuple[object, ...] = ()
"""What the child was told to do: task, directory, datasets and the seconds until its deadline."""


def main() -> int:
    if sys.argv[1] == "worker":
        from trainers.child import worker

        return worker.serve(Path(sys.argv[3]), lambda: perform, forks="--one-at-a-time" not in sys.argv)
    task, directory, _, datasets, *deadline = sys.argv[1:]
    seconds = float(deadline[1]) if deadline else inf
    return perform(task, Path(directory), Path(datasets), lambda: False, time.monotonic() + seconds)


def perform(task: str, directory: Path, datasets: Path, cancelled: Callable[[], bool], deadline: float) -> int:
    global asked
    asked = (task, str(directory), str(datasets), deadline - time.monotonic())
    if task == "evaluate":
        evaluation = json.loads((directory / "evaluate.json").read_text())
        trials = {one["trial_id"]: {"ndcg@10": 0.04} for one in evaluation["checkpoints"]}
        write(directory / "revealed.json", {"status": "ok", "trials": trials})
        return 0
    spec = json.loads((directory / "spec.json").read_text())
    return BEHAVIOURS[spec["config"]["behaviour"]](directory, spec)


def write(path: Path, record: object) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(record))
    temporary.replace(path)


def result(directory: Path, spec: dict, status: str = "ok") -> None:
    found = {"trial_id": spec["trial_id"], "status": status, "validation": VALIDATION, "best_epoch": 1, "epochs": 1}
    write(directory / "result.json", found)


def epoch(directory: Path) -> None:
    line = {"epoch": 1, "loss": 1.0, "validation": VALIDATION, "seconds": 1.0, "eval_seconds": 0.5}
    with (directory / "epochs.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def sleep_for_ever(directory: Path) -> int:
    """Says that it is at work, then does nothing until it is ended."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)  # a signal that arrives just before the read still ends it
    (directory / "ready").write_text(str(os.getpid()))
    while True:
        os.read(woken, 1)


def well(directory: Path, spec: dict) -> int:
    epoch(directory)
    result(directory, spec)
    return 0


def crash(directory: Path, spec: dict) -> int:
    raise RuntimeError("the matrix is singular")


def disk_full(directory: Path, spec: dict) -> int:
    epoch(directory)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def quota_used_up(directory: Path, spec: dict) -> int:
    epoch(directory)
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def fills_the_disk(directory: Path, spec: dict) -> int:
    with (directory / "checkpoint.tmp").open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()


def exit_3(directory: Path, spec: dict) -> int:
    return 3


def hang(directory: Path, spec: dict) -> int:
    """Ends when it is asked to, with a result."""

    def obey(*_: object) -> None:
        result(directory, spec, "cancelled")
        sys.exit(0)

    signal.signal(signal.SIGTERM, obey)
    epoch(directory)
    return sleep_for_ever(directory)


def stubborn(directory: Path, spec: dict) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    epoch(directory)
    return sleep_for_ever(directory)


def goes_on(directory: Path, spec: dict) -> int:
    """Comes to its end only where an earlier attempt has left a trace."""
    return well(directory, spec) if (directory / "ready").exists() else stubborn(directory, spec)


def parent(directory: Path, spec: dict) -> int:
    """Leaves a process in a session of its own, whose parent has ended."""
    code = (
        "import os, pathlib, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); child = os.fork()\n"
        "if child: pathlib.Path(sys.argv[1]).write_text(str(child)); os._exit(0)\n"
        "signal.pause()"
    )
    subprocess.run([sys.executable, "-c", code, str(directory / "grandchild")], start_new_session=True, check=True)
    return stubborn(directory, spec)


def parent_that_ends(directory: Path, spec: dict) -> int:
    code = "import signal; signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (directory / "grandchild").write_text(str(process.pid))
    result(directory, spec)
    os._exit(0)


def forker(directory: Path, spec: dict) -> int:
    """Leaves a process that it only forked, in a session of its own, whose parent has ended."""
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (directory / "grandchild").write_text(str(os.getpid()))
        while True:
            signal.pause()
    return hang(directory, spec)


def hungry(directory: Path, spec: dict) -> int:
    kept = bytearray(400 << 20)
    for page in range(0, len(kept), 4096):
        kept[page] = 1
    return sleep_for_ever(directory)


def failed(directory: Path, spec: dict) -> int:
    look_around(directory, spec)
    result(directory, spec, "crashed")
    return 0


def garbage(directory: Path, spec: dict) -> int:
    (directory / "result.json").write_bytes(b"\x00\xff no JSON")
    return 0


def half(directory: Path, spec: dict) -> int:
    (directory / "result.json").write_text('{"trial_id": "t-1", "status": "o')
    return 0


def look_around(directory: Path, spec: dict) -> int:
    """Writes down what it was given."""
    found = {
        "asked": asked,
        "environment": dict(os.environ),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "cwd": str(Path.cwd()),
        "descriptors": {name: str(Path(f"/proc/self/fd/{name}").readlink()) for name in ("0", "1", "2")},
        "open": sorted(int(name) for name in os.listdir("/proc/self/fd")),  # noqa: PTH208
        "leads_session": os.getsid(0) == os.getpid(),
    }
    print("said to nobody")  # noqa: T201
    write(directory / "seen.json", found)
    result(directory, spec)
    return 0


BEHAVIOURS = {
    "well": well,
    "crash": crash,
    "exit 3": exit_3,
    "disk full": disk_full,
    "quota used up": quota_used_up,
    "fills the disk": fills_the_disk,
    "hang": hang,
    "stubborn": stubborn,
    "goes on": goes_on,
    "parent": parent,
    "parent that ends": parent_that_ends,
    "forker": forker,
    "hungry": hungry,
    "failed": failed,
    "garbage": garbage,
    "half": half,
    "look around": look_around,
}

if __name__ == "__main__":
    sys.exit(main())
