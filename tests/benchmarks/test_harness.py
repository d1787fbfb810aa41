"""The benchmarks: rows that resume, tables worked by hand, a reference that is what it says, and measuring children."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import arrival, catalogue, fields, quality, study, trainers
from benchmarks.harness import entrants, machine, speed_page
from benchmarks.harness.children import ChildFailed, answers
from benchmarks.harness.files import arrays_of
from benchmarks.harness.markdown import newest, short, table
from benchmarks.harness.measure_ours import Ours, train_ours
from benchmarks.harness.rows import Row, Store, Value
from benchmarks.harness.task import Answer, Arrays, PeerTraining
from benchmarks.peers import padded_reference
from benchmarks.peers.interpreters import Peers
from benchmarks.peers.ranking import validation_ranks
from tests.support.examples import FACTS
from tests.support.handmade import SMALL
from trainers.contract.fields import space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.contract.wire import TrialResult
from trainers.data import Dataset, ImportReport, add_demo

ARRAYS = Arrays(
    items=np.array([3, 1, 4, 0, 2, 2], dtype=np.int32),
    offsets=np.array([0, 3, 4, 6], dtype=np.int64),
    validation=np.array([0, 5, 2], dtype=np.int32),
    num_items=6,
)
"""Three users of 3, 1 and 2 training items; the last one's validation item is in the history."""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return add_demo(tmp_path_factory.mktemp("benchmarks") / "datasets")


def row(name: str = "one", **given: Any) -> Row:
    whole: dict[str, Any] = {
        "name": name, "dataset": "demo", "dataset_hash": "d1", "spec_hash": "s1", "commit": "c1",
        "hardware": "Some CPU, 2 cores", "versions": "python 3.11, torch 2.13", "values": {}, "date": "2026-01-01",
    }  # fmt: skip
    return Row(**{**whole, **given})


def task(**given: Any) -> PeerTraining:
    whole: dict[str, Any] = {
        "arrays": "", "folder": "", "hidden_dim": 8, "loss": "sampled_softmax", "num_negatives": 3, "epochs": 1,
        "threads": 1, "max_length": 4, "batch_size": 2, "dropout": 0.0, "warm_up_steps": 1,
    }  # fmt: skip
    return PeerTraining(**{**whole, **given})


# rows


def test_a_row_that_is_there_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "results" / "some.jsonl")
    store.add(row(values={"seconds": 1.5, "status": None}))
    store.add(row(epoch=2))
    again = Store(store.path)
    assert again.rows == store.rows
    assert again.has(row(date="2030-12-31", values={"other": 1}).key)
    changed = (
        row("two"), row(dataset="x"), row(dataset_hash="x"), row(spec_hash="x"), row(seed=1), row(run=1), row(epoch=1),
        row(commit="x"), row(hardware="x"), row(versions="x"),
    )  # fmt: skip
    assert not any(again.has(one.key) for one in changed)


def test_a_row_is_never_measured_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "some.jsonl")
    store.add(row())
    with pytest.raises(ValueError, match="there is a row for"):
        store.add(row(values={"seconds": 2}))


def test_a_line_cut_short_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    store = Store(path)
    store.add(row("one"))
    store.add(row("two"))
    path.write_bytes(path.read_bytes()[:-30])
    cut = Store(path)
    assert [one.name for one in cut.rows] == ["one"]
    cut.add(row("three"))
    assert [one.name for one in Store(path).rows] == ["one", "three"]


def test_hardware_and_versions_name_no_host_and_no_path() -> None:
    said = machine.hardware("cpu", 2) + machine.versions("torch") + machine.commit("benchmarks")
    assert said.endswith(machine.commit("benchmarks"))
    assert ", 2 cores" in said
    assert "/" not in said
    assert os.uname().nodename not in said


# tables


def timed(trainer: str, loss: str, seconds: list[float], eval_seconds: float = 0.5, **given: object) -> list[Row]:
    values = {"trainer": trainer, "loss": loss, "hidden_dim": 64, "tokens": 12000, "eval_seconds": eval_seconds}
    name = f"{trainer}, {loss}, d=64"
    return [row(name, epoch=n, values={**values, "seconds": s}, **given) for n, s in enumerate(seconds)]


