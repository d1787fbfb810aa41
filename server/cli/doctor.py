"""Checks this machine and this home, and says how to fix what is missing or broken."""

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
from server.client.home import HomeError, find_owner, make_home
from server.client.stop import owner_status
from server.replay.marker import REPLAY_FILE, ReplayHomeError, read_replay_home
from server.scheduler.run_directory import unrecovered
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
    """The result of one check. `note`: it works, but could be better; `problem`: something will fail."""

    what: str
    grade: Grade
    found: str
    advice: str | None = None


def examine(settings: Settings) -> Iterator[Finding]:
    """Yields every finding, the most important first; the check of torch takes seconds."""
    yield Finding(what="virtualmle", grade="ok", found=f"{installed_version()}, Python {platform.python_version()}")
    yield _platform()
    yield from _home(settings)
    yield from _torch()
    yield _compiler()
    for module, (extra, use) in EXTRAS.items():
        yield _extra(module, extra, use)


def _platform() -> Finding:
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform == "win32":
        advice = (
            "homes and trainings need Linux or macOS: use WSL here, or `virtualmle connect CLIENT --ssh` or `--url`"
        )
        return Finding(what="system", grade="problem", found=system, advice=advice)
    return Finding(what="system", grade="ok", found=system)


def _home(settings: Settings) -> Iterator[Finding]:
    try:
        make_home(settings)
    except HomeError as error:
        yield Finding(what="home", grade="problem", found=str(settings.home), advice=str(error))
        return
    yield Finding(what="home", grade="ok", found=str(settings.home))
    yield from _replay(settings)
    free = shutil.disk_usage(settings.home).free / 2**30
    enough = free >= LEAST_FREE_GB
    advice = None if enough else "checkpoints and datasets need room: free some, or move the home with --home"
    yield Finding(what="disk", grade="ok" if enough else "problem", found=f"{free:.1f} GB free", advice=advice)
    yield _owner(settings)
    yield _memory(settings)
    for trial_id, reason in unrecovered(settings.trials_dir).items():
        advice = f"it is `crashed`; its files are in {settings.trials_dir / trial_id}; run_trial can train it again"
        yield Finding(what=f"trial {trial_id}", grade="note", found=reason, advice=advice)


def _replay(settings: Settings) -> Iterator[Finding]:
    """What a replay home replays; nothing for a home that trains."""
    try:
        replay = read_replay_home(settings)
    except ReplayHomeError as error:
        yield Finding(what="replay", grade="problem", found=REPLAY_FILE, advice=str(error))
        return
    if replay is not None:
        yield Finding(what="replay", grade="note", found=f"recorded trainings of {replay.tables}; nothing is trained")


def _owner(settings: Settings) -> Finding:
    owner = find_owner(settings)
    if owner is None:
        return Finding(what="owner", grade="ok", found="none runs; the next client starts one")
    running = f"pid {owner.pid} at {owner.url}, version {owner.version}"
    if owner.version != installed_version():
        advice = "`virtualmle stop` ends it; the next client starts one of this version"
        return Finding(what="owner", grade="problem", found=running, advice=advice)
    try:
        status = owner_status(owner)
    except HomeError as error:
        return Finding(what="owner", grade="problem", found=running, advice=str(error))
    doing = f"{status.clients} clients, {len(status.running)} trials running, {len(status.queued)} queued"
    return Finding(what="owner", grade="ok", found=f"{running}: {doing}")


def _memory(settings: Settings) -> Finding:
    if not settings.database.exists():
        return Finding(what="memory", grade="ok", found="none yet")
    from memory.tables.connection import Connection, told_losses

    size = f"{settings.database.stat().st_size / 2**20:.1f} MB"
    if find_owner(settings) is not None:
        size += ", open in the owner"
    else:
        try:
            Connection(settings.database).close()
        except MemoryFault as fault:
            return Finding(what="memory", grade="problem", found=size, advice=str(fault))
    losses = told_losses(settings.database)
    return Finding(what="memory", grade="note" if losses else "ok", found=size, advice=" ".join(losses) or None)


def _torch() -> Iterator[Finding]:
    """Loads torch in a separate process: it takes seconds, and a broken torch must not take this process with it."""
    again = "install it anew: pip install --force-reinstall torch"
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-c", _TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
        facts = json.loads(process.stdout) if process.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        facts, process = None, None
    if facts is None:
        lines = process.stderr.strip().splitlines() if process else ["it does not answer"]
        yield Finding(what="torch", grade="problem", found=(lines or ["it ended without a word"])[-1], advice=again)
        return
    yield Finding(what="torch", grade="ok", found=f"{facts['version']}, CUDA {facts['cuda'] or 'none'}")
    yield _gpu(facts)


def _gpu(facts: dict[str, list[tuple[str, float]]]) -> Finding:
    if facts["gpus"]:
        listed = ", ".join(f"{name} ({memory:.0f} GB)" for name, memory in facts["gpus"])
        return Finding(what="GPU", grade="ok", found=listed)
    if shutil.which("nvidia-smi") is None:
        advice = "trainings use the CPU; for a GPU host: NVIDIA driver, and a torch build with its CUDA"
        return Finding(what="GPU", grade="note", found="none", advice=advice)
    advice = "nvidia-smi is here, but torch sees no GPU: install a torch build whose CUDA the driver knows"
    return Finding(what="GPU", grade="problem", found="none for torch", advice=advice)


def _compiler() -> Finding:
    compiler = next((path for name in ("g++", "clang++") if (path := shutil.which(name))), None)
    if compiler is None:
        advice = "trainings on the CPU are slower without compiled kernels: install g++"
        return Finding(what="compiler", grade="note", found="none", advice=advice)
    return Finding(what="compiler", grade="ok", found=compiler)


def _extra(module: str, extra: str, use: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(
            what=module, grade="note", found="missing", advice=f"for {use}: pip install 'virtualmle[{extra}]'"
        )
    return Finding(what=module, grade="ok", found=f"for {use}")
