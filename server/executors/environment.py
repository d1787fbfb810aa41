"""The environment of a child: the owner's without its secrets, plus the thread count and the marks to find it by."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import trainers
from server.executors.base import Slot

HOME_MARK = "VIRTUALMLE_OWNER_HOME"
"""Every process that works for a home carries the home's path in this variable."""
OWNER_MARK = "VIRTUALMLE_OWNER"
"""Every such process, and a user's own trainer too, carries a hash of the home's path in this variable."""
RUN_MARK = "VIRTUALMLE_RUN"
"""Every process of one call of `run` carries that run's own value in this variable, whatever session it moves to."""

_SECRET = re.compile(r"PASSWORD|PASSWD|CREDENTIAL|(^|_)(TOKEN|KEY|SECRET|AUTH)S?(_|$)", re.IGNORECASE)
_UNMAPPED = str(8 << 30)
"""malloc's thresholds in bytes. Below them it keeps large tensors on its heap and need not map them anew each time."""


def child_environment(owner: Mapping[str, str], slot: Slot, home: Path, run_id: str) -> dict[str, str]:
    """The environment in which a child that works for `home` in `slot` is started."""
    kept = {name: value for name, value in owner.items() if not _SECRET.search(name)}
    kept |= child_variables(slot, owner) | {
        "PYTHONPATH": python_path(owner.get("PYTHONPATH", "")),
        HOME_MARK: str(home),
        OWNER_MARK: owner_mark(home),
        RUN_MARK: run_id,
    }
    if slot.gpu_ids:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, slot.gpu_ids))
        kept["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's numbering; CUDA's default order differs
    return kept


def owner_mark(home: Path) -> str:
    """The value of OWNER_MARK for the processes of `home`; it does not tell where the home is."""
    return hashlib.sha256(str(home).encode()).hexdigest()[:16]


def child_variables(slot: Slot, owner: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that every child has in its environment, wherever it runs."""
    threads = str(slot.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # How long an idle thread spins before it sleeps. On two free cores an epoch takes 0.8 s with libgomp's default
        # of 300,000, 1.0 s with this value and 1.6 s without any; on busy cores it takes 25, 2 and 2 times as long.
        "GOMP_SPINCOUNT": (owner or {}).get("GOMP_SPINCOUNT", "5000"),
        "MALLOC_MMAP_THRESHOLD_": _UNMAPPED,
        "MALLOC_TRIM_THRESHOLD_": _UNMAPPED,
        "PYTHONUNBUFFERED": "1",
    }


def python_path(inherited: str) -> str:
    """PYTHONPATH for a child: our packages come first, so that no folder of the same name wins.

    Relative entries are dropped, since in the child they would refer to its run directory.
    """
    root = Path(trainers.__file__).resolve().parent.parent
    installed = root.name in ("site-packages", "dist-packages")
    our_root = [] if installed else [str(root)]
    return os.pathsep.join([*our_root, *(entry for entry in inherited.split(os.pathsep) if Path(entry).is_absolute())])
