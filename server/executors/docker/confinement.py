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
from server.executors.needs import dataset_files, needs_of
from trainers.contract.wire import ChildTask

HOME_LABEL, RUN_LABEL = "virtualmle.home", "virtualmle.run"
WORK = PurePosixPath("/virtualmle")
ROOT_RUNS_AS = 10001
"""User id inside the container if the owner is root: the user of the image."""
PROCESSES = 512
MOUNTS = Path("/proc/self/mountinfo")
TEMPORARY = "rw,nosuid,nodev,size=512m,mode=1777"


@dataclass(frozen=True)
class Confinement:
    """The restrictions on every container of one home. `host_home` is its path on the engine's host, if it differs."""

    datasets: Path
    home: Path
    host_home: Path | None
    command: Sequence[str]
    mounts: Mapping[Path, str]
    """Further paths to mount read-only, each with its place in the container."""

    @property
    def label(self) -> str:
        """A hash that distinguishes this home's containers from those of other homes on the engine's host."""
        return hashlib.sha256(str(self.host_home or self.home).encode()).hexdigest()[:16]

    def admit(self, directory: Path, task: ChildTask) -> None:
        """Lets the container's user write the run directory, and read the trials and dataset files that the task reads.

        The home folder itself stays private to its owner. Raises OSError.
        """
        if os.getuid() != 0:
            return
        for folder in (directory, *needs_of(directory, task).trials):
            for path in (folder, *folder.iterdir()):
                with suppress(FileNotFoundError):
                    os.chown(path, ROOT_RUNS_AS, ROOT_RUNS_AS, follow_symlinks=False)  # a training may have made a link
        for path in dataset_files(directory, task, self.datasets):
            path.chmod(0o644)

    def arguments(self, directory: Path, slot: Slot, task: ChildTask) -> dict[str, Any]:
        """Arguments of the engine call that creates a container."""
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
            "mounts": self._bind_mounts(directory, task),
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
            "nano_cpus": min(slot.threads, os.cpu_count() or slot.threads) * 10**9,  # the engine refuses more
            "device_requests": gpus if slot.gpu_ids else None,
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "1"}),
        }

    def _bind_mounts(self, directory: Path, task: ChildTask) -> list[Mount]:
        """The task's own directory, writable; the files and directories that it reads, read-only."""
        bound = [(directory, WORK / "trials" / directory.name, False)]
        files = dataset_files(directory, task, self.datasets)
        bound += [(path, WORK / "datasets" / path.relative_to(self.datasets), True) for path in files]
        bound += [(path, WORK / "trials" / path.name, True) for path in needs_of(directory, task).trials]
        mounts = [Mount(str(to), str(self._on_host(path)), type="bind", read_only=only) for path, to, only in bound]
        return mounts + [Mount(to, str(path), type="bind", read_only=True) for path, to in self.mounts.items()]

    def _on_host(self, path: Path) -> Path:
        """The path by which the engine knows a path of the home."""
        return path if self.host_home is None else self.host_home / path.relative_to(self.home)


def home_on_host(client: DockerClient, home: Path) -> Path | None:
    """The path on the engine's host of the home of an owner in one of its containers; None for any other owner.

    Raises ExecutorError where the home exists only inside that container.
    """
    mounted = MOUNTS.read_text(encoding="utf-8") if MOUNTS.exists() else ""
    container_id = re.search(r"/containers/([0-9a-f]{64})/hostname /etc/hostname ", mounted)
    if container_id is None:
        return None
    try:
        mounts: list[dict[str, Any]] = client.containers.get(container_id[1]).attrs["Mounts"]
    except NotFound:  # another engine's container
        return None
    for mount in sorted(mounts, key=lambda mount: -len(mount["Destination"])):
        if home.is_relative_to(mount["Destination"]):
            return Path(mount["Source"]) / home.relative_to(mount["Destination"])
    raise ExecutorError(
        f"{home} is no mount of this container, so trial containers could not see it: mount a folder of the host "
        "there, or name it with host_home."
    )


def refusal(error: APIError) -> str:
    """The message for what the engine refused, and what to do about it."""
    reason = " ".join(str(error.explanation or error).split())[:300]
    if "could not select device driver" in reason:
        advice = "install the NVIDIA container toolkit, or set gpus: [] to use the CPU"
        return f"Docker has no GPU runtime here ({reason}): {advice}."
    if "nvidia" in reason.lower():
        advice = "`nvidia-smi` on its host says whether the driver is well; gpus: [] uses the CPU"
        return f"Docker cannot give a training its GPU ({reason}): {advice}."
    if "no space left" in reason.lower():
        advice = "`docker system prune` makes room; then the same run_trial goes on"
        return f"The disk of the Docker engine is full ({reason}): {advice}."
    return f"The Docker engine refused: {reason}."
