"""Settings: the only file that reads the environment and virtualmle.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class SettingsError(ValueError):
    """virtualmle.yaml or the environment holds something that cannot be used; the message names it."""


class Settings(BaseModel):
    """What an owner and its clients need to know of one home. Everything under `home`: to move it is to move all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    slots: int = Field(default=1, ge=1)
    """Trainings at the same time: on each GPU, where there are any."""
    gpus: tuple[int, ...] | None = None
    """Which GPUs to train on, as the driver numbers them; None: all that there are, () for none."""
    threads: int = Field(default_factory=lambda known: _share(known.get("slots", 1)), ge=1)
    """CPU threads of one training; a study keeps the number that it began with."""
    trial_memory_mb: int | None = Field(default=None, ge=256)
    """Memory limit of a training; None is none."""
    least_free_gb: float = Field(default=1.0, ge=0)
    """Free disk below which no training starts."""
    keep_checkpoints: int = Field(default=20, ge=1)
    """Weights of a study that stay: of the default, and of so many of its best configurations and newest trials."""
    executor: Literal["process", "docker", "ray"] = "process"
    """Where trainings run: in child processes, in containers of this host, or on the nodes of a Ray cluster."""
    docker_image: str = "virtualmle:latest"
    host_home: Path | None = None
    """What the home is called on the Docker engine's host, where the owner is itself in a container."""
    ray_address: str = "auto"
    """`ray://HOST:10001`, or for a host that is itself a node HOST:PORT or auto."""
    ray_gpus: float = Field(default=0.0, ge=0)
    """GPUs of a node that a training asks for there; fractions share one."""
    idle_seconds: float = Field(default=600.0, gt=0)
    """A detached owner ends after so long without a client and without a trial."""
    max_wait_seconds: float = Field(default=3600.0, gt=0)
    """Cap of wait_seconds."""
    withhold: float = Field(default=0.0, ge=0, le=0.9)
    """The chance that a heuristic is kept from a study that does not say: 0 for chat clients."""
    max_request_mb: float = Field(default=4.0, gt=0)
    """Size of one MCP request over HTTP."""
    allowed_hosts: tuple[str, ...] = ()
    """Host headers admitted beside loopback and the address listened on."""
    allowed_origins: tuple[str, ...] = ()

    def sharing(self, places: int) -> Settings:
        """Where `threads` was not set, the cores are shared by so many trainings."""
        return self if "threads" in self.model_fields_set else self.model_copy(update={"threads": _share(places)})

    @property
    def database(self) -> Path:
        return self.home / "memory.duckdb"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def trainers(self) -> Path:
        return self.home / "trainers"

    @property
    def trials(self) -> Path:
        return self.home / "trials"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def task_key(self) -> Path:
        return self.home / "task.key"

    @property
    def owner_file(self) -> Path:
        return self.home / "owner.json"


def _share(places: int) -> int:
    return max(1, _cores() // max(1, places))


def _cores() -> int:
    """Physical cores this process may use: two threads on one core slow a training down."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def load_settings(home: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings of a home: the option, else VIRTUALMLE_HOME, else the platform's user-data folder.

    HOME/virtualmle.yaml gives the rest; VIRTUALMLE_<FIELD> in the environment wins over it.
    """
    named = home or environment.get("VIRTUALMLE_HOME") or platformdirs.user_data_dir("virtualmle", appauthor=False)
    folder = Path(named).expanduser().absolute()
    values = _read_yaml(folder / "virtualmle.yaml")
    for name in Settings.model_fields:
        if name != "home" and (text := environment.get(f"VIRTUALMLE_{name.upper()}")):
            values[name] = yaml.safe_load(text)
    try:
        return Settings.model_validate({**values, "home": folder})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(field for field in Settings.model_fields if field != "home")
        raise SettingsError(
            f"{folder / 'virtualmle.yaml'}: {name}={first['input']!r}: {first['msg']}. Settings: {known}."
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {str(error).splitlines()[0]}. Mend or remove it.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingsError(f"{path} must hold `name: value` lines; got a {type(found).__name__}.")
    return {str(name): value for name, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
