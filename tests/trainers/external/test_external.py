"""Trainers of the user's own: registered, checked, driven, and told in one line what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from server.cli.main import main
from server.client.home import connect
from server.drive.run import run_drive
from server.settings import Settings
from server.study.admission import ProtocolError, check_trainer
from tests.support.own_trainers import GOOD, HEAD, prepared, trainer
from tests.support.plans import plan_for
from trainers.contract.space import SpaceError
from trainers.contract.wire import TrialResult
from trainers.data import add, load_test
from trainers.external import command, predictions, registry
from trainers.external.registry import TrainerError
from trainers.external.trial import run_external_trial

EXAMPLE = Path(__file__).parents[3] / "examples" / "item_knn"
BROKEN = {
    "no result": (GOOD.replace("    result()\n", ""), "it left no result.json"),
    "wrong length of ranks": (
        "    predict(lists(asked))\nelse:\n    checkpoint()\n    ranks(np.ones(users - 3, dtype=int))\n    result()",
        r"its ranks have shape \(57,\), not \(60,\): one for each validation item",
    ),
    "NaN": (
        "    predict(lists(asked))\nelse:\n    checkpoint()\n    ranks(np.full(users, np.nan))\n    result()",
        "some of its ranks are not finite",
    ),
    "NaN in an epoch": (
        GOOD + '    (folder / "epochs.jsonl").write_text('
        "'{\"epoch\": 1, \"loss\": NaN, \"validation\": {}, \"seconds\": 1, \"eval_seconds\": 0}\\n')\n",
        r"line 1 of its epochs\.jsonl .*finite",
    ),
    "wrong users": (
        GOOD.replace("predict(lists(asked))", "predict(lists(asked)[::-1].copy())"),
        r"its ranks are better than its predictions for \d+ of 60 users|predicts items of the history",
    ),
    "hangs": ("    pass\nelse:\n    signal.pause()", "still at work after 1 s; --seconds gives it longer"),
    "hangs and does not obey": (
        "    pass\nelse:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True: signal.pause()",
        "it did not end within 0.2 s of a SIGTERM",
    ),
    "exits 3": (
        "    pass\nelse:\n    print('no luck today')\n    sys.exit(3)",
        "its command ended with exit code 3: no luck today",
    ),
    "no checkpoint": (GOOD.replace("    checkpoint()\n", ""), "it left no checkpoint.safetensors"),
    "no predictions": (GOOD.replace("predict(lists(asked))", "pass"), "it left no predictions.safetensors"),
    "too few predictions": (
        GOOD.replace("predict(lists(asked))", "predict(lists(asked)[:, :10].copy())"),
        r"its predictions have shape \(60, 10\), not \(60, 20\)",
    ),
    "an item twice": (
        GOOD.replace("predict(lists(asked))", "found = lists(asked); found[0, 1] = found[0, 0]; predict(found)"),
        "it predicts an item twice for the same user",
    ),
    "an item too high": (
        GOOD.replace("predict(lists(asked))", "found = lists(asked); found[0, 1] = V; predict(found)"),
        "it predicts item 40 of 40",
    ),
    "a result that is none": (GOOD.replace("result()", "result(status='fine')"), "its result.json is no result"),
    "it says that it diverged": (GOOD.replace("result()", "result(status='diverged', message='inf')"), "inf"),
    "a torn file": (
        GOOD + '    (folder / "validation_ranks.safetensors").write_bytes(b"torn")\n',
        "its validation_ranks.safetensors cannot be read",
    ),
}  # fmt: skip


def check(space: Path, seconds: float = 60.0) -> tuple[int, str]:
    result = CliRunner().invoke(_app(), ["check", str(space), "--seconds", str(seconds)])
    return result.exit_code, str(result.exception or result.output)


def _app() -> Any:
    from server.cli.trainer import app

    return app


def test_a_trainer_that_keeps_the_protocol_is_told_so(tmp_path: Path) -> None:
    code, said = check(trainer(tmp_path))
    assert code == 0, said
    assert "space: size" in said
    assert "It keeps the protocol." in said


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_trainer_gets_one_line_that_says_how(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "OBEY_SECONDS", 0.2)
    body, message = BROKEN[fault]
    seconds = {"hangs": "1", "hangs and does not obey": "8"}.get(fault, "60")  # it has to have begun not to obey
    assert main(["trainer", "check", str(trainer(tmp_path, body)), "--seconds", seconds]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("virtualmle: ")
    assert re.search(message, last), last


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: {}", "command: Field required"),
        ("command: [no-such-program-here]\nfields: {}", "'no-such-program-here' is no program here"),
        ("command: []\nfields: {}", "command is empty"),
        ("command: [python]\nfields: {a: {default: 1}}", "a is a number and needs low and high"),
        ("command: [python]\nfields: {a: {default: 9, low: 1, high: 5}}", "a=9 is not allowed: a is 1 to 5"),
        (
            "command: [python]\nfields: {a: {default: 1, low: 1, high: 5, hgih: 3}}",
            "a has no 'hgih'; a field may have kind",
        ),
        (
            "command: [python]\nfields: {a: {default: x, choices: [x, y], when: [{field: b, values: [1]}]}}",
            "has no field 'b'",
        ),
        (
            "command: [python]\nfields: {a: {default: x, choices: [x, y], when: [{field: a, values: [x]}]}}",
            "the conditions of its fields wait on each other: a -> a",
        ),
        (
            "command: [python]\nfields: {a: {default: 1, low: 1, high: 5, when: [{field: b, values: [1]}]}, "
            "b: {default: 2, low: 1, high: 5, when: [{field: a, values: [2]}]}}",
            "the conditions of its fields wait on each other: a -> b -> a",
        ),
        (
            "command: [python]\nfields: {a: {default: 1, low: 1, high: 5, when: [{field: b, values: [z]}]}, "
            "b: {default: x, choices: [x, y]}}",
            'a can never have an effect by its condition b="z": b=\'z\' is not allowed: b is one of "x", "y"',
        ),
        (
            "command: [python]\nfields: {a: {default: 1, low: 1, high: 5, when: [{field: b, above: 4}]}, "
            "b: {default: 1, low: 1, high: 4}}",
            "a can never have an effect by its condition b above 4: b is 1 to 4",
        ),
        (
            "command: [python]\nfields: {a: {default: 1, low: 1, high: 5, when: [{field: b}]}, b: {default: true}}",
            "b is true or false, so give `values` instead of `above`",
        ),
        ("command: [python]\nfields: {a: {default: 1, low: 1, high: 5}}\ndivisible: [[a, b]]", "has no field 'b'"),
        (
            "command: [python]\nfields: {a: {default: 1, low: 0, high: 5}}\ndivisible: [[a, a]]",
            "divisible: a is 0 to 5; a divisor must be above 0",
        ),
        (
            "command: [python]\nfields: {a: {default: 1, choices: [0, 1]}}\ndivisible: [[a, a]]",
            "divisible: a is one of 0, 1; a divisor must be above 0",
        ),
        (
            "command: [python]\nfields: {a: {default: 1, choices: [1, 1.5]}}\ndivisible: [[a, a]]",
            "divisible: a is one of 1, 1.5; both fields must be whole numbers",
        ),
        ("command: [python]\nfields: {a: {default: 1, low: -.inf, high: 5}}", "a has low -inf and high 5"),
        ("command: [python]\nfields: {a: {default: 1, low: 1, high: 1" + "0" * 5000 + "}}", "Exceeds the limit"),
        ("fields: " + "[" * 5000, "it is nested too deeply"),
        ("command: [python]\nfields: {a: {default: 0.5, low: 0, high: 1, scale: log}}", "a has scale log and low 0"),
        ("command: [python]\nfields: {a: {low: 0, high: 1}}", "a.default: Field required"),
        ("command: [python]\nfields: {a: {default: 1, low: x, high: 3}}", "a.low: Input should be a valid number"),
        ("command: [python\n", "is no YAML"),
    ],
)
def test_a_space_that_cannot_be_used_says_why(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(TrainerError, match=message):
        registry.add(tmp_path / "trainers", "mine", tmp_path / "space.yaml")
    assert registry.names(tmp_path / "trainers") == []


@pytest.mark.parametrize("path", sorted(EXAMPLE.parent.glob("*/space.yaml")), ids=lambda path: path.parent.name)
def test_the_space_of_each_example_is_accepted(path: Path) -> None:
    assert registry.read(path, "mine").space.fields


def test_a_divisor_may_be_a_choice_of_whole_numbers(tmp_path: Path) -> None:
    text = "command: [python]\nfields: {a: {default: 8, low: 8, high: 64}, b: {default: 2, choices: [1, 2, 4]}}"
    (tmp_path / "space.yaml").write_text(text + "\ndivisible: [[a, b]]")
    space = registry.add(tmp_path / "trainers", "mine", tmp_path / "space.yaml").space
    with pytest.raises(SpaceError, match="a=10 is not a multiple of b=4"):
        space.check({"a": 10, "b": 4})


@pytest.mark.parametrize("name", ["sasrec", "../mine", ""])
def test_a_name_that_is_taken_or_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"built-in|cannot name"):
        registry.add(tmp_path / "trainers", name, trainer(tmp_path))


def test_conditions_and_kinds_follow_from_the_file(tmp_path: Path) -> None:
    fields = """
