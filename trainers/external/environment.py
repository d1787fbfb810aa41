"""The environment of a user's own trainer: a fixed list, with no token, key or path of the home. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import trainers

_NAMES = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP",
        "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "XDG_CACHE_HOME",
        "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "GOMP_SPINCOUNT", "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH",
        "NVIDIA_VISIBLE_DEVICES", "VIRTUALMLE_OWNER", "VIRTUALMLE_RUN",
    }
)  # fmt: skip
"""The last two are random or a hash: by them the owner finds and ends what a trainer has left running."""


def trainer_environment(owner: Mapping[str, str]) -> dict[str, str]:
    """The variables of `owner` that a trainer gets; our own packages are not on its PYTHONPATH."""
    kept = {name: value for name, value in owner.items() if name in _NAMES or name.startswith("LC_")}
    ours = Path(trainers.__file__).resolve().parent.parent
    entries = [entry for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != ours]
    return kept | ({"PYTHONPATH": os.pathsep.join(entries)} if entries else {})