def test_the_speed_table_holds_medians_ranges_and_ratios() -> None:
    rows = [
        *timed("RecTools SASRec", "full softmax", [300.0], eval_seconds=1, commit="0.19.0"),
        *timed("RecTools SASRec", "256 negatives a position", [100.0], eval_seconds=1, commit="0.19.0"),
        *timed("VirtualMLE SASRec", "full softmax", [9.0], commit="old"),
        *timed("VirtualMLE SASRec", "full softmax", [2.0, 4.0, 3.0], commit="new"),
        *timed("VirtualMLE SASRec", "512 negatives a batch", [0.5]),
        *timed("padded SASRec", "500 negatives a position", [60.0, 62.0]),
    ]
    expected = [
        "| VirtualMLE SASRec | full softmax | 3 (2–4) | 20.3× | 100× | 0.5 (0.5–0.5) | 2× | 4,000 | 3 | new |",
        "| VirtualMLE SASRec | 512 negatives a batch | 0.5 | 122× | 200× | 0.5 | 2× | 24,000 | 1 | c1 |",
        "| padded SASRec | 500 negatives a position | 61 (60–62) | 1× | 1.64× | 0.5 (0.5–0.5) | 2× | 197 | 2 | c1 |",
        "| RecTools SASRec | full softmax | 300 | 0.203× | 1× | 1 | 1× | 40 | 1 | 0.19.0 |",
        "| RecTools SASRec | 256 negatives a position | 100 | 0.61× | 1× | 1 | 1× | 120 | 1 | 0.19.0 |",
    ]
    assert speed_page.speed_table(rows).splitlines()[2:] == expected


def test_the_speed_page_has_a_heading_for_each_processor() -> None:
    rows = [
        *timed("padded SASRec", "full softmax", [1.0]),
        *timed("padded SASRec", "full softmax", [0.1], hardware="Some GPU", date="2026-02-01"),
    ]
    page = speed_page.page(rows, "python -m some.command")
    assert "Again: `python -m some.command`" in page
    cpu, gpu = page.index("## CPU: Some CPU, 2 cores\n"), page.index("## GPU: Some GPU\n")
    assert "measured 2026-01-01; versions: python 3.11, torch 2.13." in page[cpu:gpu]
    assert "### demo, d = 64 (12,000 training tokens)" in page[gpu:]
    assert "–" in speed_page.speed_table(timed("RePlay SASRec", "full softmax", [1.0]))


def test_the_page_goes_on_with_what_other_benchmarks_have_measured(tmp_path: Path) -> None:
    assert trainers.beyond_epochs(tmp_path, []) == ""
    values = {
        "arrived": True, "seconds": 40.0, "training_seconds": 30.0, "epochs": 7, "best": 0.065, "best_epoch": 7,
        "ended": "arrived",
    }  # fmt: skip
    Store(tmp_path / "arrival.jsonl").add(row("SASRec: ndcg@10 0.065", values=values))
    page = trainers.beyond_epochs(tmp_path, [])
    assert page.startswith(
        "\n## Seconds to a validation quality\n\n"
        "`python -m benchmarks.arrival`, measured 2026-01-01; versions: python 3.11, torch 2.13.\n\n| trainer |"
    )
    assert "| SASRec: ndcg@10 0.065 | demo | 40 s | 30 s | 7 | 0.0650 in epoch 7 | c1 | Some CPU, 2 cores |\n" in page
    assert page.count("\n## ") == 1


def test_newest_are_the_rows_of_the_code_measured_last() -> None:
    rows = [row(commit="a"), row(commit="b", epoch=1), row(commit="a", epoch=1), row(commit="b", epoch=2)]
    assert newest(rows) == [rows[1], rows[3]]


