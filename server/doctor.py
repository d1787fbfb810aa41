"""What is found on this machine and in this home, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel

from memory.errors import MemoryFault
from server.ending import owner_status
from server.home import HomeError, find_owner, prepare_home
from server.settings import Settings
from server.version import installed_version

Grade = Literal["ok", "note", "problem"]
LEAST_FREE_GB = 5.0
_TORCH = """
import json, torch
gpus = [[torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory / 2**30]
        for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""
_TORCH_SECONDS = 120
EXTRAS = {
    "optuna": ("search", "the policies tpe and hybrid"),
    "matplotlib": ("plot", "plot_study"),
    "anthropic": ("llm", "drive --policy llm with Anthropic"),
    "openai": ("llm", "drive --policy llm with OpenAI and servers like it"),
}


class Finding(BaseModel):
    """One thing that was looked at. `note`: works, but could be better; `problem`: something will fail."""

    what: str
    grade: Grade
    found: str
    advice: str | None = None


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, in the order in which it matters; torch takes seconds."""
    yield Finding(what="virtualmle", grade="ok", found=f"{installed_version()}, Python {platform.python_version()}")
    yield _platform()
    yield from _home(settings)
    yield from _torch()
    yield _compiler()
    for module, (extra, use) in EXTRAS.items():
        yield _extra(module, extra, use)


def _platform() -> Finding:
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform == "win32":
        advice = (
            "homes and trainings need Linux or macOS: use WSL here, or `virtualmle connect CLIENT --ssh` or `--url`"
        )
        return Finding(what="system", grade="problem", found=found, advice=advice)
    return Finding(what="system", grade="ok", found=found)


def _home(settings: Settings) -> Iterator[Finding]:
    try:
        prepare_home(settings)
    except HomeError as error:
        yield Finding(what="home", grade="problem", found=str(settings.home), advice=str(error))
        return
    yield Finding(what="home", grade="ok", found=str(settings.home))
    free = shutil.disk_usage(settings.home).free / 2**30
    enough = free >= LEAST_FREE_GB
    advice = None if enough else "checkpoints and datasets need room: free some, or move the home with --home"
    yield Finding(what="disk", grade="ok" if enough else "problem", found=f"{free:.1f} GB free", advice=advice)
    yield _owner(settings)
    yield _memory(settings)


def _owner(settings: Settings) -> Finding:
    owner = find_owner(settings)
    if owner is None:
        return Finding(what="owner", grade="ok", found="none runs; the next client starts one")
    found = f"pid {owner.pid} at {owner.url}, version {owner.version}"
    if owner.version != installed_version():
        advice = "`virtualmle stop` ends it; the next client starts one of this version"
        return Finding(what="owner", grade="problem", found=found, advice=advice)
    try:
        status = owner_status(owner)
    except HomeError as error:
        return Finding(what="owner", grade="problem", found=found, advice=str(error))
    doing = f"{status.clients} clients, {len(status.running)} trials running, {len(status.queued)} queued"
    return Finding(what="owner", grade="ok", found=f"{found}: {doing}")


def _memory(settings: Settings) -> Finding:
    if not settings.database.exists():
        return Finding(what="memory", grade="ok", found="none yet")
    size = f"{settings.database.stat().st_size / 2**20:.1f} MB"
    if find_owner(settings) is not None:
        return Finding(what="memory", grade="ok", found=f"{size}, open in the owner")
    from memory.connection import Connection

    try:
        Connection(settings.database).close()
    except MemoryFault as fault:
        return Finding(what="memory", grade="problem", found=size, advice=str(fault))
    return Finding(what="memory", grade="ok", found=size)


def _torch() -> Iterator[Finding]:
    """In a process of its own: torch takes seconds to load, and a broken one must not take us with it."""
    again = "install it anew: pip install --force-reinstall torch"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        found, done = None, None
    if found is None:
        said = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1] if done else "it does not answer"
        yield Finding(what="torch", grade="problem", found=said, advice=again)
        return
    yield Finding(what="torch", grade="ok", found=f"{found['version']}, CUDA {found['cuda'] or 'none'}")
    yield _gpu(found)


def _gpu(found: dict[str, list[tuple[str, float]]]) -> Finding:
    if found["gpus"]:
        listed = ", ".join(f"{name} ({memory:.0f} GB)" for name, memory in found["gpus"])
        return Finding(what="GPU", grade="ok", found=listed)
    if shutil.which("nvidia-smi") is None:
        advice = "trainings use the CPU; for a GPU host: NVIDIA driver, and a torch build with its CUDA"
        return Finding(what="GPU", grade="note", found="none", advice=advice)
    advice = "nvidia-smi is here, but torch sees no GPU: install a torch build whose CUDA the driver knows"
    return Finding(what="GPU", grade="problem", found="none for torch", advice=advice)


def _compiler() -> Finding:
    found = next((path for name in ("g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        advice = "trainings on the CPU are slower without compiled kernels: install g++"
        return Finding(what="compiler", grade="note", found="none", advice=advice)
    return Finding(what="compiler", grade="ok", found=found)


def _extra(module: str, extra: str, use: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(
            what=module, grade="note", found="missing", advice=f"for {use}: pip install 'virtualmle[{extra}]'"
        )
    return Finding(what=module, grade="ok", found=f"for {use}")
