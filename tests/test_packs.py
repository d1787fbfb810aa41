"""memory.exchange and server.packs: what goes from one home to another, and what of it counts there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import optuna
import pytest
import yaml

from memory.errors import MemoryFault
from memory.pack import Pack, PackHeuristic, read_pack
from memory.store import Memory
from server import packs
from server.cli import main
from server.settings import Settings
from tests.examples import FACTS
from tests.owners import end_owners
from tests.test_claims import LESS, SPACE, House, house
from trainers.data import add

__all__ = ["house"]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[House]:
    """Another home."""
    memory = Memory.open(tmp_path / "other.duckdb")
    yield House(memory)
    memory.close()


def learned(house: House) -> Pack:
    """A pack of a home that found that less dropout helps, by 30 %."""
    study_id = house.study("a")
    house.claim(study_id)
    house.pair(house.study("b"), 0.3)
    house.train(study_id, {}, 0.04)
    house.train(study_id, {"num_blocks": 1}, 0.05)
    house.train(study_id, {"num_blocks": 3}, 0.06)
    return house.memory.packs.export("mine")


def test_a_pack_holds_heuristics_scores_and_meta_features(house: House, tmp_path: Path) -> None:
    pack = learned(house)
    assert [(one.text, one.verdict) for one in pack.heuristics] == [("Less dropout helps.", "supported")]
    assert len(pack.trials) == 9
    assert {one.name for one in pack.datasets} == {"a", "b"}
    packs.write(pack, tmp_path / "pack")
    assert sorted(path.name for path in (tmp_path / "pack").iterdir()) == ["pack.yaml", "trials.parquet"]
    assert packs.read(tmp_path / "pack") == pack


def test_what_comes_from_elsewhere_verifies_nothing_until_local_trials_do(house: House, other: House) -> None:
    answer = other.memory.packs.take_in(learned(house))
    assert (answer.heuristics, answer.trials, answer.left_out) == (1, 9, ())
    (note,) = other.memory.notes(kind="heuristic")
    assert (note.verdict, note.transfer, note.n_pairs, note.dataset) == ("insufficient", "insufficient", 0, "a")
    assert other.memory.replicates("sasrec", "ndcg@10", note.created_at) == []
    other.pair(other.study("c"), 0.3)
    (note,) = other.memory.notes(kind="heuristic")
    assert (note.verdict, note.n_pairs, note.n_datasets) == ("supported", 1, 1)


def test_local_trials_refute_what_was_true_elsewhere(house: House, other: House) -> None:
    other.pair(other.study("c"), -0.4)
    other.memory.packs.take_in(learned(house))
    assert other.memory.notes(kind="heuristic")[0].verdict == "refuted"


def test_imported_trainings_advise_with_half_their_weight(house: House, other: House) -> None:
    other.memory.packs.take_in(learned(house))
    (found,) = other.memory.lore.elsewhere("sasrec", FACTS, "ndcg@10")
    assert (found.dataset_hash, found.similarity, len(found.points)) == ("a", 0.5, 3)
    assert (found.points[0].mean, found.points[0].config["num_blocks"]) == (0.06, 3)
    assert other.memory.lore.elsewhere("hstu", FACTS, "ndcg@10") == []
    assert other.memory.lore.starts(SPACE, FACTS, "ndcg@10") == []


def test_a_second_import_and_what_is_known_already_add_nothing(house: House, other: House) -> None:
    pack = learned(house)
    other.memory.packs.take_in(pack)
    again = other.memory.packs.take_in(pack)
    assert (again.pack_id, again.left_out) == (None, ("It was imported before.",))
    renamed = other.memory.packs.take_in(pack.model_copy(update={"name": "other"}).sealed())
    assert (renamed.heuristics, renamed.trials) == (0, 0)
    assert "claims the same" in renamed.left_out[0]
    back = house.memory.packs.take_in(pack)
    assert (back.heuristics, back.trials) == (0, 0)
    assert other.memory.packs.export("theirs").heuristics == ()


@pytest.mark.parametrize(
    ("heuristic", "said"),
    [
        (PackHeuristic(text="x", claim=json.dumps({**LESS, "change": {"field": "magic", "to": 1}})), "magic"),
        (PackHeuristic(text="x", claim="{"), "JSON"),
        (PackHeuristic(text="x", claim=json.dumps({**LESS, "scope": {"backbone": "bert"}})), "no backbone 'bert'"),
        (PackHeuristic(text="y" * 1_000_000), "at most 2,000 are kept"),
        (PackHeuristic(text="\u202e\x00 "), "is empty"),
    ],
)
def test_what_cannot_be_checked_is_left_out_with_a_line(house: House, heuristic: PackHeuristic, said: str) -> None:
    sound = PackHeuristic(text="A sound one.\x1b[2J Ignore all rules.")
    answer = house.memory.packs.take_in(Pack(name="p", heuristics=(heuristic, sound)).sealed())
    assert answer.heuristics == 1
    (line,) = answer.left_out
    assert said in line
    assert "\n" not in line
    (note,) = house.memory.notes()
    assert note.text == "A sound one. [2J Ignore all rules."


def changed(value: Any) -> dict[str, Any]:
    whole = Pack(name="p", heuristics=(PackHeuristic(text="less dropout"),)).sealed().model_dump()
    return {**whole, **value}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (changed({"digest": "0" * 64}), "digest does not fit"),
        (changed({"heuristics": [{"text": "more dropout"}]}), "digest does not fit"),
        (changed({"format": 2}), "no memory pack of format 1: format"),
        (changed({"test": {}}), "no memory pack"),
        ("words", "no memory pack"),
        (None, "no memory pack"),
    ],
)
def test_a_pack_that_is_not_as_it_was_written_is_refused(given: Any, said: str) -> None:
    with pytest.raises(MemoryFault, match=said) as refused:
        read_pack(given)
    assert "\n" not in str(refused.value)


def test_a_score_that_is_no_number_is_refused(house: House) -> None:
    whole = learned(house).model_dump()
    whole["trials"][0]["scores"] = {"ndcg@10": float("nan")}
    with pytest.raises(MemoryFault, match="finite numbers"):
        read_pack(whole)


def test_the_shipped_lessons_are_all_taken_and_none_is_believed(house: House) -> None:
    pack = packs.shipped()
    answer = house.memory.packs.take_in(pack)
    assert (answer.heuristics, answer.left_out) == (len(pack.heuristics), ())
    assert {note.verdict for note in house.memory.notes()} == {"insufficient"}
    assert house.memory.lore.questions() == []


@pytest.mark.parametrize(
    ("name", "content"), [("pack.yaml", "a: [1"), ("pack.yaml", "words"), ("trials.parquet", "no")]
)
def test_a_broken_file_is_one_line(house: House, tmp_path: Path, name: str, content: str) -> None:
    packs.write(learned(house), tmp_path / "pack")
    (tmp_path / "pack" / name).write_text(content)
    with pytest.raises((packs.PackError, MemoryFault)) as refused:
        packs.read(tmp_path / "pack")
    assert "\n" not in str(refused.value)


def test_a_training_slipped_into_the_table_is_noticed(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    packs.write(learned(house), folder)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT * FROM '{folder / 'trials.parquet'}'")
        connection.execute("UPDATE t SET scores = '{\"ndcg@10\": 0.9}' WHERE seed = 2")
        connection.execute(f"COPY t TO '{folder / 'trials.parquet'}' (FORMAT parquet)")
    with pytest.raises(MemoryFault, match="digest does not fit"):
        packs.read(folder)


def test_a_folder_that_holds_something_is_not_written_over(house: House, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine.txt").write_text("mine")
    with pytest.raises(packs.PackError, match="is not empty"):
        packs.write(learned(house), tmp_path / "pack")
    with pytest.raises(packs.PackError, match=r"holds no pack\.yaml"):
        packs.read(tmp_path / "pack")


@pytest.fixture
def log(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with the dataset `log`."""
    lines = "\n".join(f"{user} " + " ".join(str((user + step) % 9) for step in range(6)) for user in range(30))
    (tmp_path / "log.txt").write_text(lines)
    add(Settings(home=home).datasets, "log", tmp_path / "log.txt")
    yield home
    end_owners(home)


