"""The environment of a child: the owner's, without its secrets, with the thread count and the marks to find it by."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import trainers
from server.executors.base import Slot

HOME_MARK = "VIRTUALMLE_OWNER_HOME"
"""Every process that works for a home carries its path under this name."""
RUN_MARK = "VIRTUALMLE_RUN"
"""Every process of one call of `run` carries that run's own value, whatever session it moved to."""

_SECRET = re.compile(r"PASSWORD|PASSWD|CREDENTIAL|(^|_)(TOKEN|KEY|SECRET|AUTH)S?(_|$)", re.IGNORECASE)
_UNMAPPED = str(8 << 30)
"""Bytes. Below it malloc keeps large tensors on its heap, which spares the page faults of mapping them anew."""


def child_environment(owner: Mapping[str, str], slot: Slot, home: Path, run_id: str) -> dict[str, str]:
    """What a child that works for `home` in `slot` is started with."""
    kept = {name: value for name, value in owner.items() if not _SECRET.search(name)}
    kept |= child_variables(slot, owner) | {
        "PYTHONPATH": python_path(owner.get("PYTHONPATH", "")),
        HOME_MARK: str(home),
        RUN_MARK: run_id,
    }
    if slot.gpu_ids:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, slot.gpu_ids))
        kept["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as the driver numbers them; CUDA's own order is another
    return kept


def child_variables(slot: Slot, owner: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every child has in its environment, wherever it runs."""
    threads = str(slot.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # How long a thread waits awake. On two free cores an epoch takes 0.8 s with libgomp's default of 300,000, 1.0 s
        # with this and 1.6 s with none; where others keep the cores busy it takes 25, 2 and 2 times as long.
        "GOMP_SPINCOUNT": (owner or {}).get("GOMP_SPINCOUNT", "5000"),
        "MALLOC_MMAP_THRESHOLD_": _UNMAPPED,
        "MALLOC_TRIM_THRESHOLD_": _UNMAPPED,
        "PYTHONUNBUFFERED": "1",
    }


def python_path(inherited: str) -> str:
    """For a child: our packages first, so that no folder of the same name wins.

    Relative entries are left out: they would mean the run directory.
    """
    root = Path(trainers.__file__).resolve().parent.parent
    installed = root.name in ("site-packages", "dist-packages")
    own = [] if installed else [str(root)]
    return os.pathsep.join([*own, *(entry for entry in inherited.split(os.pathsep) if Path(entry).is_absolute())])
