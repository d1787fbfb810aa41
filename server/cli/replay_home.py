"""--replay DIR: makes or opens a home whose trainings come from recorded tables, apart from all other homes."""

from __future__ import annotations

import time
from pathlib import Path

from server.client.home import find_owner, make_home, take_lock
from server.replay.marker import ReplayHome, ReplayHomeError, read_replay_home, replay_file, write_replay_home
from server.settings import Settings, load_settings

DEFAULT_HOME = "virtualmle-replay"
"""The folder of user data that is a replay home by default, so that no home for real trainings becomes one unasked."""
_LOCK_SECONDS = 15.0
_POLL_SECONDS = 0.05


def home_for(home: Path | None, tables: Path | None) -> Settings:
    """The settings of the home that a command opens; with `tables`, a replay home, which is made where it is new.

    Raises ReplayHomeError where the home is of the other kind or replays other tables, and TableError, DataError,
    HomeError or SettingsError.
    """
    if tables is not None:
        settings = load_settings(home, application=DEFAULT_HOME)
        open_replay_home(settings, tables)
        return settings
    settings = load_settings(home)
    replay = read_replay_home(settings)
    if replay is not None:
        raise ReplayHomeError(
            f"{settings.home} is a replay home: nothing is trained in it. Add --replay {replay.tables} to go on with "
            "it, or name another home with --home."
        )
    return settings


def open_replay_home(settings: Settings, tables: Path) -> None:
    """Marks a new home as one that replays `tables`, with their datasets; checks one that is marked already."""
    tables = tables.expanduser().absolute()
    replay = read_replay_home(settings)
    if replay is None:
        _refuse_real_home(settings)
        replay = _new(settings, tables)
        _mark(settings, replay)
        replay = read_replay_home(settings) or replay
    _check_same(settings, replay, tables)


def _refuse_real_home(settings: Settings) -> None:
    if settings.database.exists() or find_owner(settings) is not None:
        raise ReplayHomeError(
            f"{settings.home} is a home for real trainings, and a replay home is kept apart from those: name a new "
            "folder with --home."
        )


def _new(settings: Settings, tables: Path) -> ReplayHome:
    """What the home will replay, with the datasets imported. Raises TableError, DataError or HomeError."""
    from server.replay.tables import check, digest
    from trainers.data import add

    files = check(tables)  # before the home is made: a refused folder leaves nothing behind
    make_home(settings)
    hashes = {name: add(settings.datasets_dir, name, path).content_hash for name, path in files.items()}
    return ReplayHome(tables=tables, digest=digest(tables), datasets=hashes)


def _mark(settings: Settings, replay: ReplayHome) -> None:
    """Writes the mark while no owner has the home. An owner that starts meanwhile finds it, or this finds the owner."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while not replay_file(settings).exists():
        if (lock := take_lock(settings)) is not None:
            with lock:
                _refuse_real_home(settings)
                if not replay_file(settings).exists():
                    write_replay_home(settings, replay)
            return
        if time.monotonic() > deadline:
            raise ReplayHomeError(f"{settings.home} is in use by another process; name another home with --home.")
        time.sleep(_POLL_SECONDS)


def _check_same(settings: Settings, replay: ReplayHome, tables: Path) -> None:
    """Raises ReplayHomeError where the home began with other tables. Tables that were only moved are followed."""
    from server.replay.tables import digest

    if digest(tables) != replay.digest:
        raise ReplayHomeError(
            f"{settings.home} replays other trainings than those in {tables}, and a replay home keeps to one table: "
            "name a new home with --home."
        )
    _import_missing(settings, replay, tables)
    if tables != replay.tables:
        write_replay_home(settings, replay.model_copy(update={"tables": tables}))


def _import_missing(settings: Settings, replay: ReplayHome, tables: Path) -> None:
    """Imports again what was removed from the home."""
    from trainers.data import add

    for name in replay.datasets:
        if not (settings.datasets_dir / name / "dataset.json").is_file():
            add(settings.datasets_dir, name, tables / f"{name}.txt")
