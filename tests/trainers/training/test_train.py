"""The training of a trial: reproducible, stopped and ended as promised, with the weights of its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.support.handmade import training_data, trial, walks
from tests.support.weights import same, table, weights_of
from trainers.contract.metrics import METRICS
from trainers.contract.specs import SPECS
from trainers.contract.wire import Epoch, TrialSpec
from trainers.data import TrainingData
from trainers.ranking.evaluate import Diverged, Evaluation, ranks
from trainers.training import train as training
from trainers.training.state import TrainState
from trainers.training.train import train

DATA = walks(users=80, num_items=30, longest=8)


def trained(spec: TrialSpec, data: TrainingData = DATA) -> dict[str, Tensor]:
    return weights_of(train(spec, data)[1])


VARIANTS = [
    ("sasrec", {}),
    ("hstu", {}),
    ("sasrec", {"loss": "sampled_softmax", "num_negatives": 8, "attention_dropout": 0.2}),
    ("hstu", {"loss": "sampled_softmax", "num_negatives": 8, "negative_sharing": "position", "optimizer": "adamw"}),
]


@pytest.mark.parametrize(("backbone", "config"), VARIANTS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    backbone: str, config: dict[str, str | int | float]
) -> None:
    first = trained(trial(backbone, seed=1, **config))
    assert same(first, trained(trial(backbone, seed=1, **config)))
    assert not same(first, trained(trial(backbone, seed=2, **config)))


def test_random_numbers_drawn_between_epochs_change_nothing() -> None:
    def draw(epoch: Epoch) -> None:
        torch.rand(7)

    _, state = train(trial(), DATA, on_epoch=draw)
    assert same(weights_of(state), trained(trial()))


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
def test_it_learns_to_walk(backbone: str) -> None:
    spec = trial(backbone, dropout=0.1, learning_rate=1e-2, max_epochs=15, max_length=10)
    outcome, state = train(spec, walks(users=300, num_items=30, longest=8))
    assert outcome == "ok"
    assert state.best is not None
    assert state.best.validation["recall@5"] > 0.9  # two items can follow; chance is 5 of 30


def test_early_stopping_counts_from_the_best_epoch_and_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    monkeypatch.setattr(training, "metrics_of", lambda found: dict.fromkeys(METRICS, next(script)))
    seen: list[Epoch] = []
    after: list[dict[str, Tensor]] = []
    original = TrainState.record

    def record(state: TrainState, epoch: Epoch, found: npt.NDArray[np.int64], metric: str) -> None:
        after.append(weights_of(state))
        original(state, epoch, found, metric)

    monkeypatch.setattr(TrainState, "record", record)
    outcome, state = train(trial(max_epochs=10, patience=2), DATA, seen.append)
    assert outcome == "ok"
    assert [epoch.validation["ndcg@10"] for epoch in seen] == [0.1, 0.3, 0.3, 0.2]  # a tie is no gain
    assert state.best is not None
    assert (state.best.epoch, state.best.validation["ndcg@10"]) == (2, 0.3)
    assert same(weights_of(state), after[1])


def test_the_metric_of_the_trial_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([{"recall@10": 0.1, "ndcg@10": 0.9}, {"recall@10": 0.2, "ndcg@10": 0.1}])
    monkeypatch.setattr(training, "metrics_of", lambda found: next(script))
    _, state = train(trial(max_epochs=2).model_copy(update={"metric": "recall@10"}), DATA)
    assert state.best is not None
    assert state.best.epoch == 2


def test_the_ranks_kept_are_those_of_the_best_weights() -> None:
    _, state = train(trial(max_epochs=4, dropout=0.0, learning_rate=1e-2), DATA)
    evaluation = Evaluation.of(DATA.held_out(), 30, 10, "yes", torch.device("cpu"))
    assert state.best is not None
    np.testing.assert_array_equal(ranks(state.model, evaluation), state.best.ranks)


def test_a_deadline_ends_it_at_the_next_epoch_boundary() -> None:
    outcome, state = train(trial(), DATA, deadline=-inf)
    assert (outcome, len(state.history)) == ("timed_out", 1)
    assert state.best is not None


def test_a_deadline_that_falls_on_the_last_epoch_takes_nothing_away() -> None:
    assert train(trial(max_epochs=1), DATA, deadline=-inf)[0] == "ok"


def test_cancelling_ends_it_between_batches_with_its_best_epoch() -> None:
    seen: list[Epoch] = []
    outcome, state = train(trial(max_epochs=9), DATA, seen.append, cancelled=lambda: len(seen) == 2)
    assert (outcome, [epoch.epoch for epoch in state.history]) == ("cancelled", [1, 2])
    assert state.best is not None
    outcome, state = train(trial(), DATA, cancelled=lambda: True)
    assert (outcome, state.history, state.best) == ("cancelled", [], None)


def test_a_loss_that_is_not_finite_is_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "loss_of", lambda spec, model, states, *rest: states.sum() * torch.nan)
    with pytest.raises(Diverged, match=r"^the loss is nan in epoch 1$"):
        train(trial(), DATA)


def test_a_score_that_is_not_finite_is_divergence_and_names_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = training.train_epoch

    def break_weights(spec, state, rows, seed, epoch, cancelled):
        loss = original(spec, state, rows, seed, epoch, cancelled)
        if epoch == 2:
            torch.nn.init.constant_(state.model.items.weight, torch.inf)
        return loss

    monkeypatch.setattr(training, "train_epoch", break_weights)
    with pytest.raises(Diverged, match=r"^a score is not finite in epoch 2$"):
        train(trial(), DATA)


def test_the_gradient_is_clipped_to_the_norm_that_the_spec_names() -> None:
    wide, narrow = (trained(trial(max_epochs=1, gradient_clip=clip)) for clip in (100.0, 0.01))
    assert same(wide, trained(trial(max_epochs=1)))  # far above any norm seen here: nothing to clip
    assert not same(wide, narrow)


@pytest.mark.parametrize(("optimizer", "decoupled"), [("adam", False), ("adamw", True)])
def test_the_optimizer_is_the_one_that_the_spec_names(optimizer: str, decoupled: bool) -> None:
    _, state = train(trial(max_epochs=1, optimizer=optimizer, beta2=0.9, weight_decay=0.1), DATA)
    (optimizer_used,) = state.optimizers
    (group,) = optimizer_used.param_groups
    assert (type(optimizer_used).__name__.lower(), group["betas"], group["weight_decay"], group["lr"]) == (
        optimizer, (0.9, 0.9), 0.1, 1e-3,
    )  # fmt: skip
    assert bool(group.get("decoupled_weight_decay")) == decoupled


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
def test_three_items_long_sequences_and_users_of_one_training_item_are_no_trouble(backbone: str) -> None:
    data = training_data([[0, 1, 2] * 12, [1], [2, 0]], validation=[0, 2, 1], num_items=3, repeat_rate=0.5)
    outcome, state = train(trial(backbone, dropout=0.0, train_window=5), data)
    assert outcome == "ok"
    assert state.best is not None
    assert set(state.best.ranks) <= {1, 2, 3}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


MANY = walks(users=3000, num_items=300, longest=30)
WIDE = {"hidden_dim": 64, "batch_size": 512, "max_epochs": 1, "max_length": 30}


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_threads_change_an_epoch_by_rounding_only(backbone: str, loss: str, threads: Callable[[int], None]) -> None:
    losses, models = [], []
    for count in (1, 2):
        threads(count)
        lines: list[Epoch] = []
        _, state = train(trial(backbone, loss=loss, **WIDE), MANY, lines.append)
        losses.append(lines[0].loss)
        models.append(state.model)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    one, two = (model.state_dict() for model in models)
    for name, weights in one.items():
        assert (weights - two[name]).norm() < 1e-2 * weights.norm(), name

    evaluation = Evaluation.of(MANY.held_out(), MANY.num_items, 30, "no", torch.device("cpu"))
    found = []
    for count in (1, 2):
        threads(count)
        found.append(ranks(models[0], evaluation))
    assert (found[0] == found[1]).mean() > 0.9995


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_threads_give_the_same_bits(count: int, threads: Callable[[int], None]) -> None:
    threads(count)
    spec = trial("sasrec", **WIDE)
    assert same(trained(spec, MANY), trained(spec, MANY))


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
@pytest.mark.parametrize("sharing", ["batch", "position"])
def test_rows_that_a_step_does_not_touch_stay_as_they_are(backbone: str, sharing: str) -> None:
    large = walks(users=20, num_items=5000, longest=6)
    settings = {"loss": "sampled_softmax", "num_negatives": 3, "negative_sharing": sharing, "max_epochs": 1}
    spec = trial(backbone, table_updates="touched_rows", weight_decay=0.1, gradient_clip=1.0, **settings)
    torch.manual_seed(training.keyed(spec.seed, 0, "weights"))
    before = table(training.build(SPECS[backbone].model_validate(spec.config), 5000)).weight.detach().clone()
    after = trained(spec, large)["items.weight"]
    changed = (before != after).any(1)
    assert 0 < int(changed.sum()) < 600
    assert changed[torch.from_numpy(np.unique(large.items[:-1])).long()].float().mean() > 0.8


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
@pytest.mark.parametrize("normalize", [False, True])
def test_one_step_on_touched_rows_is_one_step_of_adam_on_them(backbone: str, normalize: bool) -> None:
    settings: dict[str, Any] = {"loss": "sampled_softmax", "num_negatives": 3, "max_epochs": 1}
    settings |= {"normalize_embeddings": True} if normalize and backbone == "hstu" else {}
    settings |= {"batch_size": 32}
    few = walks(users=30, num_items=40, longest=6)  # one batch an epoch
    dense, touched = (
        trained(trial(backbone, table_updates=updates, **settings), few) for updates in ("all_rows", "touched_rows")
    )
    for name, weights in dense.items():
        torch.testing.assert_close(touched[name], weights, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
def test_a_full_softmax_updates_all_rows_whatever_the_spec_says_of_them(backbone: str) -> None:
    """As where a study of a large catalogue, whose default touches rows, tries the full softmax."""
    spec = trial(backbone, table_updates="touched_rows", num_negatives=7)
    assert same(trained(spec), trained(trial(backbone)))
