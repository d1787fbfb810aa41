"""The GPUs of this machine as the driver's own tool lists them: the owner never loads torch to find out."""

from __future__ import annotations

import shutil
import subprocess

ANSWER_SECONDS = 20


def found_gpus() -> dict[int, float]:
    """By index the memory of each in MiB; empty where there is none, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    asked = [program, "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True).stdout
        return {int(index): float(memory) for index, memory in (line.split(",") for line in said.splitlines() if line)}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
