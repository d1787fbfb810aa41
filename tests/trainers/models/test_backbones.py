"""The contract of every backbone: causal, sequence by sequence, trainable, and equal to its padded definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support import padded
from tests.support.examples import ENCODERS
from tests.support.weights import table
from trainers.contract.fields import Spec
from trainers.contract.specs import SPECS
from trainers.models.backbones import BACKBONES, Encoder, build
from trainers.models.batches import Layout, newest

ITEMS = 40
every_variant = pytest.mark.parametrize(("backbone", "config"), ENCODERS)
every_backbone = pytest.mark.parametrize("backbone", sorted(BACKBONES))


def spec_of(backbone: str, **config: object) -> Spec:
    return SPECS[backbone].model_validate({"max_length": 12, "hidden_dim": 16, "dropout": 0.0, **config})


def encoder(spec: Spec, seed: int = 0) -> Encoder:
    """An encoder whose parameters are all far from zero, so that none can hide."""
    torch.manual_seed(seed)
    model = build(spec, ITEMS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def pack(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0] + [len(sequence) for sequence in sequences])
    return torch.tensor([item for sequence in sequences for item in sequence]), lengths.cumsum(0)


def uneven() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = (3, 1, 12, 5, 2, 12, 4, 7, 1)
    return [torch.randint(ITEMS, (length,), generator=generator).tolist() for length in lengths]


def test_the_layout_puts_sequences_of_like_length_side_by_side() -> None:
    layout = Layout.of(torch.tensor([0, 3, 4, 8]), torch.device("cpu"))
    assert layout.padding.groups == ((1, 1), (2, 4))  # the one of 1 alone; those of 3 and 4 in rows of 4
    assert layout.padding.slots.tolist() == [1, 2, 3, 0, 5, 6, 7, 8]
    assert layout.recency.tolist() == [2, 1, 0, 0, 3, 2, 1, 0]


@every_variant
def test_packed_rows_equal_the_padded_definition_in_outputs_and_gradients(
    backbone: str, config: dict[str, object]
) -> None:
    spec = spec_of(backbone, **config)
    model = encoder(spec).double()
    sequences = uneven()
    states = model.encode(*pack(sequences))
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    items, real = padded.pad(sequences, width=17)  # wider than the longest, and wider than max_length
    wanted = getattr(padded, backbone)(spec, weights, items, real)[real]
    rtol, atol = (1e-4, 1e-5) if spec.position == "rotary" else (1e-7, 1e-7)  # fp32 angles
    torch.testing.assert_close(states, wanted, rtol=rtol, atol=atol)

    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    (states * direction).sum().backward()
    (wanted * direction).sum().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("output_items"):
            torch.testing.assert_close(
                parameter.grad, weights[name].grad, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


@every_variant
def test_a_later_item_never_changes_an_earlier_state(backbone: str, config: dict[str, object]) -> None:
    model = encoder(spec_of(backbone, **config))
    before = model.encode(*pack([[1, 2, 3, 4, 5, 6]]))
    after = model.encode(*pack([[1, 2, 3, 4, 9, 6]]))
    torch.testing.assert_close(before[:4], after[:4])
    assert not torch.allclose(before[4], after[4])
    assert not torch.allclose(before[5], after[5])


@every_variant
def test_a_sequence_never_changes_the_states_of_another(backbone: str, config: dict[str, object]) -> None:
    model = encoder(spec_of(backbone, **config))
    sequences = uneven()
    together = model.encode(*pack(sequences))
    alone = torch.cat([model.encode(*pack([sequence])) for sequence in sequences])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=3e-5)  # sums are taken in another order


@every_backbone
def test_the_newest_item_has_the_same_position_whatever_the_length(backbone: str) -> None:
    model = encoder(spec_of(backbone))
    offsets = pack([[1, 2, 3], [7]])[1]
    assert Layout.of(offsets, torch.device("cpu")).recency[newest(torch.arange(4)[:, None], offsets)].tolist() == [
        [0],
        [0],
    ]
    with torch.no_grad():
        table(model, "positions").weight[0] += 1
    changed = model.encode(*pack([[1, 2, 3]])) - encoder(spec_of(backbone)).encode(*pack([[1, 2, 3]]))
    assert changed.abs().sum(1).gt(1e-6).tolist() == [False, False, True]


@every_variant
def test_a_gradient_reaches_every_parameter(backbone: str, config: dict[str, object]) -> None:
    model = encoder(spec_of(backbone, **config))
    states = model.encode(*pack(uneven()))
    F.cross_entropy(states @ model.output_table().T, torch.arange(len(states)) % ITEMS).backward()
    untouched = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []


@every_variant
def test_it_memorises_one_batch(backbone: str, config: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build(spec_of(backbone, **config), ITEMS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    items, offsets = pack([[start, *range(1, 8)] for start in range(10, 20)])
    targets = torch.cat([torch.arange(start, start + 8) % ITEMS for start in range(0, 80, 8)])
    for _ in range(150):
        optimizer.zero_grad()
        scores = model.encode(items, offsets) @ model.output_table().T
        F.cross_entropy(scores, targets).backward()
        optimizer.step()
    scores = model.encode(items, offsets) @ model.output_table().T
    assert scores.argmax(1).tolist() == targets.tolist()


@every_backbone
@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(backbone: str, field: str) -> None:
    model = encoder(spec_of(backbone, **{field: 0.5}))
    packed = pack([[1, 2, 3, 4, 5, 6]])
    assert not torch.equal(model.encode(*packed), model.encode(*packed))
    model.eval()
    assert torch.equal(model.encode(*packed), model.encode(*packed))


@every_backbone
def test_untied_scores_use_a_table_of_their_own(backbone: str) -> None:
    tied, untied = (build(spec_of(backbone, tie_embeddings=tie), ITEMS) for tie in (True, False))
    count = sum(parameter.numel() for parameter in untied.parameters())
    assert count - sum(parameter.numel() for parameter in tied.parameters()) == ITEMS * 16
    assert tied.output_table() is table(tied).weight


def test_normalised_scores_are_cosines_over_the_temperature() -> None:
    model = encoder(spec_of("hstu", normalize_embeddings=True, temperature=0.5))
    states, table = model.encode(*pack(uneven())), model.output_table()
    torch.testing.assert_close(states.norm(dim=1), torch.full((len(states),), 2.0))
    torch.testing.assert_close(table.norm(dim=1), torch.ones(ITEMS))