def test_numbers_have_three_digits() -> None:
    assert [short(value) for value in (0.01234, 9.876, 99.94, 100.4, 12345.6)] == [
        "0.0123", "9.88", "99.9", "100", "12,346",
    ]  # fmt: skip
    assert table(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_quality_table_holds_mean_and_deviation_over_seeds() -> None:
    values = {
        "status": "ok", "validation ndcg@10": 0.06, "validation recall@10": 0.1, "test ndcg@10": 0.05,
        "test recall@10": 0.09, "best_epoch": 40, "epochs": 48, "seconds_to_best": 150.0, "seconds_per_epoch": 3.0,
        "peak_memory_mb": 800.0,
    }  # fmt: skip
    other = {**values, "test ndcg@10": 0.052, "best_epoch": 44, "status": "timed_out"}
    rows = [row("hstu strong", values=values), row("hstu strong", seed=1, values=other)]
    assert quality.tables(rows).splitlines()[-1] == (
        "| demo | hstu | 0.0510 ± 0.0014 | 0.0900 ± 0.0000 | 0.0600 ± 0.0000 | 0.1000 ± 0.0000 | 2 (1 not ok) "
        "| 42 (40–44) | 2.5 min | 3 (3–3) | 800 | c1 |"
    )


def test_a_study_stands_beside_a_training_by_rectools() -> None:
    report = {
        "trainings": 3, "default": {"validation": {"ndcg@10": 0.02}, "test": {}, "trial_ids": ["t-1", "t-2"]},
        "best": None, "noise": {"sigma": 0.02, "df": 5.0},
        "trials": [
            {"number": 0, "epochs": 10, "status": "ok"}, {"number": 0, "epochs": 12, "status": "ok"},
            {"number": 1, "epochs": 4, "status": "stopped"}, {"number": 2, "epochs": 0, "status": "crashed"},
        ],
    }  # fmt: skip
    values = study.values_of(report, 600.0, space_of(SPECS["sasrec"]))
    assert values == {
        "seconds": 600.0, "trainings": 3, "epochs": 26, "default_epochs": 11.0, "failed": 1,
        "default_validation": 0.02, "best_validation": None, "default_test": None, "best_test": None,
        "default_seeds": 2, "best_seeds": 0, "best_changes": "", "sigma": 0.02, "df": 5.0,
    }  # fmt: skip
    lines = study.page([row("sasrec", values=values)], timed("RecTools SASRec", "full softmax", [40.0, 80.0])).split(
        "\n"
    )
    assert lines[2].startswith("| study: sasrec, seed 0 | demo | 10 min | 3 | 26 | 0.0200 → – | – → – |")
    found = {**values, "best_validation": 0.03, "best_seeds": 1, "best_changes": "dropout=0.2"}
    found_lines = study.page([row("sasrec", values=found)], []).split("\n")
    assert "0.0200 → 0.0300 | – → – | ±5.1% with 1 and 2 seeds | dropout=0.2 |" in found_lines[2]
    assert lines[3].startswith("| one training by RecTools SASRec: its default epochs | demo | 3 min | 1 | 3 |")
    assert lines[4].startswith(
        "| one training by RecTools SASRec: as many epochs as our default | demo | 11 min | 1 | 11 |"
    )


# races


def test_a_race_is_over_at_the_target_at_the_cap_or_when_nothing_is_gained() -> None:
    race = arrival.Race(0.5, 100.0, [], [])
    assert not race.over(0.4, 2.0, 10.0)
    assert race.over(0.6, 3.0, 20.0)
    assert race.arrival() == arrival.Arrival(True, 20.0, 15.0, 2, 0.6, 2, "arrived")
    late = arrival.Race(0.5, 100.0, [], [])
    assert late.over(0.4, 2.0, 101.0)
    assert late.arrival() == arrival.Arrival(False, 101.0, 99.0, 1, 0.4, 1, "cap of 100 s")
    tired = arrival.Race(0.5, 100.0, [], [])
    over = [tired.over(0.4 - 0.001 * epoch, 0.0, 1.0) for epoch in range(arrival.NO_GAIN_EPOCHS + 1)]
    assert over == [False] * arrival.NO_GAIN_EPOCHS + [True]
    with pytest.raises(ChildFailed, match="no epoch ended"):
        arrival.Race(0.5, 100.0, [], []).arrival()


def test_one_that_did_not_arrive_is_told_as_such() -> None:
    there = {"arrived": True, "seconds": 90.0, "training_seconds": 80.0, "epochs": 9, "best": 0.066, "best_epoch": 9}
    never = {**there, "arrived": False, "seconds": 9.0, "best": 0.06, "ended": "early stopping"}
    lines = arrival.arrivals([row("never", values=never), row("there", values={**there, "ended": ""})]).split("\n")
    assert lines[2].startswith("| there | demo | 90 s | 80 s | 9 | 0.0660 in epoch 9 |")
    assert lines[3].startswith("| never | demo | not reached (early stopping) | 80 s | 9 | 0.0600 in epoch 9 |")


# data and ranks


def test_arrays_travel_and_are_padded_on_the_left(tmp_path: Path) -> None:
    ARRAYS.write(tmp_path / "arrays.npz")
    read = Arrays.read(tmp_path / "arrays.npz")
    assert read.padded(2).tolist() == [[2, 5], [0, 1], [3, 3]]
    assert read.padded(4).tolist() == [[0, 4, 2, 5], [0, 0, 0, 1], [0, 0, 3, 3]]
    assert read.users.tolist() == [0, 0, 0, 1, 2, 2]
    assert (read.predictions(50), read.predictions(1)) == (3, 2)


def test_ranks_count_the_greater_and_the_equal_and_leave_out_the_history() -> None:
    states = np.eye(3, dtype=np.float32)
    table = np.array([[3, 9, 7, 4, 5, 3], [1, 2, 2, 0, 3, 2], [4, 1, 3, 2, 5, 6]], dtype=np.float32).T
    # user 0 wants item 0 (3): item 2 is greater, item 5 equal, items 1, 3, 4 are seen; user 2's item 2 is seen itself
    assert validation_ranks(states, table, ARRAYS, filter_seen=True).tolist() == [3, 4, 7]
    assert validation_ranks(states, table, ARRAYS, filter_seen=False).tolist() == [6, 4, 4]
    known = np.array([True, True, False, True, True, False])
    assert validation_ranks(states, table, ARRAYS, filter_seen=True, known=known).tolist() == [1, 7, 7]


def test_a_generated_catalogue_holds_every_item_and_popular_ones_often() -> None:
    made = catalogue.generate(items=300, interactions=20_000, seed=1)
    lengths = np.diff(made.offsets)
    counts = np.bincount(made.items, minlength=300)
    assert (made.num_items, len(counts), counts.min() >= 1) == (300, 300, True)
    assert 19_800 <= made.offsets[-1] == len(made.items) <= 20_000
    assert (lengths.min() >= 20, lengths.max() <= 200) == (True, True)
    assert counts[:100].sum() > 1.5 * counts[200:].sum()
    assert np.array_equal(made.items, catalogue.generate(300, 20_000, seed=1).items)
    with pytest.raises(ValueError, match="must be at least 300"):
        catalogue.generate(items=300, interactions=299)


# the padded reference


def by_definition(
    model: padded_reference.PaddedSASRec, items: list[int], targets: list[int], negatives: Tensor
) -> Tensor:
    """The summed loss of one user, position by position, without padding, batches or masks."""
    blocks = cast("Sequence[padded_reference.Block]", model.blocks)
    L, H = model.positions.shape[0], blocks[0].heads
    x = [model.items.weight[item] + model.positions[L - len(items) + place] for place, item in enumerate(items)]
    for block in blocks:
        projected = [block.project(block.attention_norm(one)).view(3, H, -1) for one in x]
        mixed: list[Tensor] = []
        for place, (q, _, _) in enumerate(projected):
            heads: list[Tensor] = []
            for head in range(H):
                before = projected[: place + 1]
                scores = torch.stack([q[head] @ k[head] for _, k, _ in before]) / q.shape[-1] ** 0.5
                heads.append(scores.softmax(0) @ torch.stack([v[head] for _, _, v in before]))
            mixed.append(x[place] + block.output(torch.cat(heads)))
        x = [one + block.feed_forward(block.feed_forward_norm(one)) for one in mixed]
    total = torch.zeros(())
    for one, target, drawn in zip(x, targets, negatives.tolist(), strict=True):
        state = model.norm(one)
        wanted = state @ model.items.weight[target]
        others = [state @ model.items.weight[item] for item in drawn if item != target]
        total = total + torch.stack([wanted, *others]).logsumexp(0) - wanted
    return total


def test_the_padded_reference_is_its_definition_in_loss_and_gradients() -> None:
    torch.manual_seed(0)
    model = padded_reference.PaddedSASRec(task(), num_items=6)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
        model.items.weight[0] = 0
    items = torch.tensor([[0, 0, 4, 2], [1, 3, 5, 6]])
    targets = torch.tensor([[0, 0, 2, 5], [3, 5, 6, 1]])
    negatives = torch.tensor([[1, 2, 3], [6, 1, 1], [4, 3, 2], [5, 5, 1], [2, 1, 3], [4, 6, 1]])
    real = targets.flatten().nonzero().squeeze(1)
    loss = padded_reference.sampled_loss(model, items, real, targets.flatten()[real], negatives)
    loss.backward()
    found = {name: weights.grad.clone() for name, weights in model.named_parameters() if weights.grad is not None}
    model.zero_grad()
    first = by_definition(model, [4, 2], [2, 5], negatives[:2])
    plain = (first + by_definition(model, [1, 3, 5, 6], [3, 5, 6, 1], negatives[2:])) / 6
    plain.backward()
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    for name, weights in model.named_parameters():
        expected = torch.zeros_like(weights) if weights.grad is None else weights.grad
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_the_reference_ranks_as_the_metrics_count(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = padded_reference.PaddedSASRec(task(), num_items=6)
    _, users = padded_reference.loaders(ARRAYS, task())
    found = padded_reference.full_ranking(model, users, filter_seen=True, device="cpu")
    with torch.inference_mode():
        states = model(torch.from_numpy(ARRAYS.padded(4)))[:, -1].numpy()
    expected = validation_ranks(states, model.items.weight.detach().numpy()[1:], ARRAYS, filter_seen=True)
    assert found.tolist()[:2] == expected.tolist()[:2]  # the third user's target is itself filtered


def test_a_child_answers_each_epoch(tmp_path: Path, demo: Dataset) -> None:
    arrays_of(demo).write(tmp_path / "arrays.npz")
    asked = task(arrays=str(tmp_path / "arrays.npz"), folder=str(tmp_path), epochs=2, batch_size=256, max_length=10)
    said = list(answers(entrants.MODULES["padded"], asked, tmp_path / "child"))
    assert [one.epoch for one in said] == [1, 2]
    assert all(one.seconds > 0 and one.eval_seconds > 0 for one in said)
    assert said[1].loss < said[0].loss


def test_a_child_that_fails_leaves_its_last_words(tmp_path: Path) -> None:
    asked = task(arrays=str(tmp_path / "nothing.npz"), folder=str(tmp_path))
    with pytest.raises(ChildFailed, match=r"answered 0 of 1 epochs: FileNotFoundError.*nothing\.npz"):
        list(answers(entrants.MODULES["padded"], asked, tmp_path / "child"))


@pytest.mark.parametrize("who", ["rectools", "replay"])
def test_a_peer_answers_each_epoch(who: str, tmp_path: Path, demo: Dataset) -> None:
    variable = f"VIRTUALMLE_{who.upper()}_PYTHON"
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no interpreter with {who}; see python -m benchmarks.peers")
    arrays_of(demo).write(tmp_path / "arrays.npz")
    asked = task(
        arrays=str(tmp_path / "arrays.npz"), folder=str(tmp_path), batch_size=256, max_length=10, evaluate="ranks",
        num_heads=1,
    )  # fmt: skip
    said = list(answers(entrants.MODULES[who], asked, tmp_path / "child", Path(os.environ[variable])))
    assert [(one.epoch, one.ranks) for one in said] == [(1, "ranks-1.npy")]
    assert np.load(tmp_path / "ranks-1.npy").shape == (1000,)


# ours


def test_our_trainings_are_real_run_directories(tmp_path: Path, demo: Dataset) -> None:
    config: Config = {"hidden_dim": 16, "num_blocks": 1, "max_length": 10, "max_epochs": 500, "patience": 50}
    ours = Ours(demo, "sasrec", config, threads=1)
    measured = train_ours(ours, tmp_path / "trial", enough=lambda epochs: len(epochs) >= 2)
    assert measured.result.status == "cancelled"
    assert 2 <= len(measured.epochs) == len(measured.arrived) < 500
    assert list(measured.arrived) == sorted(measured.arrived)
    tested = quality.revealed(measured, ours, tmp_path / "reveal")
    assert 0 <= tested["ndcg@10"] <= 1


def test_a_training_without_a_metric_is_a_failure_with_its_reason(tmp_path: Path, demo: Dataset) -> None:
    with pytest.raises(ChildFailed, match="learning_rate=10 is not allowed"):
        train_ours(Ours(demo, "sasrec", {"learning_rate": 10}, threads=1), tmp_path / "trial")


def test_the_entrants_train_specs_that_are_allowed() -> None:
    for one in entrants.entrants(64):
        SPECS[one.backbone].model_validate(one.training)
    hashes = [one.spec_hash for width in (64, 128) for one in entrants.entrants(width)]
    assert len(set(hashes)) == len(hashes)


def bench(tmp_path: Path, minutes: float = 1e9) -> trainers.Bench:
    return trainers.Bench(Store(tmp_path / "rows.jsonl"), tmp_path, "cpu", 1, Peers(None, None), minutes)


def test_only_what_is_missing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Dataset) -> None:
    measured: list[trainers.Step] = []

    def say(module: str, asked: PeerTraining, folder: Path, python: Path | None):
        assert json.loads(json.dumps(asked.epochs)) == 1
        yield Answer(epoch=1, loss=1.0, seconds=2.0, eval_seconds=0.5)

    def note(there: trainers.Bench, step: trainers.Step, dataset: Dataset, arrays: Arrays) -> None:
        measured.append(step)
        original(there, step, dataset, arrays)

    original = trainers.measure
    monkeypatch.setattr(trainers, "answers", say)
    monkeypatch.setattr(trainers, "measure", note)
    monkeypatch.setattr(trainers.files, "stored", lambda *given: demo)
    there = bench(tmp_path)
    steps = trainers.steps_of(["padded", "rectools"], 64, epochs=2)
    padded = steps[0]
    there.store.add(there.row(padded, 1, demo, {"seconds": 1.0, "eval_seconds": 0.5, "tokens": 1}))
    left = trainers.run(there, None, ["demo"], steps)
    assert measured == [replace(padded, epochs=(2,))]
    assert [one.epoch for one in there.store.rows] == [1, 2]
    assert there.store.rows[1].number("seconds") == 2.0
    assert len(left) == 2
    assert all("RecTools SASRec" in line and "not installed; python -m benchmarks.peers" in line for line in left)
    assert trainers.run(there, None, ["demo"], steps) == left
    assert len(measured) == 1


def test_nothing_is_started_when_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Dataset) -> None:
    monkeypatch.setattr(trainers.files, "stored", lambda *given: demo)
    left = trainers.run(bench(tmp_path, minutes=0), None, ["demo"], trainers.steps_of(["ours", "padded"], 64, 2))
    assert len(left) == 2 * 6 + 1
    assert not (tmp_path / "rows.jsonl").exists()


