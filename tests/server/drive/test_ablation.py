"""server.drive.ablation: what each mode of --memory leaves of the brief, and what a drive writes in it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memory.advice.starts import Belief, Start
from memory.statistics.elsewhere import Elsewhere, Point
from server.cli.drive import app
from server.drive.ablation import MemoryMode, ablated
from server.policies.base import Lesson, PolicyContext
from tests.support.landscapes import SPACE

SCORES = (0.07, 0.06, 0.05, 0.02)
BRIEF = PolicyContext(
    "ndcg@10", "sasrec", {}, (Lesson("h-1", "heuristic", "dropout 0.2 beat 0.5", "a", "sasrec"),),
    (Start({"learning_rate": 0.003}, 0.1, ("a",)),), (Belief("dropout", 0.2, 0.05), Belief("num_blocks", 1, -0.02)),
    (Elsewhere("a", 0.9, 0.03, tuple(Point({"dropout": place / 10}, score, 1) for place, score in enumerate(SCORES))),),
)  # fmt: skip


@pytest.mark.parametrize("mode", ["on", "frozen"])
def test_memory_is_whole_where_it_is_read(mode: MemoryMode) -> None:
    assert ablated(BRIEF, mode, SPACE, 0) is BRIEF


def test_without_memory_nothing_of_it_is_left() -> None:
    off = ablated(BRIEF, "off", SPACE, 0)
    assert (off.memory, off.starts, off.beliefs, off.elsewhere, off.metric) == ((), (), (), (), "ndcg@10")


def test_flipped_claims_expect_the_opposite() -> None:
    found = ablated(BRIEF, "flipped", SPACE, 0)
    assert [one.gain for one in found.beliefs] == [-0.05, 0.02]
    assert [point.mean for point in found.elsewhere[0].points] == pytest.approx([0.02, 0.03, 0.04, 0.07])
    assert (found.starts, found.memory) == ((), ())


def test_a_permuted_memory_advises_as_much_but_by_chance_and_the_same_again() -> None:
    found = [ablated(BRIEF, "permuted", SPACE, seed) for seed in range(9)]
    assert all(sorted(one.gain for one in brief.beliefs) == [-0.02, 0.05] for brief in found)
    assert all(sorted(point.mean for point in brief.elsewhere[0].points) == sorted(SCORES) for brief in found)
    assert len({str(brief.starts) for brief in found}) > 3
    assert len({str(brief.elsewhere) for brief in found}) > 3
    assert ablated(BRIEF, "permuted", SPACE, 3) == found[3]


def test_placebos_do_not_go_with_a_model(tmp_path: Path) -> None:
    given: list[Any] = ["--policy", "llm", "--model", "m", "--home", str(tmp_path), "--memory", "permuted"]
    ended = CliRunner().invoke(app, given)
    assert ended.exit_code == 2
    assert "placebos are for the policies without one" in " ".join(ended.output.replace("│", " ").split())
