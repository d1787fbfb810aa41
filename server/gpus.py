"""The GPUs of this machine as the driver's own tool lists them: the owner never loads torch to find out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

ANSWER_SECONDS = 20


class Gpu(NamedTuple):
    """`free_mb`: MiB that nobody holds now; None where the driver does not tell."""

    uuid: str
    free_mb: float | None


class GpuError(RuntimeError):
    """The driver's tool is there and does not answer; the message has its words."""


def found_gpus() -> dict[int, Gpu]:
    """By index, in the order of the bus; empty where there is no driver. Raises GpuError."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    asked = [program, "--query-gpu=index,uuid,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise GpuError(f"nvidia-smi does not answer ({type(error).__name__})") from None
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[-200:]
        raise GpuError(f"nvidia-smi fails ({said or f'exit code {done.returncode}'})")
    return dict(_gpu(line) for line in done.stdout.splitlines() if line.strip())


def allowed(found: Mapping[int, Gpu], environment: Mapping[str, str] = os.environ) -> list[int]:
    """Those that CUDA_VISIBLE_DEVICES of the owner leaves, in its order; all where it is not set."""
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return list(found)
    named = [name.strip() for name in text.split(",") if name.strip()]
    return [index for name in named for index, gpu in found.items() if name == str(index) or gpu.uuid.startswith(name)]


def _gpu(line: str) -> tuple[int, Gpu]:
    try:
        index, uuid, total, used = (field.strip() for field in line.split(","))
        number = int(index)
    except ValueError:
        raise GpuError(f"nvidia-smi lists what is no GPU ({line.strip()[:100]!r})") from None
    try:
        free = float(total) - float(used)
    except ValueError:  # [N/A]: a chip that shares the machine's memory
        free = None
    return number, Gpu(uuid, free)
