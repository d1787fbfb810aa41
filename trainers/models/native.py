"""The kernels of kernels.cpp: compiled once for this kind of processor; without them, plain torch computes."""

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
"""Compiler options by processor capability, as torch names it."""
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")


class Dropout(Structure):
    """A dropout mask as a kernel takes it; see fused.Mask."""

    _fields_ = (("key", c_uint32), ("limit", c_uint32), ("scale", c_float), ("first", c_uint32))


class Heads(Structure):
    """Columns of the heads' queries, keys and values in a row of packed projections; see attention.Heads."""

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
"""Argument types of each kernel: pointer, number, float, dropout, heads. The thread count, always last, is left out."""


class NoKernels(RuntimeError):
    """There are no compiled kernels here; the message says why."""


def serves(*tensors: Tensor) -> bool:
    """Whether there are kernels that take `tensors`: on the CPU, in fp32, and while torch records no program."""
    fitting = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return fitting and not torch.compiler.is_compiling() and kernels() is not None


def call(name: str, *arguments: Tensor | float | Structure | None) -> None:
    """Runs the kernel `name` with torch's number of threads; tensors must be contiguous unless a stride is passed."""
    library = kernels()
    assert library is not None
    values = [_as_argument(argument) for argument in arguments]
    getattr(library, name)(*values, torch.get_num_threads())


def _as_argument(argument: Tensor | float | Structure | None) -> object:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return byref(argument) if isinstance(argument, Heads) else argument


@cache
def kernels() -> ctypes.CDLL | None:
    """The loaded kernels, or None if there are none; the reason is logged once."""
    try:
        return _load(_find_or_build())
    except NoKernels as reason:
        log.info("no compiled kernels, so plain torch computes: %s", reason)
        return None


def describe() -> str:
    """The kernels that compute on the CPU here, for the record of a trial: repeating it bit for bit needs the same."""
    return "plain" if kernels() is None else f"compiled-{_name_of(_level())}"


def build(folder: Path, level: str | None = None) -> Path:
    """Compiles the kernels for `level`, by default that of this processor, into `folder`. Raises NoKernels."""
    level = level or _level()
    compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise NoKernels("no C++ compiler is installed (g++ or clang++)")
    target = folder / f"kernels-{_name_of(level)}.so"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        library, objects = Path(scratch) / target.name, Path(scratch) / "kernels.o"
        # no OpenMP is linked: torch's own must run the loops, or two pools of threads would compete for the cores
        for command in (
            [compiler, *FLAGS, *LEVELS[level], "-c", str(SOURCE), "-o", str(objects)],
            [compiler, "-shared", str(objects), "-o", str(library)],
        ):
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode:
                reason = (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[0]
                raise NoKernels(f"{Path(compiler).name} failed: {reason}")
        library.replace(target)
    return target


def build_all(folder: Path | None = None) -> int:
    """Compiles the kernels for every level into `folder`, by default that of their source; returns an exit code."""
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
def _name_of(level: str) -> str:
    source = hashlib.sha256(SOURCE.read_bytes() + " ".join((*FLAGS, *LEVELS[level])).encode()).hexdigest()[:12]
    return f"{level.lower()}-{source}"


def _find_or_build() -> Path:
    """The compiled file: beside the source (in an image), or in the user's cache, where it is built if absent."""
    name = f"kernels-{_name_of(_level())}.so"
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
        ctypes.CDLL(_openmp_path(), ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(path), os.RTLD_NOW)
    except OSError as error:
        raise NoKernels(f"{path.name} cannot be loaded: {error}") from None
    for name, letters in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = [_KINDS[letter] for letter in letters] + [c_int]
        function.restype = None
    return library


def _openmp_path() -> str:
    """The path of the OpenMP runtime that torch has loaded, whose threads the kernels share."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(("libgomp", "libiomp", "libomp")):
            return path
    return "libgomp.so.1"
