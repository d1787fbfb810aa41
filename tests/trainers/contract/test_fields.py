"""Every field of the built-in spaces: what it changes, and that it changes nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.handmade import SMALL, trial, walks
from trainers.contract.fields import Spec, space_of
from trainers.contract.space import Config
from trainers.contract.specs import SPECS
from trainers.models.backbones import build
from trainers.ranking.scoring import Scoring, rank_all
from trainers.training.optimizers import rate_factor
from trainers.training.train import train, validation_of

ITEMS, D, LENGTH = 30, SMALL["hidden_dim"], SMALL["max_length"]
DATA = walks(users=90, num_items=ITEMS, longest=14)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """`field` set to `value`, on a configuration that `given` makes its condition hold in.

    `parameters`: by how many their number grows.
    """

    field: str
    value: Any
    given: tuple[tuple[str, Any], ...] = ()
    parameters: int = 0


SAMPLED = (("loss", "sampled_softmax"), ("num_negatives", 8))
RELATED = (("transition_alpha", 1.0),)
BOTH = [
    Case("hidden_dim", 32),
    Case("num_blocks", 2),
    Case("num_heads", 4),
    Case("tie_embeddings", False, parameters=ITEMS * D),
    Case("scale_embeddings", True),
    Case("normalize_embeddings", True, parameters=-2 * D),
    Case("position", "rotary", parameters=-LENGTH * D),
    Case("block_norm", "post", parameters=-2 * D),
    Case("share_blocks", True, (("num_blocks", 2),)),
    Case("pooling", "mean"),
    Case("pooling_window", 5, (("pooling", "mean"),)),
    Case("feed_forward", "swiglu"),
    Case("dropout", 0.1),
    Case("attention_dropout", 0.3),
    Case("weight_decay", 0.01),
    Case("optimizer", "adamw", (("weight_decay", 0.01),)),
    Case("learning_rate", 3e-3),
    Case("learning_rate_schedule", "cosine"),
    Case("warmup_epochs", 2),
    Case("beta2", 0.9),
    Case("batch_size", 64),
    Case("gradient_clip", 0.01),
    Case("loss", "bce", SAMPLED),
    Case("loss", "gbce", SAMPLED),
    Case("num_negatives", 5, SAMPLED),
    Case("negative_sharing", "position", SAMPLED),
    Case("negative_distribution", "popularity", SAMPLED),
    Case("logq_correction", True, SAMPLED),
    Case("gbce_calibration", 0.1, (("loss", "gbce"), ("num_negatives", 8))),
    Case("temperature", 0.5, (("normalize_embeddings", True),)),
    Case("table_updates", "touched_rows", (*SAMPLED, ("weight_decay", 0.01))),
    Case("train_targets", "last_position"),
    Case("train_window", 4),
    Case("max_epochs", 2),
    Case("patience", 1, (("learning_rate", 1e-5), ("max_epochs", 12))),
]
SCORING = [
    Case("popularity_alpha", 0.5),
    Case("transition_alpha", 2.0),
    Case("item_cf_alpha", 2.0),
    Case("item_cf_window", 3, (("item_cf_alpha", 2.0),)),
    Case("prior_top_k", 20, (("item_cf_alpha", 2.0), ("item_cf_window", 50))),
    Case("prior_recent_k", 1, (("transition_alpha", 2.0),)),
    Case("prior_norm", "none", RELATED),
    Case("score_normalization", "none", RELATED),
    Case("rerank_top_k", 50, (("popularity_alpha", 0.5),)),
]
OF_ONE = {
    "sasrec": [
        Case("max_length", 12, parameters=2 * D),
        Case("position", "relative", parameters=LENGTH - LENGTH * D),
    ],
    "hstu": [
        Case("max_length", 12, parameters=2 * D + 2),
        Case("position", "relative", parameters=-LENGTH * D),
        Case("linear_dim", 8),
        Case("attention_dim", 8),
        Case("feed_forward", "gelu", parameters=2 * D * D + 2 * D + 2 * D),
    ],
}
TRAINING = [(backbone, case) for backbone in SPECS for case in (*BOTH, *OF_ONE[backbone])]


def named(value: object) -> str | None:
    return f"{value.field}={value.value}" if isinstance(value, Case) else None


def config_of(backbone: str, case: Case, changed: bool) -> Config:
    """The small default with what the case is `given`, and its change where `changed`; refused if it had no effect."""
    space = space_of(SPECS[backbone], SPECS[backbone].model_validate(SMALL).model_dump())
    given = space.apply(space.default(), dict(case.given))
    return space.apply(given, {case.field: case.value}) if changed else given


@cache
def trained(backbone: str, config: tuple[tuple[str, Any], ...]) -> tuple[bytes, tuple[float, ...]]:
    """The weights and the curve of a training."""
    _, state = train(trial(backbone, **dict(config)), DATA)
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in state.model.parameters())
    return weights, tuple(epoch.loss for epoch in state.history)


def outcome(backbone: str, case: Case, changed: bool) -> tuple[bytes, tuple[float, ...]]:
    return trained(backbone, tuple(config_of(backbone, case, changed).items()))


def model_of(backbone: str, config: Config) -> tuple[Spec, torch.nn.Module]:
    spec = SPECS[backbone].model_validate(config)
    return spec, build(spec, ITEMS)


@pytest.mark.parametrize(("backbone", "case"), TRAINING, ids=named)
def test_a_field_of_structure_or_training_changes_what_is_trained(backbone: str, case: Case) -> None:
    assert outcome(backbone, case, changed=True) != outcome(backbone, case, changed=False)


@pytest.mark.parametrize(
    ("backbone", "case"), [pair for pair in TRAINING if pair[1].parameters or pair[1].field == "pooling"], ids=named
)
def test_a_field_of_structure_adds_the_weights_that_it_needs(backbone: str, case: Case) -> None:
    before, after = (
        sum(weight.numel() for weight in model_of(backbone, config_of(backbone, case, changed))[1].parameters())
        for changed in (False, True)
    )
    assert after - before == case.parameters


@pytest.mark.parametrize("backbone", SPECS)
@pytest.mark.parametrize("case", SCORING, ids=named)
def test_a_field_of_scoring_changes_ranks_and_no_weight(backbone: str, case: Case) -> None:
    assert outcome(backbone, case, changed=True) == outcome(backbone, case, changed=False)
    ranks = []
    for changed in (False, True):
        config = config_of(backbone, case, changed)
        torch.manual_seed(0)
        spec = SPECS[backbone].model_validate({**config, "max_length": 10})
        many = walks(users=200, num_items=200, longest=20)
        model = build(spec, many.num_items)
        evaluation = validation_of(trial(backbone), spec, many, CPU)
        ranks.append(rank_all(model, evaluation, Scoring.of(spec, many, CPU), 0).ranks)
    assert not np.array_equal(*ranks)


@pytest.mark.parametrize("backbone", SPECS)
def test_every_field_is_tried_here(backbone: str) -> None:
    tried = {case.field for case in (*BOTH, *SCORING, *OF_ONE[backbone])}
    assert tried == {field.name for field in space_of(SPECS[backbone]).fields}


@pytest.mark.parametrize("backbone", SPECS)
def test_an_inactive_field_changes_nothing(backbone: str) -> None:
    space = space_of(SPECS[backbone])
    default = space.default()
    inactive = [field for field in space.fields if not space.active(field, default)]
    other = {field.name: next(v for v in map(field.at, (0.99, 0.0)) if v != field.default) for field in inactive}
    small = {**SMALL, "max_epochs": 1}
    assert len(inactive) >= 10
    changed = trained(backbone, tuple({**other, **small}.items()))
    assert changed == trained(backbone, tuple(small.items()))


@pytest.mark.parametrize(
    ("given", "factors"),
    [
        ({}, [1, 1, 1]),
        ({"warmup_epochs": 4}, [0.125, 0.5, 1]),
        ({"learning_rate_schedule": "linear"}, [0.95, 0.8, 0.1]),
        ({"learning_rate_schedule": "cosine"}, [0.9938, 0.9045, 0.0245]),
        ({"learning_rate_schedule": "linear", "warmup_epochs": 2}, [0.25, 1, 0.125]),
    ],
)
def test_the_rate_rises_and_falls_as_scheduled(given: dict[str, Any], factors: list[float]) -> None:
    spec = SPECS["sasrec"].model_validate({"max_epochs": 10, **given})
    assert [rate_factor(spec, epochs) for epochs in (0.5, 2, 9)] == pytest.approx(factors, abs=1e-4)


@pytest.mark.parametrize("backbone", SPECS)
def test_the_page_on_the_space_names_every_field_and_every_choice(backbone: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "space.md").read_text(encoding="utf-8")
    for field in space_of(SPECS[backbone]).fields:
        assert f"`{field.name}`" in page
        for choice in field.choices if field.group != "training" or field.name == "loss" else ():
            assert f"`{choice}`" in page, (field.name, choice)
