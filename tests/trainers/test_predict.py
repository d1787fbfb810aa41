"""trainers.predict: what a saved model recommends is what its encoder and its counts say, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trainers.contract.specs import SPECS
from trainers.data import Dataset, load_training
from trainers.models.backbones import build
from trainers.predict import FORMAT, MODEL, ModelError, Recommended, Recommender, load, save
from trainers.ranking.scoring import Scoring

CPU = torch.device("cpu")
SCORINGS: list[dict[str, Any]] = [
    {},
    {"popularity_alpha": 0.4},
    {"item_cf_alpha": 1.5, "transition_alpha": 0.5, "score_normalization": "none"},
    {"item_cf_alpha": 2.0, "popularity_alpha": 0.2, "rerank_top_k": 50},
]


def model_of(walkers: Dataset, **config: Any) -> Recommender:
    """An encoder that was not trained, with the counts of `walkers`."""
    spec = SPECS["sasrec"].model_validate({"max_length": 10, "hidden_dim": 16, **config})
    data = load_training(walkers.path)
    torch.manual_seed(1)
    encoder = build(spec, data.num_items).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Recommender(spec, encoder, Scoring.of(spec, data, CPU), [f"item {n}" for n in range(data.num_items)])


def names(history: list[int]) -> list[str]:
    return [f"item {number}" for number in history]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_model_that_was_saved_recommends_the_same(walkers: Dataset, tmp_path: Path, scoring: dict[str, Any]) -> None:
    model = model_of(walkers, **scoring)
    save(tmp_path / MODEL, model, {"trial_id": "t-1"})
    histories = [names([1, 2, 3]), names([7]), names(list(range(30)))]
    again = load(tmp_path)
    assert (again.ids, again.spec) == (model.ids, model.spec)
    assert again.recommend(histories, k=60) == model.recommend(histories, k=60)
    assert load(tmp_path / MODEL, device="cpu").recommend(histories) == model.recommend(histories)


def test_the_best_are_those_of_the_highest_products(walkers: Dataset) -> None:
    model = model_of(walkers)
    history = [5, 9, 14, 2]
    with torch.inference_mode():
        state = model.encoder.encode(torch.tensor(history), torch.tensor([0, 4]))[-1]
        scores = (model.encoder.output_table() @ state).numpy()
    ((first, *others),) = model.recommend([names(history)], k=60)
    allowed = [number for number in np.argsort(-scores).tolist() if number not in history]
    assert [found.item for found in (first, *others)] == names(allowed)
    assert first.score == pytest.approx(float(scores[allowed[0]]), rel=1e-5)
    ((best, *_),) = model.recommend([names(history)], exclude_seen=False)
    assert best.item == names([int(scores.argmax())])[0]


def test_counts_move_items_as_the_ranking_of_trials_does(walkers: Dataset) -> None:
    plain, mixed = model_of(walkers), model_of(walkers, item_cf_alpha=2.0)
    history = [names([10, 11, 12])]
    neighbours = {f"item {number}" for number in range(5, 20)}

    def near(model: Recommender) -> int:
        return sum(found.item in neighbours for found in model.recommend(history)[0])

    assert near(mixed) > near(plain)


def test_only_the_best_are_scored_anew_and_stay_ahead(walkers: Dataset) -> None:
    plain = model_of(walkers).recommend([names([1, 2])], k=60)[0]
    found = model_of(walkers, item_cf_alpha=2.0, rerank_top_k=50).recommend([names([1, 2])], k=60)[0]
    assert {one.item for one in found[:50]} == {one.item for one in plain[:50]}
    assert [one.item for one in found[:50]] != [one.item for one in plain[:50]]
    assert found[50:] == plain[50:]


def test_unknown_items_are_passed_over_and_nothing_comes_of_nothing(walkers: Dataset) -> None:
    model = model_of(walkers)
    known = model.recommend([names([3, 4])], k=5)[0]
    assert model.recommend([["ghost", "item 3", "item 4"], [], ["ghost"]], k=5) == [known, [], []]
    assert model.unknown(["ghost", "item 3", 7]) == ["ghost", "7"]
    assert model.recommend([]) == []


def test_ids_that_are_numbers_may_be_given_as_such(walkers: Dataset) -> None:
    model = model_of(walkers)
    numbered = Recommender(model.spec, model.encoder, None, [str(number) for number in range(len(model.ids))])
    assert numbered.recommend([[1, 2]]) == numbered.recommend([["1", "2"]])
    assert isinstance(numbered.recommend([[1, 2]])[0][0], Recommended)


def test_fewer_come_where_fewer_are_left(walkers: Dataset) -> None:
    model = model_of(walkers)
    assert len(model.recommend([names(list(range(57)))], k=10)[0]) == 3
    with pytest.raises(ModelError, match="k=0 asks for no item"):
        model.recommend([names([1])], k=0)


def test_ids_of_any_letters_come_back_whole(walkers: Dataset, tmp_path: Path) -> None:
    model = model_of(walkers)
    ids = ["", "ü", "日本", "a b", *model.ids[4:]]
    save(tmp_path / MODEL, Recommender(model.spec, model.encoder, None, ids), {})
    assert load(tmp_path).ids == ids


def test_what_is_no_model_says_so(walkers: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read as a model"):
        load(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / MODEL, {"format": "other"})
    with pytest.raises(ModelError, match="its format is 'other'"):
        load(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / MODEL, {"format": FORMAT})
    with pytest.raises(ModelError, match="cannot be read as a model"):
        load(tmp_path)
    save(tmp_path / MODEL, model_of(walkers), {})
    whole = (tmp_path / MODEL).read_bytes()
    (tmp_path / MODEL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="export it again"):
        load(tmp_path)