fields:
  kind: {default: a, choices: [a, b], group: architecture}
  rate: {default: 0.1, low: 0.01, high: 1, scale: log, when: [{field: kind, values: [b]}]}
  deep: {default: 2, low: 1, high: 4}
  fast: {default: true}
"""
    space = registry.add(tmp_path / "trainers", "mine", trainer(tmp_path, fields=fields)).space
    assert [(field.name, field.kind) for field in space.fields] == [
        ("kind", "choice"), ("rate", "float"), ("deep", "int"), ("fast", "bool"),
    ]  # fmt: skip
    assert not space.active(space.field("rate"), space.default())
    assert registry.find(tmp_path / "trainers", "mine").space == space


def test_a_changed_file_of_the_command_is_another_version(tmp_path: Path) -> None:
    space = trainer(tmp_path)
    before = registry.add(tmp_path / "trainers", "mine", space).version
    (tmp_path / "train.py").write_text(HEAD + GOOD + "# changed\n")
    assert registry.find(tmp_path / "trainers", "mine").version != before


def test_metrics_come_from_the_ranks_and_measures_from_the_predictions(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path, GOOD.replace("result()", "result(validation={'ndcg@10': 9}, parameters=7)"))
    result = run_external_trial(directory, spec, tmp_path / "datasets")
    assert (result.status, result.message, result.parameters) == ("ok", "", 7)
    assert 0 < result.validation["ndcg@10"] <= 1
    assert set(result.measures) == {"coverage@10", "popularity@10", "ms_per_1000_users"}
    assert result.trainer_version.startswith("mine-")
    assert not (directory / "predict").exists()


def test_a_trainer_never_sees_a_test_item(tmp_path: Path) -> None:
    body = (
        GOOD + '    (folder.parent.parent / "seen.json").write_text(json.dumps(sorted(map(str, folder.rglob("*")))))\n'
    )
    directory, spec = prepared(tmp_path, body)
    assert run_external_trial(directory, spec, tmp_path / "datasets").status == "ok"
    assert not any("test" in Path(name).name for name in json.loads((tmp_path / "seen.json").read_text()))


def test_a_trainer_that_is_asked_to_end_may_leave_what_it_has(tmp_path: Path) -> None:
    body = GOOD.replace("    result()\n", "") + (
        "    def leave(*_):\n        result()\n        sys.exit(0)\n"
        "    signal.signal(signal.SIGTERM, leave)\n    (folder / 'ready').touch()\n    while True: signal.pause()\n"
    )
    directory, spec = prepared(tmp_path, body)
    ready = directory / "ready"
    result = run_external_trial(directory, spec, tmp_path / "datasets", cancelled=ready.exists)
    assert (result.status, result.message) == ("cancelled", "")
    assert result.validation["ndcg@10"] > 0


def rectools(folder: Path) -> Path:
    """space.yaml of the RecTools example, for the interpreter that has RecTools, with two epochs a training."""
    python = os.environ.get("VIRTUALMLE_RECTOOLS_PYTHON")
    if python is None:
        pytest.skip("VIRTUALMLE_RECTOOLS_PYTHON names no interpreter with rectools[torch] and safetensors")
    example = EXAMPLE.parent / "rectools_sasrec"
    folder.mkdir()
    (folder / "train.py").write_text((example / "train.py").read_text())
    written = yaml.safe_load((example / "space.yaml").read_text())
    written["command"][0] = python
    written["fields"]["epochs"] |= {"default": 2, "high": 3}
    (folder / "space.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return folder / "space.yaml"


@pytest.mark.parametrize("source", ["item_knn", "rectools_sasrec", "sasrec"])
def test_the_same_drive_tunes_the_examples_and_a_built_in_backbone(source: str, tmp_path: Path) -> None:
    home, report = tmp_path / "home", tmp_path / "report"
    if source != "sasrec":
        space = rectools(tmp_path / "source") if source == "rectools_sasrec" else EXAMPLE / "space.yaml"
        registry.add(Settings(home=home).trainers_dir, source, space)
    lines = "\n".join(f"{user} " + " ".join(str((user * 7 + step * 3) % 50) for step in range(8)) for user in range(90))
    (tmp_path / "log.txt").write_text(lines)
    add(Settings(home=home).datasets_dir, "log", tmp_path / "log.txt")
    fixed = {"max_epochs": 2, "hidden_dim": 16, "max_length": 10} if source == "sasrec" else {}
    trials = 2 if source == "rectools_sasrec" else 6  # its interpreter takes ten seconds to import
    plan = plan_for(dataset="log", backbone=source, policy="playbook", max_trials=trials, space=fixed, early_stop="off")
    assert run_drive(plan, lambda: connect(home), home / "reports", report, False) == 0
    found = json.loads((report / "report.json").read_text())
    assert found["backbone"] == source
    assert {trial["status"] for trial in found["trials"]} == {"ok"}
    assert len({trial["number"] for trial in found["trials"]}) == trials
    assert 0 <= found["best"]["test"]["recall@20"] <= 1
    measured = {"coverage@10", "popularity@10", "ms_per_1000_users"}
    assert all(set(trial["measures"]) == measured for trial in found["trials"])
    assert found["test_reveal"] == 1


def test_the_reveal_asks_for_predictions_after_all_that_came_before(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path)
    assert run_external_trial(directory, spec, tmp_path / "datasets").status == "ok"
    sealed = load_test(tmp_path / "datasets" / "log")
    ranks = predictions.ranks_of(directory / "checkpoint.safetensors", tmp_path / "p", tmp_path / "datasets", sealed)
    for user, target in enumerate(sealed.targets):
        seen = sealed.items[sealed.offsets[user] : sealed.offsets[user + 1]]
        first = np.setdiff1d(np.arange(spec.num_items or 50), seen)[:20].tolist()
        assert ranks[user] == (first.index(target) + 1 if target in first else 51)


def test_a_trial_of_a_trainer_that_is_gone_says_so(tmp_path: Path) -> None:
    directory, spec = prepared(tmp_path)
    registry.remove(tmp_path / "trainers", "mine")
    result: TrialResult = run_external_trial(directory, spec, tmp_path / "datasets")
    assert (result.status, result.message) == ("crashed", "No backbone 'mine'; there are sasrec, hstu.")


def test_a_trainer_of_your_own_is_refused_where_trainings_run_elsewhere() -> None:
    with pytest.raises(ProtocolError, match="executor: process"):
        check_trainer("mine", "auto", "ray")
    check_trainer("mine", "auto", "process")
    check_trainer("sasrec", "auto", "ray")
