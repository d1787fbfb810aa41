"""Lists the GPUs of this machine with nvidia-smi, so that the owner need not load torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

ANSWER_SECONDS = 20


class Gpu(NamedTuple):
    """`free_mb` is the unused memory in MiB; None if the driver does not report it."""

    uuid: str
    free_mb: float | None


class GpuError(RuntimeError):
    """nvidia-smi is installed but does not answer; the message quotes its output."""


def list_gpus() -> dict[int, Gpu]:
    """The GPUs by index, in the order of the bus; empty if there is no driver. Raises GpuError."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, "--query-gpu=index,uuid,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise GpuError(f"nvidia-smi does not answer ({type(error).__name__})") from None
    if process.returncode != 0:
        output = " ".join((process.stdout + process.stderr).split())[-200:]
        raise GpuError(f"nvidia-smi fails ({output or f'exit code {process.returncode}'})")
    return dict(_parse_gpu(line) for line in process.stdout.splitlines() if line.strip())


def visible_gpus(gpus: Mapping[int, Gpu], environment: Mapping[str, str] = os.environ) -> list[int]:
    """The indices that CUDA_VISIBLE_DEVICES of the owner names, in its order; all if it is not set."""
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return list(gpus)
    named = [name.strip() for name in text.split(",") if name.strip()]
    return [index for name in named for index, gpu in gpus.items() if name == str(index) or gpu.uuid.startswith(name)]


def _parse_gpu(line: str) -> tuple[int, Gpu]:
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
