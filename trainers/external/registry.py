"""The registry of the user's own trainers: a command and a space each, from a YAML file, by name. No torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trainers.contract.regular_files import read_regular
from trainers.contract.space import Field, Space, SpaceError
from trainers.contract.specs import SPECS
from trainers.data.errors import NAME_PATTERN
from trainers.external.conditions import check_conditions, check_divisible

TRAINERS = "trainers"
"""The name of the folder of registered trainers, beside that of the datasets."""


class TrainerError(ValueError):
    """A trainer cannot be registered, found or used; the message says why."""


class ExternalTrainer(BaseModel):
    """A registered trainer. `command` gets the run directory as its last argument."""

    model_config = ConfigDict(frozen=True)

    name: str
    command: tuple[str, ...]
    space: Space

    @property
    def version(self) -> str:
        """A version that changes with the command, the space, and the files that the command names."""
        digest = hashlib.sha256(self.model_dump_json().encode())
        for part in self.command[1:]:
            if Path(part).is_file():
                digest.update(Path(part).read_bytes())
        return f"{self.name}-{digest.hexdigest()[:12]}"


_KEYS = [key for key in Field.model_fields if key not in ("name", "fixed")]


_LARGEST = 1e15
"""The largest bound of a field; whole numbers up to it are exact as floats."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    command: str | tuple[str, ...]
    fields: dict[str, dict[str, Any]]
    divisible: tuple[tuple[str, str], ...] = ()


def read(path: Path, name: str) -> ExternalTrainer:
    """The trainer that the YAML file at `path` declares, with the name `name`. Raises TrainerError.

    The program and arguments that are files beside the YAML file become absolute paths. `python` becomes the
    interpreter that runs this process.
    """
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise TrainerError(f"{name!r} cannot name a trainer: letters, digits, dots, dashes and underscores can.")
    if name in SPECS:
        raise TrainerError(f"{name!r} is a built-in backbone; choose another name.")
    try:
        declared = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TrainerError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except RecursionError:
        raise TrainerError(f"{str(path)!r} is no YAML: it is nested too deeply.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise TrainerError(f"{str(path)!r}: {where}: {first['msg']}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise TrainerError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())[:200]}") from None
    command = _absolute_command(
        shlex.split(declared.command) if isinstance(declared.command, str) else declared.command, path.parent
    )
    return ExternalTrainer(name=name, command=command, space=_read_space(name, declared, path))


def _absolute_command(command: tuple[str, ...] | list[str], folder: Path) -> tuple[str, ...]:
    if not command:
        raise TrainerError("command is empty; name a program and its arguments, as in [python, train.py].")
    # links stay: the interpreter of a virtual environment is a link, and its target is another interpreter
    beside = [str((folder / part).absolute()) if (folder / part).is_file() else part for part in command]
    program = sys.executable if beside[0] == "python" else shutil.which(beside[0])
    if program is None:
        raise TrainerError(f"command: {command[0]!r} is no program here; give its whole path.")
    return (str(Path(program).absolute()), *beside[1:])


def _read_space(name: str, declared: _File, path: Path) -> Space:
    fields = [_read_field(field_name, written, path) for field_name, written in declared.fields.items()]
    space = Space(backbone=name, fields=tuple(fields), divisible=declared.divisible)
    try:
        check_conditions(space)
        check_divisible(space)
        space.check(space.default())
    except SpaceError as error:
        raise TrainerError(f"{str(path)!r}: {error}") from None
    return space


def _read_field(name: str, declared: dict[str, Any], path: Path) -> Field:
    """A field as the file declares it; the type of its default decides its kind. Raises TrainerError."""
    if unknown := set(declared) - set(Field.model_fields) | {"name", "fixed"} & set(declared):
        raise TrainerError(f"{str(path)!r}: {name} has no {min(unknown)!r}; a field may have {', '.join(_KEYS)}.")
    kinds = {bool: "bool", int: "int", str: "choice"}
    kind = "choice" if "choices" in declared else kinds.get(type(declared.get("default")), "float")
    try:
        field = Field.model_validate({"name": name, "kind": kind, "group": "training", **declared})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise TrainerError(f"{str(path)!r}: {where}: {first['msg']}") from None
    except OverflowError:
        raise TrainerError(f"{str(path)!r}: {name} has a number that is too large.") from None
    if field.kind in ("int", "float"):
        if field.low is None or field.high is None:
            raise TrainerError(f"{str(path)!r}: {name} is a number and needs low and high.")
        if not (-_LARGEST <= field.low <= field.high <= _LARGEST):
            raise TrainerError(
                f"{str(path)!r}: {name} has low {field.low:g} and high {field.high:g}; low is not above high, and both "
                f"are from -{_LARGEST:g} to {_LARGEST:g}."
            )
        if field.scale == "log" and field.low <= 0:
            raise TrainerError(f"{str(path)!r}: {name} has scale log and low {field.low:g}; that must be above 0.")
    return field


def add(trainers_dir: Path, name: str, path: Path) -> ExternalTrainer:
    """Stores the trainer that `path` declares as `name` and replaces an existing one. Raises TrainerError."""
    trainer = read(path, name)
    try:
        trainers_dir.mkdir(parents=True, exist_ok=True)
        part = trainers_dir / f"{name}.json.part"
        part.write_text(trainer.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(trainers_dir / f"{name}.json")
    except OSError as error:
        raise TrainerError(f"{str(trainers_dir)!r} cannot be written: {error.strerror or error}.") from None
    return trainer


def find(trainers_dir: Path, name: str) -> ExternalTrainer:
    """The trainer registered as `name`. Raises TrainerError with the existing names."""
    registered = names(trainers_dir)
    if name not in registered:
        near = difflib.get_close_matches(name, [*SPECS, *registered], 1, 0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TrainerError(f"No backbone {name!r}; there are {', '.join([*SPECS, *registered])}.{hint}")
    try:
        values: dict[str, Any] = json.loads(read_regular(trainers_dir / f"{name}.json"))
        return ExternalTrainer.model_validate(values)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainerError(f"Trainer {name!r} cannot be read ({reason}); add it again.") from None


def names(trainers_dir: Path) -> list[str]:
    """The names of the registered trainers, sorted."""
    return sorted(path.stem for path in trainers_dir.glob("*.json")) if trainers_dir.is_dir() else []


def spaces(trainers_dir: Path) -> dict[str, Space]:
    """The spaces of the registered trainers that can be read, by name."""
    readable: dict[str, Space] = {}
    for name in names(trainers_dir):
        with suppress(TrainerError):
            readable[name] = find(trainers_dir, name).space
    return readable


def remove(trainers_dir: Path, name: str) -> None:
    """Deletes the trainer registered as `name`; studies of it stay in memory. Raises TrainerError."""
    find(trainers_dir, name)
    (trainers_dir / f"{name}.json").unlink(missing_ok=True)
