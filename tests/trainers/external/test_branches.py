"""Which configurations the check of a trainer tries."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import product
from pathlib import Path

import pytest

from server.cli.main import main
from tests.support.own_trainers import GOOD, trainer
from tests.support.owners import command, environment
from trainers.contract.space import Config, Space
from trainers.external import registry
from trainers.external.branches import branches
from trainers.external.check import check_trainer
from trainers.external.registry import TrainerError

ROOT = Path(__file__).parents[3]
CHAINED = """
fields:
  kind: {default: a, choices: [a, b, c]}
  fast: {default: true}
  depth: {default: 1, low: 1, high: 6, when: [{field: kind, values: [b]}]}
  width: {default: 8, low: 8, high: 64, when: [{field: depth, above: 3}]}
"""


def space(folder: Path, fields: str) -> Space:
    return registry.read(trainer(folder, fields=fields), "mine").space


def taken(space: Space, config: Config) -> dict[str, object]:
    return {field.name: config[field.name] if space.active(field, config) else None for field in space.fields}


def test_every_pair_of_choices_and_of_conditional_fields_is_tried(tmp_path: Path) -> None:
    declared = space(tmp_path, CHAINED)
    tried = branches(declared, 20)
    runs = [taken(declared, config) for config in [declared.default(), *tried.configs]]
    assert {(run["kind"], run["fast"]) for run in runs} == set(product("abc", (True, False)))
    assert {(run["kind"], run["depth"]) for run in runs} == {("a", None), ("c", None), ("b", 1), ("b", 6)}
    assert {(run["depth"], run["width"]) for run in runs} == {(None, None), (1, None), (6, 8)}
    assert {(run["fast"], run["width"]) for run in runs} == set(product((True, False), (None, 8)))
    assert tried.covered == tried.pairs
    assert len(tried.configs) <= 8


def test_the_number_of_trainings_is_bounded_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    many = "fields:\n" + "".join(f"  c{number}: {{default: a, choices: [a, b, c, d]}}\n" for number in range(12))
    declared = space(tmp_path, many + "  last: {default: 1, low: 1, high: 2, when: [{field: c3, values: [d]}]}\n")
    tried = branches(declared, 5)
    assert len(tried.configs) == 5
    assert 0 < tried.covered < tried.pairs
    assert branches(declared, 5) == tried


def test_a_multiple_is_kept_in_every_branch(tmp_path: Path) -> None:
    fields = """
fields:
  width: {default: 12, low: 12, high: 12}
  heads: {default: 3, low: 1, high: 5}
  more: {default: 1, low: 1, high: 2, when: [{field: heads, values: [5]}]}
divisible: [[width, heads]]
"""
    with pytest.raises(TrainerError, match="no configuration was found in which more has an effect"):
        list(check_trainer(trainer(tmp_path, fields=fields), tmp_path / "home", 60.0))
    declared = space(tmp_path, fields.replace("values: [5]", "above: 3"))  # 5 is no divisor of 12, but 4 is
    assert [config["heads"] for config in branches(declared, 20).configs] == [4, 1]


def test_a_fault_in_one_branch_is_found_and_the_branch_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fails = "else:\n    assert spec['config']['kind'] != 'b' or spec['config']['depth'] < 4\n"
    broken = GOOD.replace("else:\n", fails, 1)
    assert main(["trainer", "check", str(trainer(tmp_path, broken, CHAINED))]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"With kind='b', .*depth=6.*: Trainer checked: its command ended with exit code 1", last), last


def test_the_check_says_how_many_trainings_it_took(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = trainer(tmp_path, fields=CHAINED)
    assert main(["trainer", "check", str(source), "--runs", "2"]) == 0
    assert re.search(
        r"branches: 2 more trainings tried \d+ of \d+ pairs of choices and conditional fields; --runs tries more",
        capfd.readouterr().err,
    )


def test_the_example_of_the_docs_runs_as_it_is_written(tmp_path: Path, home: Path) -> None:
    text = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(sh|yaml|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    (tmp_path / "space.yaml").write_text(blocks["yaml"])
    (tmp_path / "train.py").write_text(blocks["python"])
    said = ""
    for line in blocks["sh"].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "virtualmle"
        given = environment(VIRTUALMLE_HOME=str(home))
        done = subprocess.run(command(*arguments), cwd=tmp_path, env=given, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said += done.stderr
    assert re.search(r"branches: 3 more trainings tried (\d+) of \1 pairs", said), said
    assert "It keeps the protocol." in said
