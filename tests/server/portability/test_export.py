"""virtualmle export and recommend: a study driven by a real owner, and what leaves its home."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from memory.records import Reveal
from memory.statistics.noise import Sigma
from server.cli.main import main
from server.client.home import connect
from server.drive.run import run_drive
from server.portability import model_card
from server.portability.export import ModelUnavailable, _move, _writable
from server.portability.model_card import Subject
from server.scheduler.run_directory import sweep
from server.settings import Settings
from server.study.standings import Standing
from tests.support.examples import BEGAN, study, trial
from tests.support.owners import end_owners
from tests.support.plans import plan_for
from trainers.contract.wire import Exported
from trainers.data import add
from trainers.external import registry
from trainers.predict import load

FIXED: dict[str, Any] = {"max_epochs": 2, "hidden_dim": 16, "max_length": 10, "item_cf_alpha": 1.0}


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A home with one finished study of one trial, and its id."""
    home = tmp_path_factory.mktemp("takehome") / "home"
    lines = "\n".join(
        f"{user} " + " ".join(f"i{(user * 7 + step * 3) % 50}" for step in range(8)) for user in range(90)
    )
    log = home.with_name("log.txt")
    log.write_text(lines)
    add(Settings(home=home).datasets_dir, "log", log)
    report = home.with_name("report")
    plan = plan_for(dataset="log", max_trials=1, space=FIXED)
    assert run_drive(plan, lambda: connect(home), home / "reports", report, False) == 0
    yield home, json.loads((report / "report.json").read_text())["study_id"]
    end_owners(home)


