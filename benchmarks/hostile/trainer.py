"""A trainer of one's own that leaves hostile files in its run directory, and ends in any way there is.

python trainer.py DIRECTORY; `python -m benchmarks.soak` registers it with SPACE.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

LEFT = (
    "spec.json", "result.json", "epochs.jsonl", "validation_ranks.safetensors", "checkpoint.safetensors", "trial.log",
    "attempt.json", "training.safetensors", "unrecovered.txt",
)  # fmt: skip
SPACE = """\
command: [{python}, {trainer}]
fields:
  rate: {{default: 0.1, low: 0.01, high: 0.9}}
"""


def main(directory: Path) -> int:
    """Leaves one to four hostile files and ends at random: with a code, or by a signal."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks.hostile.files import leave

    draw = random.Random(os.urandom(8))
    (directory / "result.json").write_text('{"status": "ok", "best_epoch": 1, "parameters": 10}')
    (directory / "epochs.jsonl").write_text(
        '{"epoch": 1, "loss": 1.0, "validation": {"ndcg@10": 0.1}, "seconds": 1.0, "eval_seconds": 0.1}\n'
    )
    for name in draw.sample(LEFT, draw.randint(1, 4)):
        leave(directory / name, draw)
    if draw.random() < 0.2:
        os.kill(os.getpid(), draw.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
    return draw.choice([0, 0, 0, 1, 255])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
