"""Memory packs as files: a folder with pack.yaml and trials.parquet, or the shipped pack."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import duckdb
import yaml

from memory.exchange.pack_format import FORMAT, NewerPack, Pack, format_of, read_pack
from trainers.contract.regular_files import MOST_ARRAYS, MOST_TEXT, open_regular, read_regular

YAML, PARQUET = "pack.yaml", "trials.parquet"
SHIPPED = "paper"


class PackError(RuntimeError):
    """A pack cannot be read or written; the message is one line that says what to do."""


def write(pack: Pack, folder: Path) -> None:
    """Writes a pack to a new or empty folder. pack.yaml comes last: without it there is no pack. Raises PackError."""
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
            for trial in pack.trials:
                texts = {"config": json.dumps(trial.config), "scores": json.dumps(trial.scores)}
                file.write(json.dumps({**trial.model_dump(), **texts}) + "\n")
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


def read(folder: Path) -> Pack | NewerPack:
    """The pack in a folder. Raises PackError or MemoryFault if it is missing or was changed after it was written.

    The trainings of a pack with a newer format are not read.
    """
    try:
        text = read_regular(folder / YAML, MOST_TEXT).decode("utf-8")
        head: dict[str, Any] | Any = yaml.safe_load(text)
        newer = format_of(head) > FORMAT
        trials = [] if newer or not os.path.lexists(folder / PARQUET) else list(_trials(folder / PARQUET))
    except (FileNotFoundError, NotADirectoryError):
        raise PackError(f"{folder} holds no {YAML}; name the folder that `virtualmle memory export` wrote.") from None
    except (OSError, yaml.YAMLError, duckdb.Error, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise PackError(f"The pack in {folder} cannot be read: {reason[:300]}") from error
    if newer or not isinstance(head, dict):
        return read_pack(head)
    return read_pack({**cast(dict[str, Any], head), "trials": trials})


def _trials(path: Path) -> Iterator[dict[str, Any]]:
    open_regular(path, MOST_ARRAYS).close()
    with duckdb.connect() as connection:
        result = connection.execute(f"SELECT * FROM read_parquet({_quoted(path)})")
        names = [column[0] for column in result.description or ()]
        for row in result.fetchall():
            values = dict(zip(names, row, strict=True))
            yield {**values, "config": json.loads(values["config"]), "scores": json.loads(values["scores"])}


def shipped() -> Pack:
    """The heuristics from the paper's release, as claims that nothing in this home has verified."""
    text = (files("memory.exchange") / "shipped" / f"{SHIPPED}.yaml").read_text(encoding="utf-8")
    return Pack.model_validate(yaml.safe_load(text)).sealed()
