"""The device that a trial computes on, a GPU if there is one or else the CPU, and the memory used there."""

from __future__ import annotations

import platform
import resource
import sys
from functools import cache

import torch


def pick() -> torch.device:
    """The first GPU that is visible to this process, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether matrix products on `device` are much faster in bf16 than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # there is no public name for it
    return bool(supported and supported())


def describe(device: torch.device) -> str:
    """The name of the device, for the record of a trial."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far in MiB: that of tensors on a GPU, or of the whole resident process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out, on the device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text.lower())
