"""Hostile files in a home: 2,000 of them, of every kind and in every place, are each answered in one line."""

import json
from pathlib import Path

import pytest

from benchmarks import fuzz_home
from benchmarks.hostile import files
from benchmarks.hostile.home import HostileHome
from trainers.contract.regular_files import remove


@pytest.mark.parametrize("unit", range(8))
def test_no_hostile_file_keeps_an_owner_from_its_work(unit: int) -> None:
    values = fuzz_home.run_unit(unit, seed=1)
    assert (values["inputs"], values["problems"]) == (fuzz_home.UNIT, "")


def test_an_input_that_fails_is_told_and_the_next_ones_are_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(self: HostileHome, target: str, draw: object) -> str:
        if target == "owner.json":
            raise RuntimeError("two\nlines")
        return "noise"

    monkeypatch.setattr(HostileHome, "attempt", fails)
    results = list(fuzz_home.inputs(0, seed=0, amount=len(HostileHome(tmp_path / "home").targets)))
    assert [(found["target"], found["problem"]) for found in results if found["problem"]] == [
        ("owner.json", "RuntimeError: two lines")
    ]


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units: list[int] = []

    def run_unit(unit: int, seed: int) -> dict[str, object]:
        units.append(unit)
        return {"inputs": 250, "failed": 0, "died": 0, "problems": "", "died_at": json.dumps({})}

    monkeypatch.setattr(fuzz_home, "run_unit", run_unit)
    words = ["--inputs", "500", "--rows", str(tmp_path / "rows.jsonl")]
    assert [fuzz_home.main(words), fuzz_home.main(words)] == [0, 0]
    assert units == [0, 1]


def test_every_kind_of_hostile_file_can_be_left_and_removed(tmp_path: Path) -> None:
    from random import Random

    kinds: set[str] = set()
    for number in range(400):
        path = tmp_path / "file.json"
        path.write_text('{"a": [1, {"b": 2}]}')
        kinds.add(files.leave(path, Random(number)))
        remove(path)
        assert list(tmp_path.iterdir()) == []
    assert len(kinds) == 16