def test_ours_is_timed_before_and_after_the_others() -> None:
    steps = trainers.steps_of(["ours", "padded"], 64, epochs=2)
    assert [(step.entrant.who, step.run) for step in steps] == [("ours", 1)] * 6 + [("padded", 1)] + [("ours", 2)] * 6
    assert {step.epochs for step in steps if step.entrant.who == "ours"} == {(2, 3, 4, 5)}


def test_every_dataset_comes_once_before_any_comes_twice() -> None:
    datasets = [
        Dataset(name=name, content_hash=name, facts=FACTS, report=ImportReport(source="", format="", rows_read=0))
        for name in ("a", "b")
    ]
    asked = quality.questions(datasets, ["strong"], ["sasrec", "hstu"], [0, 1])
    assert [(one.seed, one.dataset.name, one.backbone) for one in asked] == [
        (0, "a", "sasrec"), (0, "a", "hstu"), (0, "b", "sasrec"), (0, "b", "hstu"),
        (1, "a", "sasrec"), (1, "a", "hstu"), (1, "b", "sasrec"), (1, "b", "hstu"),
    ]  # fmt: skip


# What each field does


def field_row(name: str, group: str, seed: int, score: float) -> Row:
    values: dict[str, Value] = {
        "users": 5000, "group": group, "status": "ok", "ndcg@10": score, "coverage@10": 0.5, "popularity@10": 40.0,
        "epochs": 20,
    }  # fmt: skip
    return Row(name, "Office", "abc", name, "c0ffee", "cpu", "torch 2", values, seed=seed, date="2026-11-24")


