"""benchmarks.importing: both versions import the same log, in turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import importing
from benchmarks.harness.machine import ROOT
from trainers.data import add


def test_a_log_has_as_many_rows_as_asked_for_and_all_of_them_are_read(tmp_path: Path) -> None:
    importing.write_log(tmp_path / "log.csv", 2_000)
    report = add(tmp_path / "datasets", "log", tmp_path / "log.csv").report
    assert report.rows_read == 2_000
    assert sum(report.dropped.values()) < 200


def test_two_versions_are_measured_in_turn_and_must_make_the_same_dataset(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    importing.main(["--rows", "2000", "--times", "1", "--against", str(ROOT)])
    said = capsys.readouterr().out
    assert said.startswith("2,000 rows;")
    assert "| this version |" in said
    assert "| the other one |" in said
    assert "Ratio: " in said
    hashes = iter("ab")
    monkeypatch.setattr(importing, "imported", lambda checkout, log: importing.Import(next(hashes), 1.0, 1.0, 1.0))
    with pytest.raises(SystemExit, match="different datasets"):
        importing.main(["--rows", "10", "--times", "1", "--against", str(ROOT)])
