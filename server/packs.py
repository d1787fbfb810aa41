"""Memory packs as files: a folder of pack.yaml and trials.parquet, the pack that is shipped, or a study of Optuna."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import yaml

from memory.pack import Pack, PackDataset, PackTrial, read_pack
from server.policies.sampling import admits
from trainers.data import Dataset
from trainers.fields import space_of
from trainers.space import Config, Space
from trainers.spec import METRICS, SPECS, preset

YAML, PARQUET = "pack.yaml", "trials.parquet"
SHIPPED = "paper"
OPTUNA = "optuna://"


class PackError(RuntimeError):
    """A pack that cannot be read or written; the message is one line that says what to do."""


def write(pack: Pack, folder: Path) -> None:
    """Writes a pack to a new or empty folder; pack.yaml comes last, and without it there is no pack."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise PackError(f"{folder} is not empty; name a new folder.")
        if pack.trials:
            _write_trials(pack, folder / PARQUET)
        rest = pack.model_dump(mode="json", exclude={"trials"})
        (folder / YAML).write_text(yaml.safe_dump(rest, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except (OSError, duckdb.Error) as error:
        raise PackError(f"The pack cannot be written to {folder}: {str(error).splitlines()[0]}") from error


def _write_trials(pack: Pack, path: Path) -> None:
    with TemporaryDirectory(prefix="virtualmle-pack-") as scratch, duckdb.connect() as connection:
        rows = Path(scratch) / "trials.json"
        with rows.open("w", encoding="utf-8") as file:
            for one in pack.trials:
                texts = {"config": json.dumps(one.config), "scores": json.dumps(one.scores)}
                file.write(json.dumps({**one.model_dump(), **texts}) + "\n")
        connection.execute(
            f"COPY (SELECT * FROM read_json({_quoted(rows)}, format = 'newline_delimited', columns = {_COLUMNS})) "
            f"TO {_quoted(path)} (FORMAT parquet, COMPRESSION zstd)"
        )


_COLUMNS = (
    "{dataset_hash: 'VARCHAR', backbone: 'VARCHAR', filter_seen: 'VARCHAR', trainer_version: 'VARCHAR', "
    "config_hash: 'VARCHAR', config: 'VARCHAR', seed: 'BIGINT', scores: 'VARCHAR'}"
)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def read(folder: Path) -> Pack:
    """The pack of a folder; raises PackError or MemoryFault where there is none, or it is not as it was written."""
    try:
        head: dict[str, Any] | Any = yaml.safe_load((folder / YAML).read_text(encoding="utf-8"))
        trials = list(_trials(folder / PARQUET)) if (folder / PARQUET).exists() else []
    except (FileNotFoundError, NotADirectoryError):
        raise PackError(f"{folder} holds no {YAML}; name the folder that `virtualmle memory export` wrote.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, duckdb.Error, ValueError) as error:
        raise PackError(f"The pack in {folder} cannot be read: {str(error).splitlines()[0]}") from error
    return read_pack({**head, "trials": trials} if isinstance(head, dict) else head)


def _trials(path: Path) -> Iterator[dict[str, Any]]:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT * FROM read_parquet({_quoted(path)})")
        names = [column[0] for column in found.description or ()]
        for row in found.fetchall():
            values = dict(zip(names, row, strict=True))
            yield {**values, "config": json.loads(values["config"]), "scores": json.loads(values["scores"])}


def shipped() -> Pack:
    """The lessons of the paper's release, as claims that nothing here has verified."""
    text = (files("memory") / "packs" / f"{SHIPPED}.yaml").read_text(encoding="utf-8")
    return Pack.model_validate(yaml.safe_load(text)).sealed()


def from_optuna(address: str, dataset: Dataset, backbone: str, metric: str) -> tuple[Pack, list[str]]:
    """The finished trials of `optuna://STORAGE?study=NAME` as unverified trainings, and the parameters passed over.

    Parameters are fields of the same name; a field that the study lacks is at the dataset's default.
    """
    try:
        import optuna
    except ImportError:
        raise PackError("Reading a study of Optuna needs it: pip install 'virtualmle[search]'.") from None
    if backbone not in SPECS:
        raise PackError(f"--backbone: there is no {backbone!r}; there are {', '.join(SPECS)}.")
    if metric not in METRICS:
        raise PackError(f"--metric: {metric!r} is not measured here; there are {', '.join(METRICS)}.")
    storage, name = _storage(address)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        maximizes = study.direction == optuna.study.StudyDirection.MAXIMIZE
        finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    except Exception as error:  # whatever the storage raises: it is the user's address
        raise PackError(f"Optuna cannot read {name or 'a study'} there: {str(error).splitlines()[0]}") from error
    if not maximizes:
        raise PackError(f"The study {study.study_name!r} minimises its value, so that is not {metric}.")
    space = space_of(SPECS[backbone], preset("strong", backbone, dataset.facts).model_dump())
    passed_over: dict[str, None] = {}
    trials = [
        PackTrial(
            dataset_hash=dataset.content_hash, backbone=backbone, filter_seen="unknown", trainer_version="optuna",
            config_hash=space.hash(config), config=config, seed=one.number, scores={metric: one.value},
        )
        for one in finished
        if one.value is not None and (config := _config(space, one.params, passed_over)) is not None
    ]  # fmt: skip
    if not trials:
        raise PackError(f"The study {study.study_name!r} has no finished trial with a parameter that is a field here.")
    known = PackDataset(dataset_hash=dataset.content_hash, name=dataset.name, facts=dataset.facts)
    return Pack(name=f"optuna {study.study_name}"[:128], datasets=(known,), trials=tuple(trials)).sealed(), list(
        passed_over
    )


def _storage(address: str) -> tuple[str, str | None]:
    """The storage's URL, and the study's name where the address has one."""
    plain = address.removeprefix(OPTUNA)
    query = parse_qs(urlsplit(plain).query)
    return plain.partition("?")[0], next(iter(query.get("study", [])), None)


def _config(space: Space, params: dict[str, Any], passed_over: dict[str, None]) -> Config | None:
    """The default with the parameters that are values of fields; None without any, or where they do not fit."""
    known = {field.name: field for field in space.fields}
    taken = {name: value for name, value in params.items() if name in known and admits(known[name], value)}
    passed_over.update(dict.fromkeys(name for name in params if name not in taken))
    try:
        return space.apply(space.default(), taken) if taken else None
    except ValueError:
        return None
