"""benchmarks.kill_writes: what a killed writer of memory had acknowledged is there afterwards."""

from pathlib import Path

from benchmarks.kill_writes import check, rounds
from memory.store import Memory


def test_nothing_acknowledged_is_lost_to_kills(tmp_path: Path) -> None:
    found = rounds(tmp_path / "memory.duckdb", kills=4, seed=1)
    assert (found.kills, found.lost) == (4, 0)
    assert found.acknowledged > found.kills


def test_a_lost_record_would_be_noticed(tmp_path: Path) -> None:
    memory = Memory.open(tmp_path / "memory.duckdb")
    assert check(memory, ["study s-1", "trial t-1", "result t-1", "note h-1", "snapshot r-1"]) == 5
    memory.close()