@pytest.fixture(scope="module")
def exported(driven: tuple[Path, str]) -> Path:
    """The folder of an export."""
    home, study_id = driven
    folder = home.with_name("model")
    assert main(["export", study_id, str(folder), "--home", str(home), "--json"]) == 0
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_chosen_model_comes_whole_and_recommends_what_the_owner_does(
    driven: tuple[Path, str], exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, study_id = driven
    assert {path.name for path in exported.iterdir()} == {
        "README.md", "config.json", "encoder.onnx", "item_embeddings.safetensors", "items.parquet",
        "model.safetensors",
    }  # fmt: skip
    model = load(exported)
    assert load_file(exported / "item_embeddings.safetensors")["embeddings"].shape == (len(model.ids), 16)
    capsys.readouterr()
    history = ["i3", "i6", "i9"]
    code, out, err = said(
        capsys, "recommend", study_id, "--history", *history, "ghost", "-k", "4", "--home", home, "--json"
    )
    assert (code, err) == (0, "Passed over, since the dataset has no such item: ghost.\n")
    wanted = [{"item": item, "score": score} for item, score in model.recommend([history], k=4)[0]]
    assert [(one["item"], pytest.approx(one["score"])) for one in json.loads(out)] == [
        (one["item"], one["score"]) for one in wanted
    ]
    assert not [path for path in (home / "trials").iterdir() if path.name.startswith(("export", "recommend"))]
    told = json.loads((exported / "config.json").read_text())
    assert (told["refit"], told["interactions"], told["config"]["item_cf_alpha"]) == (False, 90 * 6, 1.0)
    assert set(told["test"]) == set(told["validation"])


def test_a_refit_has_other_weights_more_events_and_no_score(
    driven: tuple[Path, str], exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, study_id = driven
    assert said(capsys, "export", study_id, tmp_path / "refit", "--home", home, "--refit")[0] == 0
    weights = [load_file(folder / "model.safetensors") for folder in (exported, tmp_path / "refit")]
    assert not np.array_equal(weights[0]["encoder.items.weight"], weights[1]["encoder.items.weight"])
    told = json.loads((tmp_path / "refit" / "config.json").read_text())
    assert (told["refit"], told["interactions"], told["validation"], told["test"]) == (True, 90 * 8, None, None)
    text = (tmp_path / "refit" / "README.md").read_text()
    assert "**Refit: these weights have no test score.**" in text
    assert "all 720 events" in text
    assert f"virtualmle export {study_id} DIR --refit" in text
    with safe_open(tmp_path / "refit" / "model.safetensors", "np") as file:
        assert file.metadata()["refit_epochs"] == str(told["epochs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "s-none", "DIR"), "Unknown study 's-none'; read_memory"),
        (("export", "STUDY", "FULL"), "is there already and not empty; name a new folder."),
        (("recommend", "STUDY", "--history", "ghost"), "Dataset 'log' has no item 'ghost'."),
    ],
)
def test_what_cannot_be_had_is_one_line(
    driven: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    home, study_id = driven
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    places = {"STUDY": study_id, "DIR": tmp_path / "new", "FULL": tmp_path / "full"}
    code, out, err = said(capsys, *(places.get(word, word) for word in words), "--home", home)
    assert (code, out) == (1, "")
    assert err.startswith("virtualmle: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_study_that_is_not_finished_gives_its_best_but_no_refit(
    driven: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _ = driven

    async def opened() -> str:
        async with connect(home) as client:
            started = await client.call_tool("start_study", {"dataset": "log", "space": FIXED})
            assert started.structured_content is not None
            return started.structured_content["study_id"]

    async def trained(study_id: str) -> None:
        async with connect(home) as client:
            await client.call_tool("run_trial", {"study_id": study_id, "wait_seconds": 200})

    study_id = anyio.run(opened)
    code, _, err = said(capsys, "export", study_id, tmp_path / "a", "--home", home)
    assert code == 1
    assert "has no configuration that could be chosen: no training scored" in err
    anyio.run(trained, study_id)
    code, _, err = said(capsys, "export", study_id, tmp_path / "a", "--home", home, "--refit")
    assert code == 1
    assert "is not finished: --refit trains on the test events, too" in err
    assert said(capsys, "export", study_id, tmp_path / "a", "--home", home)[0] == 0
    assert "The study is not finished, so the test is sealed." in (tmp_path / "a" / "README.md").read_text()


def test_what_a_killed_owner_left_of_an_export_is_swept_and_trials_stay(tmp_path: Path) -> None:
    for name in ("export-1234abcd", "recommend-1234abcd", "t-exported"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["t-exported"]


def test_a_trainer_of_ones_own_comes_with_its_checkpoint_and_no_refit(
    driven: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _ = driven
    registry.add(
        Settings(home=home).trainers_dir, "knn", Path(__file__).parents[3] / "examples" / "item_knn" / "space.yaml"
    )
    report = tmp_path / "report"
    plan = plan_for(dataset="log", backbone="knn", max_trials=1)
    assert run_drive(plan, lambda: connect(home), home / "reports", report, False) == 0
    study_id = json.loads((report / "report.json").read_text())["study_id"]
    capsys.readouterr()
    code, _, err = said(capsys, "export", study_id, tmp_path / "knn", "--home", home)
    assert (code, err) == (0, "No ONNX encoder: knn is a trainer of your own.\n")
    names = ["README.md", "checkpoint.safetensors", "config.json", "items.parquet"]
    assert sorted(path.name for path in (tmp_path / "knn").iterdir()) == names
    for words in (("export", study_id, tmp_path / "refit", "--refit"), ("recommend", study_id, "--history", "i3")):
        code, _, err = said(capsys, *words, "--home", home)
        assert code == 1
        assert "knn" in err.splitlines()[-1]


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "file" / "model", "cannot be written"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ModelUnavailable, match=message), _writable(folder):
            raise AssertionError("the work was begun")


def test_an_export_that_breaks_off_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "a").touch()
    with pytest.raises(OSError, match="missing"):
        _move(tmp_path / "staging", tmp_path / "model", ["a", "missing"])
    assert [path.name for path in tmp_path.iterdir()] == ["staging"]
    (tmp_path / "model").mkdir()
    _move(tmp_path / "staging", tmp_path / "model", ["a"])
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a"]


def subject(**values: Any) -> Subject:
    trials = tuple(
        trial(1, score, seed=seed, changes={"dropout": 0.25}, best_epoch=9, device="cpu", threads=2)
        for seed, score in enumerate((0.050, 0.054))
    )
    best = trials[1]
    reveal = Reveal(
        study_id="s-1", dataset_hash="abc", ordinal=2, chosen=("t-1", "t-1-1"), default=(), created_at=BEGAN,
        test={"t-1": {"ndcg@10": 0.040}, "t-1-1": {"ndcg@10": 0.044}},
    )  # fmt: skip
    exported = Exported(status="ok", files=("model.safetensors",), interactions=100, onnx_difference=1e-7)
    standing = Standing(1, best.config_hash, best.config, trials, (0.050, 0.054))
    given: dict[str, Any] = {
        "study": study(), "standing": standing, "trial": best, "exported": exported, "noise": Sigma(0.03, 4),
        "reveal": reveal, "words": "It beats the default.", "version": "1.2",
    }  # fmt: skip
    return Subject(**{**given, **values})


def test_the_card_has_metrics_with_intervals_and_the_way_to_get_them_again() -> None:
    text = model_card.card(subject())
    # 2.776 * 0.03 / sqrt(2) = 5.89 % of the means 0.052 and 0.042
    assert "| ndcg@10 | 0.0540 | 0.0520 | 0.0489 – 0.0551 | 0.0440 | 0.0420 | 0.0395 – 0.0445 |" in text
    assert (
        "virtualmle drive --dataset demo --backbone sasrec --policy playbook --trials 1 --seed 1 --preset strong "
        "--fix dropout=0.25" in text
    )
    assert "| `model.safetensors` |" in text
    assert "exclude_seen" not in text


def test_a_card_without_a_test_or_an_onnx_encoder_says_why() -> None:
    lacking = Exported(status="ok", files=("model.safetensors",), interactions=100, no_onnx="onnx not installed")
    text = model_card.card(subject(reveal=None, exported=lacking))
    assert "No ONNX encoder: onnx not installed." in text
    assert "| ndcg@10 | 0.0540 | 0.0520 | 0.0489 – 0.0551 | – | – | – |" in text
    assert "the test is sealed" in text


def test_intervals_are_of_the_metric_whose_noise_was_estimated() -> None:
    best = trial(1, 0.05).model_copy(update={"validation": {"ndcg@10": 0.05, "recall@10": 0.1}})
    standing = Standing(1, best.config_hash, best.config, (best,), (0.05,))
    text = model_card.card(subject(trial=best, standing=standing, reveal=None))
    assert "| recall@10 | 0.1000 | 0.1000 | – | – | – | – |" in text


def test_a_card_promises_no_command_that_would_train_something_else() -> None:
    text = model_card.card(subject(study=study(metric="recall@10")))
    assert "No single command trains it again, since its best epoch was chosen by recall@10" in text
    assert "virtualmle drive" not in text


def test_a_dataset_that_repeats_items_is_used_without_filtering() -> None:
    text = model_card.card(subject(study=study(filter_seen="no")))
    assert "k=10, exclude_seen=False)" in text
