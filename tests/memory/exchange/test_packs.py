"""Packs: what goes from one home to another, and what of it counts there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from memory.errors import MemoryFault
from memory.exchange.pack_format import Pack, PackHeuristic, read_pack
from memory.store import Memory
from server.cli.main import main
from server.portability import packs
from server.settings import Settings
from tests.support.claims import LESS, SPACE, House, house
from tests.support.examples import FACTS
from trainers.external import registry

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
    (found,) = other.memory.advice.elsewhere("sasrec", FACTS, "ndcg@10")
    assert (found.dataset_hash, found.similarity, len(found.points)) == ("a", 0.5, 3)
    assert (found.points[0].mean, found.points[0].config["num_blocks"]) == (0.06, 3)
    assert other.memory.advice.elsewhere("hstu", FACTS, "ndcg@10") == []
    assert other.memory.advice.starts(SPACE, FACTS, "ndcg@10") == []


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


UNFIT = [
    (PackHeuristic(text="x", claim=json.dumps({**LESS, "change": {"field": "magic", "to": 1}})), "magic"),
    (
        PackHeuristic(text="x", claim=json.dumps({**LESS, "change": {"field": "dropout", "to": 10**400}})),
        "heuristic 'x'",
    ),
    (PackHeuristic(text="x", claim="{"), "JSON"),
    (PackHeuristic(text="x", claim=json.dumps({**LESS, "scope": {"backbone": "bert"}})), "no backbone 'bert'"),
    (PackHeuristic(text="x", backbone="bert"), "0 trainings and 1 heuristic of the backbone 'bert', which is not here"),
    (PackHeuristic(text="y" * 1_000_000), "at most 2,000 are kept"),
    (PackHeuristic(text="\u202e\x00 "), "is empty"),
    (PackHeuristic(text="x", claim="[" * 1500 + "]" * 1500), "text that is not JSON"),
]


def everything_in(house: House) -> list[list[Any]]:
    """The rows of every table that an import may write, but the quarantine."""
    tables = ("notes", "packs", "pack_notes", "pack_datasets", "pack_trials", "claim_states")
    with house.memory._connection.read() as cursor:
        return [cursor.rows(f"SELECT * FROM {table}") for table in tables]


@pytest.mark.parametrize(("heuristic", "reason"), UNFIT)
def test_a_pack_with_a_heuristic_that_cannot_be_read_is_quarantined_as_a_whole(
    house: House, heuristic: PackHeuristic, reason: str
) -> None:
    before = everything_in(house)
    pack = Pack(name="p", heuristics=(PackHeuristic(text="A sound one."), heuristic)).sealed()
    answer = house.memory.packs.take_in(pack)
    assert (answer.pack_id, answer.heuristics, answer.trials, answer.left_out) == (None, 0, 0, ())
    (line,) = answer.quarantined
    assert reason in line
    assert "\n" not in line
    assert everything_in(house) == before
    (listed,) = house.memory.packs.all()
    assert (listed.name, listed.digest, listed.heuristics, listed.quarantined) == ("p", pack.digest, 0, (line,))


def test_texts_from_elsewhere_are_cut_to_plain_characters(house: House) -> None:
    house.memory.packs.take_in(
        Pack(name="p", heuristics=(PackHeuristic(text="A sound one.\x1b[2J Ignore all."),)).sealed()
    )
    (note,) = house.memory.notes()
    assert note.text == "A sound one. [2J Ignore all."


def with_configs(pack: Pack, **values: Any) -> Pack:
    """The pack with `values` in one of its trainings."""
    first, *others = pack.trials
    config = {**first.config, **values.pop("config", {})}
    return pack.model_copy(
        update={"trials": (first.model_copy(update={"config": config, **values}), *others)}
    ).sealed()  # fmt: skip


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"backbone": "bert"}, "1 training and 0 heuristics of the backbone 'bert', which is not here"),
        ({"config": {"magic": 1}}, "sasrec has no field 'magic' here"),
        ({"config": {"dropout": 7.0}}, "sasrec: dropout=7.0 is not allowed here: dropout is 0 to 0.8"),
        ({"config": {"dropout": float("nan")}}, "sasrec: dropout=nan is not allowed here: dropout is 0 to 0.8"),
        ({"config": {"hidden_dim": 10**400}}, "sasrec: hidden_dim=a huge number is not allowed here"),
        ({"config": {"tie_embeddings": 1}}, "sasrec: tie_embeddings=1 is not allowed here"),
    ],
)
def test_a_pack_with_a_training_that_this_home_does_not_know_is_quarantined_as_a_whole(
    house: House, other: House, values: dict[str, Any], reason: str
) -> None:
    answer = other.memory.packs.take_in(with_configs(learned(house), **values))
    assert len(answer.quarantined) == 1
    assert answer.quarantined[0].startswith(reason)
    assert (other.memory.notes(), other.memory.advice.elsewhere("sasrec", FACTS, "ndcg@10")) == ([], [])
    assert [line.trials for line in other.memory.packs.all()] == [0]


def test_a_quarantined_pack_comes_in_once_the_home_knows_its_backbone(house: House, other: House) -> None:
    pack = with_configs(learned(house), backbone="mine", config={})
    assert other.memory.packs.take_in(pack).quarantined
    assert other.memory.packs.take_in(pack).quarantined
    assert len(other.memory.packs.all()) == 1
    mine = SPACE.model_copy(update={"backbone": "mine"})
    assert other.memory.packs.take_in(pack, {"mine": mine}).trials == 9
    (listed,) = other.memory.packs.all()
    assert (listed.heuristics, listed.trials, listed.quarantined) == (1, 9, ())


def test_of_many_reasons_the_first_are_said_and_the_others_counted(house: House) -> None:
    heuristics = tuple(PackHeuristic(text=f"{number}", backbone=f"b{number}") for number in range(30))
    answer = house.memory.packs.take_in(Pack(name="p", heuristics=heuristics).sealed())
    assert len(answer.quarantined) == 11
    assert answer.quarantined[-1] == "20 more"


def test_an_import_that_fails_midway_leaves_nothing(
    house: House, other: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise MemoryFault("the disk is full")

    before = everything_in(other)
    monkeypatch.setattr("memory.exchange.packs._add_trials", fail)
    with pytest.raises(MemoryFault, match="the disk is full"):
        other.memory.packs.take_in(learned(house))
    assert everything_in(other) == before
    assert other.memory.packs.all() == []


def test_a_pack_of_a_newer_format_is_quarantined_unread(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    packs.write(learned(house), folder)
    head = yaml.safe_load((folder / "pack.yaml").read_text())
    newer = {**head, "format": 2, "graphs": [{"nodes": 3}]}
    (folder / "pack.yaml").write_text(yaml.safe_dump(newer))
    (folder / "trials.parquet").write_text("in a form of tomorrow")
    answer = house.memory.packs.take_in(packs.read(folder))
    assert answer.quarantined == ("it has format 2, and this virtualmle reads formats up to 1",)
    assert [(line.name, line.quarantined) for line in house.memory.packs.all()] == [("mine", answer.quarantined)]


def changed(value: Any) -> dict[str, Any]:
    whole = Pack(name="p", heuristics=(PackHeuristic(text="less dropout"),)).sealed().model_dump()
    return {**whole, **value}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (changed({"digest": "0" * 64}), "digest does not fit"),
        (changed({"heuristics": [{"text": "more dropout"}]}), "digest does not fit"),
        (changed({"format": 0}), "no memory pack of format 1: format"),
        (changed({"format": 10**5_000}), "no memory pack of format 1: format"),
        (changed({"format": 2, "name": ""}), "no memory pack of format 1: name"),
        (changed({"test": {}}), "no memory pack"),
        (changed({"heuristics": [{"text": "half a character: \ud83d"}]}), "holds half a character"),
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
    assert house.memory.advice.questions() == []


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


@pytest.mark.parametrize("name", ["pack.yaml", "trials.parquet"])
def test_a_pipe_in_a_pack_holds_nobody_up(house: House, tmp_path: Path, name: str) -> None:
    packs.write(learned(house), tmp_path / "pack")
    (tmp_path / "pack" / name).unlink()
    os.mkfifo(tmp_path / "pack" / name)
    with pytest.raises(packs.PackError, match="it is not a regular file"):
        packs.read(tmp_path / "pack")


def test_a_folder_that_holds_something_is_not_written_over(house: House, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine.txt").write_text("mine")
    with pytest.raises(packs.PackError, match="is not empty"):
        packs.write(learned(house), tmp_path / "pack")
    with pytest.raises(packs.PackError, match=r"holds no pack\.yaml"):
        packs.read(tmp_path / "pack")


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


def test_the_commands_say_and_list_what_is_in_quarantine(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(log)]
    assert main(["memory", "packs", *home]) == 0
    assert capsys.readouterr().err == "No pack was imported yet; `virtualmle memory import` takes one.\n"
    space = Path(__file__).parents[3] / "examples" / "item_knn" / "space.yaml"
    packs.write(Pack(name="theirs", heuristics=(PackHeuristic(text="x", backbone="knn"),)).sealed(), tmp_path / "pack")
    assert main(["memory", "import", str(tmp_path / "pack"), *home]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(
        "virtualmle: Pack 'theirs' is quarantined, and nothing of it was imported: 0 trainings and 1 heuristic of the "
        "backbone 'knn', which is not here."
    )
    assert main(["memory", "packs", *home]) == 0
    assert "quarantined" in capsys.readouterr().out
    registry.add(Settings(home=log).trainers_dir, "knn", space)
    assert main(["memory", "import", str(tmp_path / "pack"), *home]) == 0
    capsys.readouterr()
    assert main(["memory", "packs", *home, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["heuristics"], listed["quarantined"]) == ("theirs", 1, [])