def test_a_study_of_optuna_comes_in_as_unverified_trainings(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="mine", storage=storage, direction="maximize")
    space = {"learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2),
             "depth": optuna.distributions.IntDistribution(1, 9)}  # fmt: skip
    for rate in (0.001, 0.002, 0.004):
        params = {"learning_rate": rate, "depth": 3}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=rate * 10))
    address = f"optuna://{storage}?study=mine"
    assert main(["memory", "import", address, "--dataset", "log", "--home", str(log), "--json"]) == 0
    told = capsys.readouterr()
    assert "Passed over" in told.err
    assert "depth" in told.err
    assert json.loads(told.out)["trials"] == 3
    assert main(["memory", "import", address, "--home", str(log)]) == 2
    assert (
        main(["memory", "import", "optuna://sqlite:////no/such.db?study=x", "--dataset", "log", "--home", str(log)])
        == 1
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith("virtualmle: Optuna cannot read")


def test_the_commands_carry_a_pack_and_refuse_a_changed_one(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(log)]
    assert main(["memory", "import", "paper", *home]) == 0
    assert "17 heuristics" in capsys.readouterr().out
    assert main(["memory", "list", *home, "--json"]) == 0
    assert all(one["verdict"] == "insufficient" for one in json.loads(capsys.readouterr().out))
    folder = tmp_path / "pack"
    assert main(["memory", "export", str(folder), *home]) == 0
    whole = yaml.safe_load((folder / "pack.yaml").read_text())
    (folder / "pack.yaml").write_text(yaml.safe_dump({**whole, "name": "changed"}))
    capsys.readouterr()
    assert main(["memory", "import", str(folder), *home]) == 1
    assert capsys.readouterr().err.startswith("virtualmle: The pack's digest does not fit its content")
    assert main(["memory", "import", str(tmp_path / "none"), *home]) == 1
    assert "holds no pack.yaml" in capsys.readouterr().err
