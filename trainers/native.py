"""The kernels of kernels.cpp: compiled once for this kind of processor, or absent, and then plain torch computes."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger("trainers")

SOURCE = Path(__file__).with_name("kernels.cpp")
LEVELS = {"AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "AVX2": ("-march=x86-64-v3",)}
"""Compiler options by what torch calls the processor's capability."""
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")


class Dropout(Structure):
    """What a kernel drops: see fused.Mask."""

    _fields_ = (("key", c_uint32), ("limit", c_uint32), ("scale", c_float), ("first", c_uint32))


class Heads(Structure):
    """Where queries, keys and values of the heads stand in a row of packed projections, in columns."""

    _fields_ = tuple(
        (name, c_int64)
        for name in ("count", "row", "key_width", "value_width", "query", "key", "value", "key_step", "value_step")
    )


_KINDS = {"p": c_void_p, "n": c_int64, "f": c_float, "d": Dropout, "h": POINTER(Heads)}
_SIGNATURES = {
    "attend_softmax": "ppnhpfdnp",
    "attend_softmax_backward": "ppnhpfdnppp",
    "attend_pointwise": "ppnhpfdnp",
    "attend_pointwise_backward": "ppnhpfdnppp",
    "embed": "ppppnnfdp",
    "drop": "pndp",
    "scatter_add": "pppnnf",
    "add_dropped": "ppndp",
    "gelu_dropped": "pndp",
    "gelu_dropped_backward": "ppndp",
    "gate_dropped": "pnpnndp",
    "gate_dropped_backward": "pnppnndpp",
    "layer_norm": "pppnnfppp",
    "layer_norm_backward": "pppppnnpp",
    "exponentials_fp32": "pnnpp",
    "exponentials_bf16": "pnnpp",
    "shared_softmax": "ppppnnp",
    "sampled_softmax": "pppnnnppp",
    "scatter_shares": "ppppnnn",
    "count_reaching": "ppnnp",
    "keep_best": "pnnnnpp",
}
"""The arguments of each kernel but the last, which is the thread count: pointer, number, float, dropout, heads."""


class NoKernels(RuntimeError):
    """There are none here; the message says why."""


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels are there and take `tensors`: on the CPU, in fp32, and not of a program that is recorded."""
    fitting = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return fitting and not torch.compiler.is_compiling() and kernels() is not None


def call(name: str, *arguments: Tensor | float | Structure | None) -> None:
    """Runs the kernel `name` with torch's number of threads; tensors are contiguous, unless their stride is given."""
    library = kernels()
    assert library is not None
    values = [_raw(argument) for argument in arguments]
    getattr(library, name)(*values, torch.get_num_threads())


def _raw(argument: Tensor | float | Structure | None) -> object:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return byref(argument) if isinstance(argument, Heads) else argument


@cache
def kernels() -> ctypes.CDLL | None:
    """The loaded kernels, or None where they cannot be had; the log says why, once."""
    try:
        return _load(_built())
    except NoKernels as reason:
        log.info("no compiled kernels, so plain torch computes: %s", reason)
        return None


def describe() -> str:
    """What computes on the CPU here, for a trial's record: a bit-for-bit repetition needs the same."""
    return "plain" if kernels() is None else f"compiled-{_name(_level())}"


def build(folder: Path, level: str | None = None) -> Path:
    """Compiles the kernels for `level`, or for this processor, into `folder`, by rename. Raises NoKernels."""
    level = level or _level()
    compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise NoKernels("no C++ compiler is installed (g++ or clang++)")
    target = folder / f"kernels-{_name(level)}.so"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made, objects = Path(scratch) / target.name, Path(scratch) / "kernels.o"
        # torch's own OpenMP must run the loops, or two pools of threads fight for the cores: so none is linked
        for command in (
            [compiler, *FLAGS, *LEVELS[level], "-c", str(SOURCE), "-o", str(objects)],
            [compiler, "-shared", str(objects), "-o", str(made)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
                raise NoKernels(f"{Path(compiler).name} failed: {words}")
        made.replace(target)
    return target


def build_all(folder: Path | None = None) -> int:
    """Compiles the kernels for every level, into the folder of their source or another; an exit code."""
    try:
        for level in LEVELS:
            sys.stdout.write(f"{build(folder or SOURCE.parent, level)}\n")
    except (NoKernels, OSError) as error:
        sys.stderr.write(f"trainers: {error}\n")
        return 1
    return 0


def _level() -> str:
    level = torch.backends.cpu.get_cpu_capability()
    if level not in LEVELS or platform.system() != "Linux":
        raise NoKernels(f"they are written for AVX2 and AVX512 on Linux, not for {level} on {platform.system()}")
    return level


@cache
def _name(level: str) -> str:
    source = hashlib.sha256(SOURCE.read_bytes() + " ".join((*FLAGS, *LEVELS[level])).encode()).hexdigest()[:12]
    return f"{level.lower()}-{source}"


def _built() -> Path:
    """The compiled file: beside the source (in an image), or in the user's cache, where it is made if absent."""
    name = f"kernels-{_name(_level())}.so"
    if (SOURCE.parent / name).exists():
        return SOURCE.parent / name
    try:
        cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "virtualmle"
    except RuntimeError:
        raise NoKernels("there is no home folder to keep them in; set XDG_CACHE_HOME") from None
    if (cached / name).exists():
        return cached / name
    try:
        cached.mkdir(mode=0o700, parents=True, exist_ok=True)
        return build(cached)
    except OSError as error:
        raise NoKernels(f"{cached} cannot be written: {error.strerror or error}") from None


def _load(path: Path) -> ctypes.CDLL:
    try:
        ctypes.CDLL(_openmp(), ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(path), os.RTLD_NOW)
    except OSError as error:
        raise NoKernels(f"{path.name} cannot be loaded: {error}") from None
    for name, letters in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = [_KINDS[letter] for letter in letters] + [c_int]
        function.restype = None
    return library


def _openmp() -> str:
    """The OpenMP runtime that torch has loaded, whose threads the kernels share."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(("libgomp", "libiomp", "libomp")):
            return path
    return "libgomp.so.1"
