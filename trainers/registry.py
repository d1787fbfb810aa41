"""Trainers of the user's own: a command and a space, read from a YAML file and kept under a name. No torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trainers.data.errors import NAME_PATTERN
from trainers.space import Field, Space, SpaceError
from trainers.spec import SPECS


class TrainerError(ValueError):
    """A trainer that cannot be registered or found; the message says what is wrong with it."""


class ExternalTrainer(BaseModel):
    """A registered trainer. `command` gets the run directory as its last argument."""

    model_config = ConfigDict(frozen=True)

    name: str
    command: tuple[str, ...]
    space: Space

    @property
    def version(self) -> str:
        """Changes with the command, the space, and the files that the command names."""
        digest = hashlib.sha256(self.model_dump_json().encode())
        for part in self.command[1:]:
            if Path(part).is_file():
                digest.update(Path(part).read_bytes())
        return f"{self.name}-{digest.hexdigest()[:12]}"


_KEYS = [key for key in Field.model_fields if key not in ("name", "fixed")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    command: str | tuple[str, ...]
    fields: dict[str, dict[str, Any]]
    divisible: tuple[tuple[str, str], ...] = ()


def read(path: Path, name: str) -> ExternalTrainer:
    """The trainer that the YAML file at `path` declares, under `name`. Raises TrainerError.

    Arguments of its command that are files beside the YAML file become absolute, as does the program; `python` is the
    interpreter that runs this.
    """
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise TrainerError(f"{name!r} cannot name a trainer: letters, digits, dots, dashes and underscores can.")
    if name in SPECS:
        raise TrainerError(f"{name!r} is a built-in backbone; choose another name.")
    try:
        given = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TrainerError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainerError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())[:200]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise TrainerError(f"{str(path)!r}: {where}: {first['msg']}") from None
    command = _absolute(shlex.split(given.command) if isinstance(given.command, str) else given.command, path.parent)
    return ExternalTrainer(name=name, command=command, space=_space(name, given, path))


def _absolute(command: tuple[str, ...] | list[str], folder: Path) -> tuple[str, ...]:
    if not command:
        raise TrainerError("command is empty; name a program and its arguments, as in [python, train.py].")
    # not resolved: the interpreter of a virtual environment is a link, and is another one behind it
    beside = [str((folder / part).absolute()) if (folder / part).is_file() else part for part in command]
    program = sys.executable if beside[0] == "python" else shutil.which(beside[0])
    if program is None:
        raise TrainerError(f"command: {command[0]!r} is no program here; give its whole path.")
    return (str(Path(program).absolute()), *beside[1:])


def _space(name: str, given: _File, path: Path) -> Space:
    fields = [_field(field_name, written, path) for field_name, written in given.fields.items()]
    space = Space(backbone=name, fields=tuple(fields), divisible=given.divisible)
    try:
        for field in fields:
            for condition in field.when:
                space.field(condition.field)
        space.check(space.default())
        space.canonical(space.default())
    except SpaceError as error:
        raise TrainerError(f"{str(path)!r}: {error}") from None
    except RecursionError:
        raise TrainerError(f"{str(path)!r}: the conditions of its fields wait on each other.") from None
    return space


def _field(name: str, written: dict[str, Any], path: Path) -> Field:
    """A field as the file writes it; what it leaves out follows from the default."""
    if unknown := set(written) - set(Field.model_fields) | {"name", "fixed"} & set(written):
        raise TrainerError(f"{str(path)!r}: {name} has no {min(unknown)!r}; a field may have {', '.join(_KEYS)}.")
    kinds = {bool: "bool", int: "int", str: "choice"}
    kind = "choice" if "choices" in written else kinds.get(type(written.get("default")), "float")
    try:
        field = Field.model_validate({"name": name, "kind": kind, "group": "training", **written})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise TrainerError(f"{str(path)!r}: {where}: {first['msg']}") from None
    if field.kind in ("int", "float"):
        if field.low is None or field.high is None:
            raise TrainerError(f"{str(path)!r}: {name} is a number and needs low and high.")
        if field.scale == "log" and field.low <= 0:
            raise TrainerError(f"{str(path)!r}: {name} has scale log and low {field.low:g}; that must be above 0.")
    return field


def add(trainers_dir: Path, name: str, path: Path) -> ExternalTrainer:
    """Keep the trainer that `path` declares as `name`, in place of one that was there. Raises TrainerError."""
    found = read(path, name)
    try:
        trainers_dir.mkdir(parents=True, exist_ok=True)
        part = trainers_dir / f"{name}.json.part"
        part.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(trainers_dir / f"{name}.json")
    except OSError as error:
        raise TrainerError(f"{str(trainers_dir)!r} cannot be written: {error.strerror or error}.") from None
    return found


def find(trainers_dir: Path, name: str) -> ExternalTrainer:
    """The trainer registered as `name`. Raises TrainerError with what there is."""
    there = names(trainers_dir)
    if name not in there:
        near = difflib.get_close_matches(name, [*SPECS, *there], 1, 0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TrainerError(f"No backbone {name!r}; there are {', '.join([*SPECS, *there])}.{hint}")
    try:
        values: dict[str, Any] = json.loads((trainers_dir / f"{name}.json").read_text(encoding="utf-8"))
        return ExternalTrainer.model_validate(values)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainerError(f"Trainer {name!r} cannot be read ({reason}); add it again.") from None


def names(trainers_dir: Path) -> list[str]:
    """The registered trainers by name."""
    return sorted(path.stem for path in trainers_dir.glob("*.json")) if trainers_dir.is_dir() else []


def remove(trainers_dir: Path, name: str) -> None:
    """Forget the trainer registered as `name`; studies of it stay in memory. Raises TrainerError."""
    find(trainers_dir, name)
    (trainers_dir / f"{name}.json").unlink(missing_ok=True)
