"""Reads a study of Optuna as a pack of unverified trainings. Its storage is only read, and never made."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from memory.exchange.pack_format import MOST_TRIALS, Pack, PackDataset, PackTrial
from server.portability.packs import PackError
from trainers.contract.fields import space_of
from trainers.contract.metrics import METRICS
from trainers.contract.presets import preset
from trainers.contract.regular_files import open_regular
from trainers.contract.space import Config, Space, SpaceError
from trainers.contract.specs import SPECS
from trainers.data import Dataset

OPTUNA = "optuna://"
FORM = "optuna://sqlite:///FILE?study=NAME"
_TABLES = {"studies", "study_directions", "trials", "version_info", "alembic_version"}
_MOST_NAMES = 10


@dataclass(frozen=True)
class OptunaStudy:
    """A study as a pack, and what of it was left out."""

    pack: Pack
    unknown: tuple[str, ...]
    """Parameters that are no fields of the backbone; trials keep the default of every field that they do not set."""
    dropped: tuple[str, ...]
    """One line for each reason for which trials were left out, with their number."""


@dataclass
class _LeftOut:
    unknown: dict[str, None] = field(default_factory=dict[str, None])
    dropped: Counter[str] = field(default_factory=Counter[str])


def read(address: str, dataset: Dataset, backbone: str, metric: str) -> OptunaStudy:
    """The finished trials of `optuna://STORAGE?study=NAME` as trainings on `dataset`, scored by `metric`.

    Parameters become fields of the same name; a field that a trial does not set keeps the dataset's default. A trial
    whose values are not allowed here is dropped and counted. Raises PackError.
    """
    if backbone not in SPECS:
        raise PackError(f"--backbone: there is no {backbone!r}; there are {', '.join(SPECS)}.")
    if metric not in METRICS:
        raise PackError(f"--metric: {metric!r} is not measured here; there are {', '.join(METRICS)}.")
    name, finished = _finished_trials(address, metric)
    space = space_of(SPECS[backbone], preset("strong", backbone, dataset.facts).model_dump())
    left_out = _LeftOut()
    trials = [
        PackTrial(
            dataset_hash=dataset.content_hash, backbone=backbone, filter_seen="unknown", trainer_version="optuna",
            config_hash=space.hash(config), config=config, seed=trial.number, scores={metric: trial.value},
        )
        for trial in finished
        if (config := _config(space, trial, metric, left_out)) is not None
    ]  # fmt: skip
    dropped = tuple(f"{_trials(count)}: {reason}" for reason, count in left_out.dropped.most_common())
    if not trials:
        why = "it has no finished trial" if not finished else f"of {_trials(len(finished))} none fits: {dropped[0]}"
        raise PackError(f"Study {name!r} cannot be imported: {why}. Nothing was imported.")
    about = PackDataset(dataset_hash=dataset.content_hash, name=dataset.name, facts=dataset.facts)
    pack = Pack(name=f"optuna {name}"[:128], datasets=(about,), trials=tuple(trials)).sealed()
    return OptunaStudy(pack, tuple(left_out.unknown), dropped)


def _config(space: Space, trial: Any, metric: str, left_out: _LeftOut) -> Config | None:
    """The default configuration with the parameters of a trial; None if the trial cannot be used, which is counted."""
    if trial.value is None or not 0 <= trial.value <= 1:  # a value that is NaN is in no range
        left_out.dropped[f"their value is no {metric}, which is a number from 0 to 1"] += 1
        return None
    fields = {known.name: known for known in space.fields}
    left_out.unknown.update(dict.fromkeys(_short(name) for name in trial.params if name not in fields))
    values = {name: value for name, value in trial.params.items() if name in fields}
    for name, value in values.items():
        try:
            fields[name].check(value)
        except (SpaceError, OverflowError):
            left_out.dropped[f"{name} is {fields[name].allowed()} here, and their value is not"] += 1
            return None
    if not values:
        left_out.dropped[f"they set no field of {space.backbone}"] += 1
        return None
    try:
        return space.apply(space.default(), values)
    except SpaceError as error:
        left_out.dropped[str(error).rstrip(".")] += 1
        return None


def _finished_trials(address: str, metric: str) -> tuple[str, Sequence[Any]]:
    """The name of the study at an address and its finished trials. Raises PackError."""
    try:
        import optuna
        from sqlalchemy import create_engine, inspect, text
        from sqlalchemy.engine import make_url
    except ImportError:
        raise PackError("Reading a study of Optuna needs it: pip install 'virtualmle[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage, name = _parts(address)
    shown = repr(storage)
    try:
        url = make_url(storage)
        shown, options = repr(url.render_as_string(hide_password=True)), dict[str, Any]()
        if url.get_backend_name() == "sqlite":
            shown = repr(url.database or "")
            url, options = make_url("sqlite:///study"), {"creator": _read_only(url.database, shown)}
        engine = create_engine(url, **options)
        try:
            if _TABLES - set(inspect(engine).get_table_names()):
                raise PackError(f"{shown} is no storage of Optuna: name the file or database that holds the study.")
            opened = optuna.storages.RDBStorage(url.render_as_string(hide_password=False), options)
            try:
                chosen = _chosen(name, [study.study_name for study in opened.get_all_studies()], shown)
                number = opened.get_study_id_from_name(chosen)
                with engine.connect() as connection:
                    query = text("SELECT count(*) FROM trials WHERE study_id = :number")
                    count = int(connection.execute(query, {"number": number}).scalar_one())
                directions = [direction.name.lower() for direction in opened.get_study_directions(number)]
                _check_study(chosen, directions, count, metric)
                complete = (optuna.trial.TrialState.COMPLETE,)
                return chosen, opened.get_all_trials(number, deepcopy=False, states=complete)
            finally:
                opened.engine.dispose()
        finally:
            engine.dispose()
    except PackError:
        raise
    except Exception as error:  # a driver of a database may raise anything: the user chose the address
        raise PackError(f"The study in {shown} cannot be read: {_reason(error)}. Nothing was imported.") from None


def _parts(address: str) -> tuple[str, str | None]:
    """The storage's URL, and the study's name where the address has one. Raises PackError."""
    plain = address.removeprefix(OPTUNA)
    storage, _, query = plain.partition("?")
    if not urlsplit(storage).scheme:
        raise PackError(f"{address!r} names no storage: write {FORM}.")
    return storage, next(iter(parse_qs(query).get("study", [])), None)


def _read_only(database: str | None, shown: str) -> Callable[[], sqlite3.Connection]:
    """Opens a file of SQLite for reading only. Raises PackError where there is no such file."""
    if not database or database == ":memory:":
        raise PackError(f"The address names no file: write {FORM}.")
    path = Path(database).expanduser().absolute()
    try:
        with open_regular(path.resolve()) as file:
            head = file.read(16)
    except FileNotFoundError:
        raise PackError(f"There is no file {shown}: name the one that holds the study, as in {FORM}.") from None
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PackError(f"{shown} cannot be read: {reason}.") from None
    if head != b"SQLite format 3\0":
        raise PackError(f"{shown} is no database of SQLite: name the file that holds the study.")
    address = f"file:{quote(str(path))}?mode=ro"
    return lambda: sqlite3.connect(address, uri=True, check_same_thread=False)


def _chosen(name: str | None, names: list[str], shown: str) -> str:
    listed = ", ".join(repr(known) for known in names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    if name is None and len(names) == 1:
        return names[0]
    if not names:
        raise PackError(f"{shown} holds no study.")
    if name is None:
        raise PackError(f"{shown} holds {len(names)} studies: name one with ?study=NAME; there are {listed}.")
    if name not in names:
        raise PackError(f"{shown} holds no study {name!r}; there are {listed}.")
    return name


def _check_study(name: str, directions: list[str], trials: int, metric: str) -> None:
    if len(directions) != 1:
        raise PackError(
            f"Study {name!r} has {len(directions)} values for each trial; import one with a single {metric}."
        )
    if directions != ["maximize"]:
        raise PackError(f"Study {name!r} does not maximise its value, so that is no {metric}: nothing was imported.")
    if trials > MOST_TRIALS:
        raise PackError(f"Study {name!r} has {trials:,} trials, and at most {MOST_TRIALS:,} are imported.")


def _reason(error: Exception) -> str:
    """What went wrong, without the names and links of the libraries that said it."""
    if isinstance(error, ImportError) or type(error).__name__ == "NoSuchModuleError":
        return "the driver for this kind of database is not installed"
    original = getattr(error, "orig", None) or error  # the driver's own error, where another one holds it
    text = " ".join(str(original).split())[:200].rstrip(".")
    return "its address is not understood" if not text or "sqlalchemy" in text.lower() else text


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:40] + "…"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count:,} trials"