def test_a_change_of_scoring_is_compared_seed_by_seed_and_another_by_seed_noise() -> None:
    default = [field_row(f"sasrec {fields.DEFAULT}", "training", seed, 0.05 + 0.005 * seed) for seed in range(3)]
    scored = [
        field_row("sasrec transition_alpha=1.0", "scoring", seed, 1.02 * (0.05 + 0.005 * seed)) for seed in range(3)
    ]
    other = [field_row("sasrec item_cf_alpha=1.0", "scoring", seed, (1.001, 0.999, 1.0)[seed] * (0.05 + 0.005 * seed))
             for seed in range(3)]  # fmt: skip
    trained = [field_row("sasrec position=rotary", "training", seed, 1.02 * (0.05 + 0.005 * seed)) for seed in range(3)]
    page = fields.tables([*default, *scored, *other, *trained])
    assert "## Office, sasrec" in page
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "| +2.0% |" in lines["transition_alpha=1.0"]
    assert " helps " in lines["transition_alpha=1.0"]
    assert " noise " in lines["item_cf_alpha=1.0"]
    assert " noise " in lines["position=rotary"]  # as large a gain, but seeds differ by more
    assert "| 3 |" in lines[fields.DEFAULT]


def test_changes_that_a_backbone_does_not_have_or_that_change_nothing_are_left_out(walkers: Dataset) -> None:
    asked = list(fields.questions([walkers], ["sasrec", "hstu"], {"feed_forward"}, [0]))
    assert [(one.backbone, one.changes) for one in asked] == [
        ("sasrec", {}), ("sasrec", {"feed_forward": "swiglu"}),
        ("hstu", {}), ("hstu", {"feed_forward": "gelu"}), ("hstu", {"feed_forward": "swiglu"}),
    ]  # fmt: skip


def test_a_change_of_scoring_takes_the_weights_of_the_preset(
    walkers: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "preset", lambda *_: SPECS["sasrec"].model_validate({**SMALL, "max_epochs": 2}))
    question = fields.Question(walkers, "sasrec", {"transition_alpha": 2.0}, 0)
    found = fields.answer(question, "cpu", 1, tmp_path / "t-1")
    assert (found["group"], found["epochs"]) == ("scoring", 2)
    kept = TrialResult.model_validate_json((tmp_path / f"t-{walkers.name}-sasrec-0" / "result.json").read_bytes())
    assert kept.weights_of is None  # it was trained on the way
    assert kept.validation["ndcg@10"] != found["ndcg@10"]
