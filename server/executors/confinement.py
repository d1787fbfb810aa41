"""What a training's container may do and see: no network, no capability, and nothing to write but its directory."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.types import DeviceRequest, LogConfig, Mount

from server.executors.base import ExecutorError, Slot
from server.executors.environment import child_variables
from server.executors.needs import needs_of
from trainers.spec import Task

HOME_LABEL, RUN_LABEL = "virtualmle.home", "virtualmle.run"
WORK = PurePosixPath("/virtualmle")
ROOT_RUNS_AS = 10001
"""The user inside, where the owner is root: the one of the image."""
PROCESSES = 512
MOUNTS = Path("/proc/self/mountinfo")
TEMPORARY = "rw,nosuid,nodev,size=512m,mode=1777"


@dataclass(frozen=True)
class Confinement:
    """Of all containers of one home. `host_home`: what the engine's host calls it, where that differs."""

    datasets: Path
    home: Path
    host_home: Path | None
    command: Sequence[str]
    mounts: Mapping[Path, str]
    """More to read, and where."""

    @property
    def label(self) -> str:
        """Tells the home's containers from those of every other home on the engine's host."""
        return hashlib.sha256(str(self.host_home or self.home).encode()).hexdigest()[:16]

    def admit(self, directory: Path, task: Task) -> None:
        """Lets the user inside write the run directory, and read the datasets and the trials that the task names.

        The home itself stays its owner's alone. Raises OSError.
        """
        if os.getuid() != 0:
            return
        for folder in (directory, *needs_of(directory, task).trials):
            for path in (folder, *folder.iterdir()):
                with suppress(FileNotFoundError):
                    os.chown(path, ROOT_RUNS_AS, ROOT_RUNS_AS, follow_symlinks=False)  # a training may have made one
        if self.datasets.is_dir():
            for path in (self.datasets, *self.datasets.rglob("*")):
                with suppress(FileNotFoundError):  # one that was on its way to another name
                    if not path.is_symlink():
                        path.chmod(0o755 if path.is_dir() else 0o644)

    def arguments(self, directory: Path, slot: Slot, task: Task) -> dict[str, Any]:
        """Those of the engine's call that creates a container."""
        inside = WORK / "trials" / directory.name
        command = [*self.command, task, str(inside), "--datasets", str(WORK / "datasets")]
        if task == "run" and slot.deadline_seconds is not None:
            command += ["--deadline-seconds", f"{slot.deadline_seconds:.3f}"]
        user = os.getuid() or ROOT_RUNS_AS
        memory = None if slot.memory_mb is None else f"{slot.memory_mb}m"
        gpus = [DeviceRequest(device_ids=[str(gpu) for gpu in slot.gpu_ids], capabilities=[["gpu"]])]
        return {
            "command": command[1:],
            "entrypoint": command[:1],
            "name": f"virtualmle-{self.label[:6]}-{directory.name}-{secrets.token_hex(3)}",
            "labels": {HOME_LABEL: self.label, RUN_LABEL: directory.name},
            "environment": child_variables(slot) | {"HOME": "/tmp"},
            "working_dir": str(inside),
            "mounts": self._seen(directory, task),
            "user": f"{user}:{os.getgid() or user}",
            "read_only": True,
            "tmpfs": {"/tmp": TEMPORARY},
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "init": True,
            "pids_limit": PROCESSES,
            "mem_limit": memory,
            "memswap_limit": memory,
            "nano_cpus": min(slot.threads, os.cpu_count() or slot.threads) * 10**9,  # the engine takes no more
            "device_requests": gpus if slot.gpu_ids else None,
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "1"}),
        }

    def _seen(self, directory: Path, task: Task) -> list[Mount]:
        """Its own directory to write, those that it refers to and the datasets to read."""
        seen = [(directory, WORK / "trials" / directory.name, False)]
        seen += [(self.datasets, WORK / "datasets", True)] if self.datasets.is_dir() else []
        seen += [(path, WORK / "trials" / path.name, True) for path in needs_of(directory, task).trials]
        mounts = [Mount(str(to), str(self._on_host(path)), type="bind", read_only=only) for path, to, only in seen]
        return mounts + [Mount(to, str(path), type="bind", read_only=True) for path, to in self.mounts.items()]

    def _on_host(self, path: Path) -> Path:
        """What the engine calls a path of the home."""
        return path if self.host_home is None else self.host_home / path.relative_to(self.home)


def home_on_host(client: DockerClient, home: Path) -> Path | None:
    """What the engine's host calls the home of an owner that is in one of its containers; None for one that is not.

    Raises ExecutorError where the home is in that container alone.
    """
    mounted = MOUNTS.read_text(encoding="utf-8") if MOUNTS.exists() else ""
    own = re.search(r"/containers/([0-9a-f]{64})/hostname /etc/hostname ", mounted)
    if own is None:
        return None
    try:
        mounts: list[dict[str, Any]] = client.containers.get(own[1]).attrs["Mounts"]
    except NotFound:  # another engine's container
        return None
    for mount in sorted(mounts, key=lambda one: -len(one["Destination"])):
        if home.is_relative_to(mount["Destination"]):
            return Path(mount["Source"]) / home.relative_to(mount["Destination"])
    raise ExecutorError(
        f"{home} is no mount of this container, so trial containers could not see it: mount a folder of the host "
        "there, or name it with host_home."
    )


def refusal(error: APIError) -> str:
    """What the engine said, and what to do about it."""
    said = " ".join(str(error.explanation or error).split())[:300]
    if "could not select device driver" in said:
        advice = "install the NVIDIA container toolkit, or set gpus: [] to use the CPU"
        return f"Docker has no GPU runtime here ({said}): {advice}."
    if "nvidia" in said.lower():
        advice = "`nvidia-smi` on its host says whether the driver is well; gpus: [] uses the CPU"
        return f"Docker cannot give a training its GPU ({said}): {advice}."
    if "no space left" in said.lower():
        advice = "`docker system prune` makes room; then the same run_trial goes on"
        return f"The disk of the Docker engine is full ({said}): {advice}."
    return f"The Docker engine refused: {said}."
