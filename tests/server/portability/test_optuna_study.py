"""Studies of Optuna: what of them comes in, and what is said of those that cannot be read."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from memory.exchange.pack_format import PackTrial
from server.cli.main import main
from server.portability import optuna_study
from server.portability.packs import PackError
from server.settings import Settings
from trainers.contract.fields import space_of
from trainers.contract.presets import preset
from trainers.contract.specs import SPECS
from trainers.data import Dataset, find

Direction = Literal["minimize", "maximize"]
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-6, 1e3), "dropout": FloatDistribution(0, 10), "depth": IntDistribution(1, 9),
    "hidden_dim": IntDistribution(1, 10**6), "pooling": CategoricalDistribution(("last", "max")),
    "num_negatives": IntDistribution(1, 4096),
}  # fmt: skip


@pytest.fixture
def dataset(log: Path) -> Dataset:
    return find(Settings(home=log).datasets_dir, "log")


def stored(
    path: Path,
    *trials: tuple[float, dict[str, Any]],
    name: str = "mine",
    directions: Sequence[Direction] = ("maximize",),
) -> str:
    """A study with finished trials in a file of SQLite; returns its address."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    for value, params in trials:
        distributions = {key: SPACE[key] for key in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    storage.engine.dispose()
    return f"optuna://sqlite:///{path}?study={name}"


def refusal(address: str, dataset: Dataset, **given: str) -> str:
    with pytest.raises(PackError) as refused:
        optuna_study.read(address, dataset, **({"backbone": "sasrec", "metric": "ndcg@10"} | given))
    message = str(refused.value)
    assert "\n" not in message
    assert not any(word in message.lower() for word in ("sqlalche", "sqlite3.", "traceback", "experiment", " run "))
    return message


def test_finished_trials_come_in_as_unverified_trainings(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = (0.001, 0.002, 0.004)
    address = stored(tmp_path / "optuna.db", *((rate * 10, {"learning_rate": rate, "depth": 3}) for rate in rates))
    assert main(["memory", "import", address, "--dataset", "log", "--home", str(log), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "Passed over, since sasrec has no such field: depth.\n" in err
    assert json.loads(out)["trials"] == 3
    assert main(["memory", "import", address, "--home", str(log)]) == 2


def test_trials_whose_values_are_not_allowed_here_are_dropped_and_counted(dataset: Dataset, tmp_path: Path) -> None:
    address = stored(
        tmp_path / "optuna.db",
        (0.3, {"learning_rate": 0.002}),
        (0.3, {"learning_rate": 900.0}),
        (0.3, {"dropout": 9.0, "learning_rate": 0.002}),
        (0.3, {"hidden_dim": 10**6}),
        (0.3, {"pooling": "max"}),
        (0.3, {"num_negatives": 8}),  # of no effect with the default loss
        (0.3, {"depth": 3}),
        (37.5, {"learning_rate": 0.002}),
        (math.inf, {"learning_rate": 0.002}),
        (-0.1, {"learning_rate": 0.002}),
    )
    study = optuna_study.read(address, dataset, "sasrec", "ndcg@10")
    space = space_of(SPECS["sasrec"], preset("strong", "sasrec", dataset.facts).model_dump())
    config = space.apply(space.default(), {"learning_rate": 0.002})
    assert study.pack.trials == (
        PackTrial(
            dataset_hash=dataset.content_hash, backbone="sasrec", filter_seen="unknown", trainer_version="optuna",
            config_hash=space.hash(config), config=config, seed=0, scores={"ndcg@10": 0.3},
        ),
    )  # fmt: skip
    assert study.unknown == ("depth",)
    assert study.dropped[0] == "3 trials: their value is no ndcg@10, which is a number from 0 to 1"
    assert set(study.dropped[1:5]) == {
        "1 trial: learning_rate is 1e-05 to 0.01 (log scale) here, and their value is not",
        "1 trial: dropout is 0 to 0.8 here, and their value is not",
        "1 trial: hidden_dim is 16 to 512 (log scale) here, and their value is not",
        '1 trial: pooling is one of "last", "mean" here, and their value is not',
    }
    assert [line[:40] for line in study.dropped[5:]] == [
        "1 trial: num_negatives has no effect her", "1 trial: they set no field of sasrec",
    ]  # fmt: skip


def test_a_path_that_is_not_there_creates_no_file(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert refusal(f"optuna://sqlite:///{path}?study=x", dataset).startswith(f"There is no file '{path}': name the one")
    assert not path.exists()
    assert refusal("optuna://sqlite://?study=x", dataset).startswith("The address names no file: write optuna://sqlite")
    assert refusal("optuna://nothing", dataset).startswith("'optuna://nothing' names no storage")


def test_a_file_that_holds_no_study_is_refused_and_stays_as_it_is(dataset: Dataset, tmp_path: Path) -> None:
    text, foreign = tmp_path / "notes.txt", tmp_path / "foreign.db"
    text.write_text("words, and not a few of them")
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    before = {path: path.read_bytes() for path in (text, foreign)}
    assert "is no database of SQLite" in refusal(f"optuna://sqlite:///{text}?study=x", dataset)
    assert "is no storage of Optuna" in refusal(f"optuna://sqlite:///{foreign}?study=x", dataset)
    assert "is not a regular file" in refusal(f"optuna://sqlite:///{tmp_path}?study=x", dataset)
    assert {path: path.read_bytes() for path in (text, foreign)} == before
    foreign.write_bytes(before[foreign][:1000])
    assert "foreign.db" in refusal(f"optuna://sqlite:///{foreign}?study=x", dataset)


def test_a_file_is_only_read_even_with_signs_of_a_url_in_its_name(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "50% of {mine}, #1.db"
    stored(tmp_path / "plain.db", (0.3, {"learning_rate": 0.002}))
    (tmp_path / "plain.db").rename(path)
    address = f"optuna://sqlite:///{path}?study=mine"
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert len(optuna_study.read(address, dataset, "sasrec", "ndcg@10").pack.trials) == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [found for found in tmp_path.iterdir() if found.name.startswith("50%")] == [path]


def test_a_study_that_does_not_fit_is_refused_in_words_of_ours(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "optuna.db"
    good = stored(path, (0.3, {"learning_rate": 0.002}), (0.3, {"learning_rate": 0.003}))
    lower = stored(path, name="lower", directions=("minimize",))
    two = stored(path, name="two", directions=("maximize", "maximize"))
    empty = stored(path, name="empty")
    useless = stored(path, (0.3, {"depth": 1}), name="useless")
    assert refusal(lower, dataset).startswith("Study 'lower' does not maximise its value, so that is no ndcg@10")
    assert refusal(two, dataset).startswith("Study 'two' has 2 values for each trial")
    assert refusal(empty, dataset).startswith("Study 'empty' cannot be imported: it has no finished trial.")
    assert "of 1 trial none fits: 1 trial: they set no field of sasrec" in refusal(useless, dataset)
    listed = "there are 'empty', 'lower', 'mine', 'two', 'useless'"
    assert refusal(f"optuna://sqlite:///{path}?study=other", dataset).startswith(f"'{path}' holds no study 'other'; ")
    assert refusal(f"optuna://sqlite:///{path}", dataset).startswith(f"'{path}' holds 5 studies: name one")
    assert all(name in refusal(f"optuna://sqlite:///{path}", dataset) for name in listed[10:].split(", "))
    assert refusal(good, dataset, backbone="bert").startswith("--backbone: there is no 'bert'; there are sasrec, hstu")
    assert refusal(good, dataset, metric="loss").startswith("--metric: 'loss' is not measured here")
    monkeypatch.setattr(optuna_study, "MOST_TRIALS", 1)
    assert refusal(good, dataset) == "Study 'mine' has 2 trials, and at most 1 are imported."


def test_a_study_without_a_name_is_taken_where_there_is_only_one(dataset: Dataset, tmp_path: Path) -> None:
    stored(tmp_path / "optuna.db", (0.3, {"learning_rate": 0.002}))
    address = f"optuna://sqlite:///{tmp_path / 'optuna.db'}"
    assert optuna_study.read(address, dataset, "sasrec", "ndcg@10").pack.name == "optuna mine"


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(dataset: Dataset) -> None:
    message = refusal("optuna://mysql+nothing://ann:secret@localhost/db?study=x", dataset)
    assert message == (
        "The study in 'mysql+nothing://ann:***@localhost/db' cannot be read: the driver for this kind of database is "
        "not installed. Nothing was imported."
    )


def test_without_optuna_the_way_to_have_it_is_said(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'virtualmle[search]'" in refusal(f"optuna://sqlite:///{tmp_path / 'a.db'}", dataset)
