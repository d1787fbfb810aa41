"""Settings: the only file that reads the environment and virtualmle.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainers.contract.regular_files import read_regular

_YEAR = 366 * 24 * 3600.0


class SettingsError(ValueError):
    """A value in virtualmle.yaml or in the environment cannot be used; the message names it."""


class Settings(BaseModel):
    """The settings of one home, for its owner and its clients. All files are under `home`: it moves as one folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    home: Path
    slots: int = Field(default=1, ge=1, le=1024)
    """How many trainings run at the same time; with GPUs, on each of them."""
    gpus: tuple[Annotated[int, Field(ge=0, le=1023)], ...] | None = None
    """GPUs to train on, as the driver numbers them; None means all of them, () means none."""
    threads: int = Field(default_factory=lambda values: _threads_per_training(values.get("slots", 1)), ge=1, le=4096)
    """CPU threads of one training. A study keeps the number that it began with."""
    trial_memory_mb: int | None = Field(default=None, ge=256, le=2**30)
    """Memory limit of a training in MB; None means no limit."""
    least_free_gb: float = Field(default=1.0, ge=0, le=1e6)
    """Free disk space in GB below which no training starts."""
    keep_checkpoints: int = Field(default=20, ge=1, le=1_000_000)
    """How many best configurations, and newest trials, of a study keep their weights. The default always does."""
    executor: Literal["process", "docker", "ray"] = "process"
    """Where trainings run: in child processes, in containers of this host, or on the nodes of a Ray cluster."""
    docker_image: str = "virtualmle:latest"
    host_home: Path | None = None
    """The home's path on the Docker engine's host, where the owner itself runs in a container."""
    ray_address: str = "auto"
    """Address of the Ray cluster: `ray://HOST:10001`, or HOST:PORT or auto on a machine that is itself a node."""
    ray_gpus: float = Field(default=0.0, ge=0, le=1024)
    """GPUs that a training requests on its Ray node; trainings with fractions share one."""
    idle_seconds: float = Field(default=600.0, gt=0, le=_YEAR)
    """Seconds without a client or a trial after which a detached owner ends."""
    max_wait_seconds: float = Field(default=3600.0, gt=0, le=_YEAR)
    """Upper limit of the argument `wait_seconds`."""
    withhold: float = Field(default=0.0, ge=0, le=0.9)
    """Probability that a heuristic is withheld from a study that sets no probability itself; 0 suits chat clients."""
    max_request_mb: float = Field(default=4.0, gt=0, le=1024)
    """Largest MCP request over HTTP, in MB."""
    allowed_hosts: tuple[str, ...] = ()
    """Host headers accepted besides loopback and the address that the owner listens on."""
    allowed_origins: tuple[str, ...] = ()

    def sharing(self, places: int) -> Settings:
        """These settings with the cores divided among `places` trainings, unless `threads` was set."""
        return (
            self
            if "threads" in self.model_fields_set
            else self.model_copy(update={"threads": _threads_per_training(places)})
        )

    @property
    def database(self) -> Path:
        return self.home / "memory.duckdb"

    @property
    def datasets_dir(self) -> Path:
        return self.home / "datasets"

    @property
    def trainers_dir(self) -> Path:
        return self.home / "trainers"

    @property
    def trials_dir(self) -> Path:
        return self.home / "trials"

    @property
    def reports_dir(self) -> Path:
        return self.home / "reports"

    @property
    def task_key(self) -> Path:
        return self.home / "task.key"

    @property
    def owner_file(self) -> Path:
        return self.home / "owner.json"


def _threads_per_training(places: int) -> int:
    return max(1, _usable_cores() // max(1, places))


def _usable_cores() -> int:
    """Physical cores that this process may use; two threads on one core slow a training down."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def load_settings(
    home: Path | None = None, environment: Mapping[str, str] = os.environ, application: str = "virtualmle"
) -> Settings:
    """Settings of a home: `home`, else VIRTUALMLE_HOME, else the platform's user-data folder of `application`.

    HOME/virtualmle.yaml holds the rest; VIRTUALMLE_<FIELD> in the environment overrides it. Raises SettingsError.
    """
    folder = _home_folder(home, environment, application)
    path = folder / "virtualmle.yaml"
    values = _read_yaml(path)
    variables = {name: f"VIRTUALMLE_{name.upper()}" for name in Settings.model_fields if name != "home"}
    from_environment = {name: text for name, variable in variables.items() if (text := environment.get(variable))}
    for name, text in from_environment.items():
        values[name] = _parsed(name, variables[name], text)
    try:
        return Settings.model_validate({**values, "home": folder})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        where = "".join(f", entry {part}" for part in first["loc"][1:] if isinstance(part, int))
        if name in from_environment:
            message = f"{variables[name]}={_shown(from_environment[name])} in the environment{where}: {first['msg']}."
            raise SettingsError(f"{message} Correct or unset it.") from None
        message = f"{path}: {_shortened(name)}={_shown(values.get(name))}{where}: {first['msg']}."
        names = f" Settings: {', '.join(variables)}." if name not in variables else " Correct or remove it."
        raise SettingsError(message + names) from None


def _home_folder(home: Path | None, environment: Mapping[str, str], application: str) -> Path:
    named = environment.get("VIRTUALMLE_HOME")
    location = home or named or platformdirs.user_data_dir(application, appauthor=False)
    try:
        return Path(location).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        what = f"--home {str(home)!r}" if home else f"VIRTUALMLE_HOME={named!r} in the environment"
        raise SettingsError(f"{what} names no folder: {error} Name another.") from None


def _parsed(name: str, variable: str, text: str) -> Any:
    """The value of a variable, written as YAML; a setting that is text takes it as it stands."""
    if _is_text(name):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = _shortened(" ".join(str(error).split()))
        raise SettingsError(
            f"{variable}={_shown(text)} in the environment cannot be read: {reason}. Correct or unset it."
        ) from None


def _is_text(name: str) -> bool:
    annotation: Any = Settings.model_fields[name].annotation
    return annotation in (str, Path, Path | None)


def _shown(value: object) -> str:
    try:
        return _shortened(repr(value))
    except (ValueError, RecursionError):  # Python writes no number of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to show"


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text):,} characters)"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_regular(path.resolve()).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RuntimeError, yaml.YAMLError) as error:
        reason = _shortened(next(iter(str(error).splitlines()), ""))
        raise SettingsError(f"{path} cannot be read: {reason}. Mend or remove it.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold `name: value` lines; got a {type(content).__name__}.")
    return {str(name): value for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
