"""Batches of fixed shape equal the packed ones, and a GPU's graphs give what its kernels give."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.examples import ENCODERS
from trainers.contract.specs import SPECS
from trainers.models import native
from trainers.models.backbones import Encoder, build
from trainers.models.graphs import FixedShape, GraphEncoder, check_equal, fixed_shape, rounded, states_and_gradients

ITEMS, WIDTH = 40, 12
LENGTHS = (3, 1, 12, 5, 2, 12, 4, 7, 3)
CPU = torch.device("cpu")
every_variant = pytest.mark.parametrize(("backbone", "config"), ENCODERS)


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, for which there are no compiled kernels."""
    monkeypatch.setattr(native, "kernels", lambda: None)


def encoder(backbone: str, **config: object) -> Encoder:
    settings = {"max_length": WIDTH, "hidden_dim": 16, "dropout": 0.3, "attention_dropout": 0.2}
    torch.manual_seed(0)
    model = build(SPECS[backbone].model_validate({**settings, **config}), ITEMS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def batch(lengths: tuple[int, ...] = LENGTHS, seed: int = 0, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    items = torch.randint(ITEMS, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    return items.to(device), torch.tensor([0, *lengths]).cumsum(0)


def gradients(model: Encoder, encode: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """States after the dropout masks of one seed, and what a training step would get from them."""
    model.zero_grad()
    model.masks.restart(3)
    states = encode()
    (states * torch.linspace(-1, 1, states.numel(), device=states.device).view_as(states)).sum().backward()
    return states.detach().clone(), {name: parameter.grad for name, parameter in model.named_parameters()}


@every_variant
def test_spare_tokens_change_neither_states_nor_gradients(backbone: str, config: dict[str, object]) -> None:
    model = encoder(backbone, **config).double()
    items, offsets = batch()
    given = fixed_shape(items, offsets, WIDTH)
    assert len(given[0]) > len(items) + 1
    function = FixedShape(model, len(LENGTHS), WIDTH)
    wanted = gradients(model, lambda: model.encode(items, offsets))
    found = gradients(model, lambda: function(*given)[: len(items)])
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


def test_few_shapes_hold_all_batches_with_little_to_spare() -> None:
    sizes = {tokens: rounded(tokens) for tokens in range(1, 5000)}
    assert all(tokens <= size <= tokens + max(0, tokens // 8) for tokens, size in sizes.items())
    assert len({size for tokens, size in sizes.items() if tokens > 1024}) <= 19


def recording(model: Encoder) -> GraphEncoder:
    """An encoder that believes to be on a GPU."""
    encode = GraphEncoder(model, len(LENGTHS), WIDTH, 2, CPU)
    encode.usable = True
    return encode


def test_only_full_batches_are_recorded_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = encoder("sasrec"), list[int]()

    def record(self: GraphEncoder, given: tuple[Tensor, ...], tokens: int) -> Callable[..., Tensor]:
        shapes.append(len(given[0]))
        return FixedShape(model, self.sequences, self.longest)

    monkeypatch.setattr(GraphEncoder, "_record", record)
    encode = recording(model)
    longer = (12, *LENGTHS[1:])
    for lengths, seed in [(LENGTHS, 0), (longer, 1), (LENGTHS, 2), (LENGTHS[:4], 3)]:
        items, offsets = batch(lengths, seed)
        wanted, _ = gradients(model, lambda: model.encode(items, offsets))  # noqa: B023
        found, _ = gradients(model, lambda: encode(items, offsets))  # noqa: B023
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert shapes == [rounded(sum(LENGTHS)), rounded(sum(longer))]


def test_what_cannot_be_recorded_is_said_once_and_encoded_by_the_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def record(self: GraphEncoder, given: tuple[Tensor, ...], tokens: int) -> Callable[..., Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphEncoder, "_record", record)
    model = encoder("hstu")
    encode = recording(model)
    with caplog.at_level(logging.WARNING):
        found = [gradients(model, lambda: encode(*batch()))[0] for _ in range(2)]
    torch.testing.assert_close(found[-1], gradients(model, lambda: model.encode(*batch()))[0])
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graphs in this training: operation not permitted when stream is capturing"
    ]


def test_a_graph_that_gives_something_else_is_refused() -> None:
    model = encoder("sasrec", dropout=0.0, attention_dropout=0.0)
    items, offsets = batch()
    given = fixed_shape(items, offsets, WIDTH)
    wanted = states_and_gradients(FixedShape(model, len(LENGTHS), WIDTH), given, len(items))
    check_equal(wanted, [tensor.clone() for tensor in wanted])
    for wrong in (1.1, float("nan")):
        with pytest.raises(RuntimeError, match="differs from what was recorded"):
            check_equal(wanted, [*wanted[:-1], wanted[-1] * wrong])


def test_a_processor_records_nothing_and_large_attention_neither() -> None:
    model = encoder("sasrec")
    assert not GraphEncoder(model, 256, 50, 2, CPU).usable
    assert not GraphEncoder(model, 1024, 2000, 2, torch.device("cuda")).usable
    large = SPECS["sasrec"].model_validate({"loss": "sampled_softmax", "hidden_dim": 128})
    assert not GraphEncoder(build(large, 100_000), 32, 50, 2, torch.device("cuda")).usable
    touched = encoder("sasrec", loss="sampled_softmax", table_updates="touched_rows")
    assert not GraphEncoder(touched, 256, 50, 2, torch.device("cuda")).usable


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_variant
def test_graphs_give_what_kernels_give(backbone: str, config: dict[str, object]) -> None:
    device = torch.device("cuda")
    model = encoder(backbone, **config, dropout=0.0, attention_dropout=0.0).to(device)
    encode = GraphEncoder(model, len(LENGTHS), WIDTH, 4, device)
    for lengths, seed in [(LENGTHS, 0), ((12, *LENGTHS[1:]), 1), (LENGTHS, 2)]:
        items, offsets = batch(lengths, seed, device)
        wanted = gradients(model, lambda: model.encode(items, offsets))  # noqa: B023
        found = gradients(model, lambda: encode(items, offsets))  # noqa: B023
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert len(encode.graphs) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_draw_the_dropout_of_the_seed() -> None:
    device = torch.device("cuda")
    model = encoder("sasrec").to(device)
    items, offsets = batch(device=device)
    runs = []
    encode = GraphEncoder(model, len(LENGTHS), WIDTH, 4, device)
    for _ in range(2):  # the second records nothing; both must draw the same
        torch.manual_seed(7)
        first, second = (encode(items, offsets).detach().clone() for _ in range(2))
        assert not torch.equal(first, second)
        runs.append((first, second))
    torch.testing.assert_close(runs[0], runs[1])
