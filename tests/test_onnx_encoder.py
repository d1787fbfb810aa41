"""The ONNX encoder computes what the trained one does, by the reference of ONNX and by the runtime that people use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from trainers import onnx_encoder
from trainers.backbones import Encoder, build
from trainers.batches import newest
from trainers.onnx_encoder import NotEqual, PaddedEncoder, export, padded
from trainers.spec import SPECS

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("sasrec", {"position": "relative", "feed_forward": "swiglu", "share_blocks": True, "dropout": 0.5}),
    ("sasrec", {"position": "rotary", "block_norm": "post", "num_heads": 4, "pooling": "mean", "pooling_window": 4}),
    ("hstu", {"linear_dim": 8, "attention_dim": 12, "normalize_embeddings": True, "num_heads": 1}),
    ("hstu", {"position": "rotary", "attention_dim": 9, "feed_forward": "gelu", "tie_embeddings": False}),
]
LENGTH = 12


def encoder(backbone: str, config: dict[str, Any]) -> Encoder:
    torch.manual_seed(0)
    model = build(SPECS[backbone].model_validate({"max_length": LENGTH, "hidden_dim": 16, **config}), 40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def sequences(*lengths: int) -> list[np.ndarray]:
    draw = np.random.default_rng(3)
    return [draw.integers(40, size=length) for length in lengths]


def states_of(model: Encoder, given: list[np.ndarray]) -> np.ndarray:
    """By torch, of packed sequences."""
    offsets = torch.tensor([0, *np.cumsum([len(sequence) for sequence in given])])
    with torch.inference_mode():
        return newest(model.eval().encode(torch.from_numpy(np.concatenate(given)), offsets), offsets).numpy()


@pytest.mark.parametrize(("backbone", "config"), VARIANTS)
def test_torch_and_onnx_agree_for_any_number_and_width_of_rows(
    tmp_path: Path, backbone: str, config: dict[str, Any]
) -> None:
    model = encoder(backbone, config)
    assert export(model, LENGTH, tmp_path / "encoder.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for given in (sequences(1), sequences(4, 1, 7), sequences(*range(1, LENGTH + 1))):
        items, lengths = padded(given)
        (found,) = session.run(None, {"items": items, "lengths": lengths})
        np.testing.assert_allclose(found, states_of(model, given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("backbone", "config"), VARIANTS)
def test_padding_reaches_no_state(backbone: str, config: dict[str, Any]) -> None:
    rows = PaddedEncoder(encoder(backbone, config).eval())
    items, lengths = (torch.from_numpy(array) for array in padded(sequences(5, 2, 9)))
    other = items.clone()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = 39
    with torch.inference_mode():
        torch.testing.assert_close(rows(items, lengths), rows(other, lengths))


def test_an_encoder_that_came_out_wrong_is_not_let_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_encoder, "largest_difference", lambda *_: 0.5)
    with pytest.raises(NotEqual, match=r"differs from the trained one by 0\.5"):
        export(encoder(*VARIANTS[0]), LENGTH, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_has_to_be_installed_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_encoder.missing() == []
    monkeypatch.setattr(onnx_encoder, "NEEDED", ("onnx", "nothing_of_the_kind"))
    assert onnx_encoder.missing() == ["nothing_of_the_kind"]
