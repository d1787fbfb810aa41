"""The ONNX encoder computes what the trained one does, by the reference of ONNX and by the runtime that people use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tests.support.pairwise import pairwise
from trainers.child import onnx_encoder
from trainers.child.export import _export_onnx
from trainers.child.onnx_encoder import NotChecked, NotEqual, PaddedEncoder, export, padded
from trainers.contract.fields import space_of
from trainers.contract.specs import SPECS
from trainers.models.backbones import Encoder, build
from trainers.models.batches import newest

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


LENGTHS = (10, 63, 64, 65, 200)
STRUCTURE: dict[str, tuple[Any, ...]] = {
    "hidden_dim": (16, 40), "num_blocks": (1, 3), "num_heads": (1, 8),
    "tie_embeddings": (True, False), "scale_embeddings": (False, True), "normalize_embeddings": (False, True),
    "position": ("learned", "relative", "rotary"), "block_norm": ("pre", "post"), "share_blocks": (False, True),
    "pooling": ("last", "mean"), "pooling_window": (2, 20),
}  # fmt: skip
"""Values of the architecture fields, but max_length, that both backbones have."""
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    "sasrec": {"feed_forward": ("gelu", "swiglu")},
    "hstu": {"feed_forward": ("none", "gelu", "swiglu"), "linear_dim": (8, 13), "attention_dim": (8, 13)},
}
"""Values of the architecture fields that one backbone has."""


CASES = [
    (backbone, {"max_length": LENGTHS[number % len(LENGTHS)], **case})
    for backbone in OWN
    for number, case in enumerate(pairwise({**STRUCTURE, **OWN[backbone]}))
]
"""Every pair of two values of structural fields with each backbone, and every length with both of them."""


def test_the_cases_vary_every_field_of_the_architecture_of_both_backbones() -> None:
    for backbone, spec in SPECS.items():
        fields = {field.name: field for field in space_of(spec).fields if field.group == "architecture"}
        values = {"max_length": LENGTHS, **STRUCTURE, **OWN[backbone]}
        assert set(values) == set(fields)
        for name, field in fields.items():
            assert set(values[name]) >= set(field.choices or ((False, True) if field.kind == "bool" else ()))
            assert {case[name] for kind, case in CASES if kind == backbone} == set(values[name])


@pytest.mark.parametrize(("backbone", "config"), CASES)
def test_torch_and_onnx_agree_at_every_length_and_in_every_structure(
    tmp_path: Path, backbone: str, config: dict[str, Any]
) -> None:
    length, model = config["max_length"], encoder(backbone, config)
    assert export(model, length, tmp_path / "encoder.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for given in (sequences(1), sequences(4, 1, 7), sequences(1, 2, length // 2, length - 1, length, length)):
        items, lengths = padded(given)
        (states,) = session.run(None, {"items": items, "lengths": lengths})
        assert isinstance(states, np.ndarray)
        np.testing.assert_allclose(states, states_of(model, given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", OWN)
def test_padded_rows_have_the_states_of_packed_sequences_at_every_length(backbone: str) -> None:
    structures = [case for kind, case in CASES if kind == backbone]
    for number, length in enumerate(range(10, 201)):
        model = encoder(backbone, {**structures[number % len(structures)], "max_length": length})
        given = sequences(1, 3, length - 1, length)
        with torch.inference_mode():
            rows = PaddedEncoder(model.eval())(*(torch.from_numpy(array) for array in padded(given)))
        np.testing.assert_allclose(rows.numpy(), states_of(model, given), rtol=1e-3, atol=1e-4)


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
    with pytest.raises(NotEqual, match=r"differs from the trained encoder by 0\.5"):
        export(encoder(*VARIANTS[0]), LENGTH, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_could_not_be_checked_leaves_no_file_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_encoder: Encoder, _length: int, path: Path) -> float:
        path.with_name("encoder.onnx.data").touch()  # the weights of a large model lie in a file of their own
        raise ValueError("Need at least 0\nand at most 64 array objects.")

    monkeypatch.setattr(onnx_encoder, "largest_difference", fail)
    model = encoder(*VARIANTS[0])
    with pytest.raises(NotChecked):
        export(model, LENGTH, tmp_path / "encoder.onnx")
    spec = SPECS["sasrec"].model_validate({"max_length": LENGTH})
    assert _export_onnx(model, spec, tmp_path / "encoder.onnx") == (
        None,
        "it could not be compared with the trained encoder (ValueError: Need at least 0 and at most 64 array "
        "objects.), and was removed",
    )
    assert list(tmp_path.iterdir()) == []


def test_what_has_to_be_installed_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_encoder.missing() == []
    monkeypatch.setattr(onnx_encoder, "NEEDED", ("onnx", "nothing_of_the_kind"))
    assert onnx_encoder.missing() == ["nothing_of_the_kind"]
