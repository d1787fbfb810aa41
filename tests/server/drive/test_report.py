"""server.drive.report.report, page and picture: what a drive leaves behind."""

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from memory.statistics.noise import Sigma, half_width
from server.charts.svg import Point, draw, series, ticks
from server.drive.run import run_drive
from server.policies.base import Observation
from server.policies.single_changes import effects
from tests.support.examples import FACTS
from tests.support.fake_server import METRIC, SKILL, FakeServer
from tests.support.near import near
from tests.support.plans import plan_for
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS

SPACE = space_of(SPECS["sasrec"])
SIGMA = Sigma(0.02, 6.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The report of one drive: the default three times, then two configurations, the first of them twice."""
    assert run_drive(plan_for(max_trials=3), FakeServer(synthetic=True).connect, tmp_path, tmp_path, False) == 0
    return tmp_path


@pytest.fixture
def four(tmp_path: Path) -> dict[str, Any]:
    assert run_drive(plan_for(max_trials=4, seed=0), FakeServer().connect, tmp_path, tmp_path, False) == 0
    return json.loads((tmp_path / "report.json").read_text())


def test_report_json_has_the_promised_shape(four: dict[str, Any]) -> None:
    assert list(four) == [
        "version", "study_id", "dataset", "backbone", "policy", "preset", "metric", "seed", "early_stop", "replay",
        "trainings", "trials", "baselines", "test_baselines", "confirm_seeds", "noise", "guardrails", "default", "best",
        "test_reveal", "test_delta", "words", "heuristics", "calibration", "seconds", "dollars", "versions",
    ]  # fmt: skip
    assert (four["version"], four["replay"], four["confirm_seeds"]) == (2, None, None)
    assert (four["test_delta"], four["words"].split(" on ")[0]) == (0.6, "The chosen configuration beats the default")
    assert four["dataset"] == {
        "name": "demo", "users": FACTS.users, "items": FACTS.items, "interactions": FACTS.interactions,
        "content_hash": "abc", "split": "leave-one-out", "recipe": None, "warnings": [],
    }  # fmt: skip
    assert four["trials"][3] == {
        "trial_id": "t-3", "number": 1, "parent": "t-0", "changes": {"learning_rate": 0.003}, "seed": 0,
        "status": "ok", "validation": {METRIC: 0.08, "recall@10": 0.16}, "measures": {}, "epochs": 5, "seconds": 3.0,
        "peak_memory_mb": None, "verdict": "better",
        "hypothesis": "learning_rate 0.001 → 0.003: sparse: a higher rate reaches the same fit sooner, and further on "
        "few users",
        "replayed": None, "violations": [],
    }  # fmt: skip
    assert set(four["noise"]) == {"sigma", "df"}
    assert four["calibration"] == SKILL
    assert set(four["heuristics"][0]) == {"heuristic_id", "kind", "text", "verdict"}
    assert four["versions"] == {
        "virtualmle": version("virtualmle"), "torch": version("torch"), "python": platform.python_version(),
    }  # fmt: skip


def test_the_page_shows_what_needs_no_training_beside_the_default_and_the_best(folder: Path) -> None:
    table = (folder / "report.md").read_text().split("## For scale")[1].split("##")[0]
    lines = [line.split(" | ") for line in table.strip().splitlines()[2:]]
    assert [line[0].removeprefix("| ") for line in lines] == ["popularity", "the default", "the best configuration"]
    assert lines[0][1] == "0.0100"


def test_replicates_share_a_number_and_default_and_best_are_means_over_seeds(four: dict[str, Any]) -> None:
    assert [trial["number"] for trial in four["trials"]] == [0, 0, 0, 1, 1, 2, 3]
    assert [trial["seed"] for trial in four["trials"]] == [0, 1, 2, 0, 1, 0, 0]
    assert four["default"]["trial_ids"] == ["t-0", "t-1", "t-2"]
    assert four["default"]["validation"][METRIC] == pytest.approx(0.05 * 1.001)
    assert four["best"]["trial_ids"] == ["t-3", "t-4"]
    assert four["best"]["validation"][METRIC] == pytest.approx(0.08 * 1.0005)
    assert four["best"]["test"][METRIC] == pytest.approx(0.9 * 0.08 * 1.0005)
    assert four["best"]["config"]["learning_rate"] == 0.003
    assert four["best"]["checkpoint"] == "trials/t/checkpoint.safetensors"
    assert four["test_reveal"] == 2


def test_the_page_reads_as_a_report(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    titles = [line for line in page.splitlines() if line.startswith("#")]
    assert titles == [
        "# sasrec on demo", "## Verdict", "## Trials", "## For scale", "## Best configuration", "## What was learned",
        "## How to get it again",
    ]  # fmt: skip
    assert "The dataset is **synthetic**" in page
    assert "beats the default on the sealed test by more than seed noise." in page
    assert f"Of what `playbook` expected of trials so far: {SKILL}" in page
    assert "Test reused: this was reveal 2 of this dataset." in page
    assert "![Best validation ndcg@10 so far over trainings](best-so-far.svg)" in page
    assert "Changed from the default: learning_rate 0.003." in page
    assert "virtualmle drive --dataset demo --backbone sasrec --policy playbook --trials 3" in page
    config = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert config == json.loads((folder / "report.json").read_text())["best"]["config"]


def test_every_training_is_a_row_of_the_page(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`t-" in line]
    assert rows[:2] == [
        "| 0 | `t-0` | – | the default | 0 | ok | 0.0500 | – | – | 5 | 3.0 |",
        "| 1 | `t-1` | `t-0` | learning_rate 0.003 | 0 | ok | 0.0800 | +60.0% | better | 5 | 3.0 |",
    ]
    assert rows[2].startswith("| 1 | `t-2` | `t-0` | as 1, new seed | 1 | ok |")
    assert len(rows) == 4


def test_stored_text_cannot_become_markup(tmp_path: Path) -> None:
    server = FakeServer(lambda config, seed: "crashed")
    bad = "</table>|a\n\n# Title <img src=x>"
    server.on_trial = lambda count: server.notes.append(
        server.notes[-1].model_copy(update={"text": bad}) if server.notes else _note(bad)
    )
    run_drive(plan_for(max_trials=1), server.connect, tmp_path, tmp_path, False)
    page = (tmp_path / "report.md").read_text()
    assert "\n# Title" not in page
    assert "<img" not in page


def _note(text: str) -> Any:
    from server.answers import MemoryItem

    return MemoryItem(id="h-0", level="heuristic", text=text, study_id="s-1", dataset="demo", backbone="sasrec")


def seen(number: int, score: float | None, trial: int, **values: Any) -> Observation:
    return Observation(f"t-{trial}", number, SPACE.default(), 0, "ok" if score else "diverged", score, **values)


HISTORY = [
    seen(0, 0.05, 0),
    seen(0, 0.054, 1),
    seen(1, None, 2, changes={"dropout": 0.1}, parent="t-0"),
    seen(2, 0.07, 3, changes={"dropout": 0.2}, parent="t-0"),
    seen(2, 0.06, 4, changes={"dropout": 0.2}, parent="t-0", replicate_of="t-3"),
    seen(3, 0.063, 5, changes={"num_blocks": 1}, parent="t-3"),
]


def test_the_numbers_of_the_picture() -> None:
    numbers = series(HISTORY, SIGMA, METRIC, "title")
    assert numbers.points == (
        Point(1, 0, 0.05, 0.05, False),
        Point(2, 0, 0.054, near(0.052), True),
        Point(3, 1, None, near(0.052), False),
        Point(4, 2, 0.07, 0.07, False),
        Point(5, 2, 0.06, near(0.065), True),
        Point(6, 3, 0.063, near(0.065), False),
    )
    width = half_width(SIGMA, 1, 2)
    assert numbers.default == pytest.approx(0.052)
    assert numbers.band == pytest.approx((0.052 * math.exp(-width), 0.052 * math.exp(width)))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.041, 0.064, [0.04, 0.045, 0.05, 0.055, 0.06, 0.065]),
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.2, 0.31, [0.2, 0.225, 0.25, 0.275, 0.3, 0.325]),
    ],
)
def test_levels_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_levels_hold_a_single_value() -> None:
    levels = ticks(0.05, 0.05)
    assert levels[0] <= 0.05 <= levels[-1]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], HISTORY[2:3], [], HISTORY * 30])
def test_the_picture_is_well_formed(history: list[Observation]) -> None:
    text = draw(series(history, SIGMA, METRIC, "a <title> & more"))
    root = ElementTree.fromstring(text)
    words = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a <title> & more", "training", METRIC, "best so far"} <= set(words)
    assert ("default" in words) == bool(history and history[0].score)
    assert ("no score" in words) == any(trial.score is None for trial in history)
    assert "nan" not in text


def test_effects_are_matched_pairs_without_the_run_that_chose_the_parent() -> None:
    found = effects(HISTORY, SIGMA)
    assert [(one.field, one.after, one.evidence, one.trainings, one.status) for one in found] == [
        ("dropout", 0.1, ("t-2", "t-0", "t-1"), (0, 2), "diverged"),
        ("dropout", 0.2, ("t-3", "t-4", "t-0", "t-1"), (2, 2), "ok"),
        ("num_blocks", 1, ("t-5", "t-4"), (1, 1), "ok"),
    ]
    assert [one.relative for one in found] == [
        None,
        pytest.approx(math.sqrt(0.07 * 0.06) / math.sqrt(0.05 * 0.054) - 1),
        pytest.approx(0.05),
    ]
    assert [one.believable for one in found] == [False, True, False]


def test_an_effect_inside_the_noise_is_written_down_as_none(tmp_path: Path) -> None:
    server = FakeServer(lambda config, seed: 0.05 + 0.0001 * seed)
    run_drive(plan_for(max_trials=4), server.connect, tmp_path, tmp_path, False)
    texts = [note.text for note in server.notes if note.level == "heuristic"]
    assert len(texts) == 1
    assert "made no believable difference to 0.001 in ndcg@10 (-0.2%, noise ±" in texts[0]
