"""The memory estimate: what it counts, and that a training which cannot fit is refused in one line."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch

from tests.support.handmade import trial, walks
from trainers.contract.fields import Spec
from trainers.contract.specs import SPECS
from trainers.models.device import is_out_of_memory
from trainers.training import estimate
from trainers.training import train as training
from trainers.training.estimate import NotEnoughMemory, available_memory_mb, predicted_memory_mb
from trainers.training.train import train

DATA = walks(users=80, num_items=30, longest=8)


def spec(backbone: str = "sasrec", **config: object) -> Spec:
    return SPECS[backbone].model_validate(config)


@pytest.mark.parametrize("backbone", ["sasrec", "hstu"])
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ({"hidden_dim": 32}, {"hidden_dim": 256}),
        ({"num_blocks": 1}, {"num_blocks": 8}),
        ({"batch_size": 32}, {"batch_size": 64}),
        ({"tie_embeddings": True}, {"tie_embeddings": False}),
        ({"loss": "sampled_softmax", "num_negatives": 8}, {"loss": "sampled_softmax", "num_negatives": 64}),
        ({"loss": "sampled_softmax"}, {"loss": "sampled_softmax", "negative_sharing": "position"}),
        ({"loss": "sampled_softmax", "table_updates": "touched_rows"}, {"loss": "sampled_softmax"}),
    ],
)  # fmt: skip
def test_what_costs_more_is_predicted_to(backbone: str, small: dict[str, object], large: dict[str, object]) -> None:
    many = walks(users=300, num_items=20_000, longest=20)
    assert predicted_memory_mb(spec(backbone, **small), many, True) < predicted_memory_mb(
        spec(backbone, **large), many, True
    )


def test_long_histories_that_are_ranked_together_count_even_in_small_batches() -> None:
    long = walks(users=400, num_items=100, longest=200)
    few, many = (predicted_memory_mb(spec(hidden_dim=512, batch_size=32, max_length=length), long, False)
                 for length in (10, 200))  # fmt: skip
    assert many > few + 150  # 32,768 tokens of some 8 x 512 floats are a few hundred MB


def test_without_kernels_attention_weights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    long = walks(users=400, num_items=100, longest=200)
    wide = spec("hstu", num_heads=8, max_length=200)
    found: list[float] = []
    for kernels in (object(), None):
        monkeypatch.setattr(estimate.native, "kernels", lambda kernels=kernels: kernels)
        found.append(predicted_memory_mb(wide, long, False))
    assert found[1] > found[0] + 500


def test_a_million_items_count_by_hand() -> None:
    """Untied dense tables of 10^6 x 64 floats, seven copies, with slack: nearly all that such a training holds."""
    huge = replace(DATA, num_items=10**6)
    table_mb = 2 * 4 * 10**6 * 64 / 2**20
    found = predicted_memory_mb(spec(loss="sampled_softmax", tie_embeddings=False), huge, False)
    assert found == pytest.approx(estimate.PROCESS_MB + estimate.SLACK * 7 * table_mb, rel=0.01)


def test_what_cannot_fit_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "available_memory_mb", lambda: 100.0)
    said = (
        r'^needs about 39\d MB, 100 MB can be had: a smaller hidden_dim or batch_size, or loss "sampled_softmax" with '
    )
    with pytest.raises(NotEnoughMemory, match=said) as caught:
        train(trial(), DATA)
    assert is_out_of_memory(caught.value)


def test_the_limit_of_a_trial_counts_too() -> None:
    with pytest.raises(NotEnoughMemory, match=r"^needs about .* MB, 300 MB can be had: "):
        train(trial().model_copy(update={"memory_mb": 300}), DATA)


def test_the_prediction_stands_in_the_state() -> None:
    _, state = train(trial(max_epochs=1), DATA)
    assert state.predicted_memory_mb == pytest.approx(estimate.PROCESS_MB, rel=0.2) or torch.cuda.is_available()


def test_available_memory_is_that_of_the_machine_or_of_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_CGROUPS", ())
    machine = available_memory_mb()
    assert machine > 0
    limit, used = tmp_path / "limit", tmp_path / "used"
    limit.write_text(f"{50 * 2**20}\n")
    used.write_text(f"{20 * 2**20}\n")
    monkeypatch.setattr(estimate, "_CGROUPS", ((limit, used),))
    assert available_memory_mb() < machine or machine == inf
    limit.write_text("max\n")
    assert available_memory_mb() > 1000
