"""replay.json: the file that marks a home whose trainings come from recorded tables. The mark is never removed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from server.settings import Settings
from trainers.contract.regular_files import read_regular

REPLAY_FILE = "replay.json"
REPLAY_VERSION = "replay"
"""The key in the `versions` of a replayed trial that says where its numbers come from: RECORDED or SIMULATED."""
RECORDED = "recorded"
SIMULATED = "simulated seed"
"""The seed was not recorded: the scores are drawn around the mean of those that were."""


class ReplayHomeError(RuntimeError):
    """A home cannot be opened as it was asked to: as a replay home, or as one that trains. The message says why."""


class ReplayHome(BaseModel):
    """What a replay home replays.

    `tables` is the folder of the tables, `digest` the hash of its trainings.parquet. `datasets` holds the content hash
    of each dataset, by its name in the tables.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    tables: Path
    digest: str
    datasets: dict[str, str]


def replay_file(settings: Settings) -> Path:
    """The path of the mark, whether it is there or not."""
    return settings.home / REPLAY_FILE


def read_replay_home(settings: Settings) -> ReplayHome | None:
    """What the home replays; None for a home that trains. Raises ReplayHomeError where the mark cannot be read."""
    path = replay_file(settings)
    try:
        return ReplayHome.model_validate_json(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror or str(error)
        raise ReplayHomeError(
            f"{path} marks a replay home and cannot be read: {reason}. Name another home with --home."
        ) from None


def write_replay_home(settings: Settings, replay: ReplayHome) -> None:
    """Marks the home, atomically. Raises OSError."""
    path = replay_file(settings)
    part = path.with_suffix(".part")
    part.write_text(replay.model_dump_json(indent=1) + "\n", encoding="utf-8")
    part.replace(path)
