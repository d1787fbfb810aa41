"""The contract of the compiled kernels: whatever plain torch computes, they compute too, forward and backward."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from tests.support.examples import ENCODERS
from trainers.__main__ import main
from trainers.contract.specs import SPECS
from trainers.models import native
from trainers.models.attention import Heads, pointwise_attention, softmax_attention
from trainers.models.backbones import build
from trainers.models.batches import Layout
from trainers.models.fused import Mask, Masks, add_dropped, embed, gate_dropped, gelu_dropped, layer_norm, lookup
from trainers.ranking.evaluate import Top, count_reaching
from trainers.training import losses, sampled_loss
from trainers.training.negatives import Negatives

compiled = pytest.mark.skipif(native.kernels() is None, reason="no compiler for the kernels, or not their processor")
NOTHING, HALF, SOME = Mask(0, 0.0), Mask(0x9ABCDEF0, 0.5), Mask(77, 0.3)
LENGTHS = (3, 1, 40, 5, 17, 16, 2, 33, 1, 65, 100)
LONGEST = 100
N = sum(LENGTHS)
LAYOUT = Layout.of(torch.tensor([0, *LENGTHS]).cumsum(0), torch.device("cpu"))

Layer = TypeVar("Layer", bound=nn.Module)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches the kernels off and on."""
    there = native.kernels

    def switch(off: bool) -> None:
        monkeypatch.setattr(native, "kernels", (lambda: None) if off else there)

    return switch


def assert_equal(plain: Callable[[bool], None], compute: Callable[..., Tensor], *tensors: Tensor) -> None:
    """Equal outputs and gradients, with kernels and without."""
    found = []
    for off in (False, True):
        plain(off)
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        out = compute(*inputs)
        (out * random(*out.shape, seed=9)).sum().backward()
        found.append((out.detach(), [tensor.grad for tensor in inputs]))
    torch.testing.assert_close(found[0], found[1], rtol=2e-5, atol=2e-5)


def given(layer: Layer, **tensors: Tensor) -> Layer:
    """The layer with these in place of its parameters, so that gradients reach them."""
    for name, tensor in tensors.items():
        delattr(layer, name)
        layer.register_buffer(name, tensor)
    return layer


masked = pytest.mark.parametrize("mask", [NOTHING, HALF, SOME], ids=["nothing", "half", "some"])


@compiled
@masked
@pytest.mark.parametrize("width", [1, 16, 37])
def test_elementwise_steps(plain: Callable[[bool], None], mask: Mask, width: int) -> None:
    x, h = random(N, width), random(N, width, seed=1)
    assert_equal(plain, lambda x, h: add_dropped(x, h, mask), x, h)
    assert_equal(plain, lambda h: gelu_dropped(h, mask), h * 3)
    wide = random(N, 2 * width, seed=2)
    assert_equal(plain, lambda wide, x: gate_dropped(wide[:, width:], x, mask), wide, x)


@compiled
@masked
def test_embedding(plain: Callable[[bool], None], mask: Mask) -> None:
    rows = torch.randint(11, (N,), generator=torch.Generator().manual_seed(0))

    def compute(items: Tensor, positions: Tensor) -> Tensor:
        table, places = given(nn.Embedding(11, 24), weight=items), given(nn.Embedding(LONGEST, 24), weight=positions)
        return embed(table, places, rows, LAYOUT.recency, 3.0, mask) + lookup(table, rows)

    assert_equal(plain, compute, random(11, 24), random(LONGEST, 24))

    def without_positions(items: Tensor) -> Tensor:
        table = given(nn.Embedding(11, 24), weight=items)
        return embed(table, None, rows, LAYOUT.recency, 3.0, mask)

    assert_equal(plain, without_positions, random(11, 24))


@compiled
@pytest.mark.parametrize("width", [3, 16, 50])
def test_layer_norm(plain: Callable[[bool], None], width: int) -> None:
    def compute(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, given(nn.LayerNorm(width), weight=weight, bias=bias))

    assert_equal(plain, compute, random(N, width), random(width), random(width, seed=1))


@compiled
@masked
@pytest.mark.parametrize(("heads", "width"), [(1, 8), (2, 32), (3, 5)])
def test_softmax_attention(plain: Callable[[bool], None], mask: Mask, heads: int, width: int) -> None:
    D = heads * width
    where = Heads(heads, 3 * D, width, width, 0, D, 2 * D, width, width)
    assert_equal(plain, lambda x: softmax_attention(x, None, LAYOUT, where, mask, LONGEST), random(N, 3 * D))

    def with_bias(x: Tensor, bias: Tensor) -> Tensor:
        return softmax_attention(x, bias, LAYOUT, where, mask, LONGEST)

    assert_equal(plain, with_bias, random(N, 3 * D), random(LONGEST))


@compiled
@masked
@pytest.mark.parametrize(("heads", "values", "keys"), [(1, 16, 16), (2, 9, 20)])
def test_pointwise_attention(plain: Callable[[bool], None], mask: Mask, heads: int, values: int, keys: int) -> None:
    step = values + 2 * keys
    where = Heads(heads, heads * step, keys, values, values, values + keys, 0, step, step)

    def compute(x: Tensor, bias: Tensor) -> Tensor:
        return pointwise_attention(x, bias, LAYOUT, where, mask, LONGEST, 50)

    assert_equal(plain, compute, random(N, heads * step), random(LONGEST))


@compiled
@pytest.mark.parametrize("block", [1, 2**22])
def test_losses(plain: Callable[[bool], None], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (losses, sampled_loss):
        monkeypatch.setattr(module, "BLOCK_SCORES", block)
    draw = torch.Generator().manual_seed(1)
    targets, shared = torch.randint(29, (N,), generator=draw), torch.randint(29, (7,), generator=draw)
    own = torch.randint(29, (N, 7), generator=draw)
    states, table = random(N, 12), random(29, 12)
    assert_equal(plain, lambda x, table: losses.full_softmax(x, table, targets), states, table)
    both, more = torch.cat([targets, shared]), torch.linspace(-1, 1, len(shared))

    def with_own(x: Tensor, table: Tensor) -> Tensor:
        return sampled_loss.own_negatives(x, table, targets, own, None, sampled_loss.softmax)

    def with_shared(x: Tensor, table: Tensor) -> Tensor:
        return sampled_loss.shared_negatives(x, table[both], targets, shared, more, sampled_loss.softmax)

    assert_equal(plain, with_own, states, table)
    assert_equal(plain, with_shared, states, table)


@compiled
def test_a_loss_scored_in_bf16_is_near_that_in_fp32(plain: Callable[[bool], None]) -> None:
    targets = torch.randint(500, (N,), generator=torch.Generator().manual_seed(1))
    found = {}
    for off in (False, True):
        for bf16 in (False, True):
            plain(off)
            x, table = random(N, 32).requires_grad_(), (random(500, 32) * 0.3).requires_grad_()
            losses.full_softmax(x, table, targets, bf16).backward()
            found[off, bf16] = (x.grad, table.grad)
    for got in (found[False, True], found[True, True]):
        for ours, exact in zip(got, found[False, False], strict=True):
            assert (ours - exact).norm() < 0.01 * exact.norm()


@compiled
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_extreme_scores_leave_finite_losses(scale: float) -> None:
    states, table = random(N, 12) * scale, random(29, 12) * scale
    targets = torch.zeros(N, dtype=torch.long)
    loss = losses.full_softmax(states, table, targets)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(states @ table.T, targets))


@compiled
@pytest.mark.parametrize("k", [1, 10, 60])
@pytest.mark.parametrize("width", [1, 16, 37])
def test_the_best_of_rows(plain: Callable[[bool], None], k: int, width: int) -> None:
    scores = random(9, 3 * width)
    scores[:, 5::7] = -torch.inf  # filtered
    found = []
    for off in (False, True):
        plain(off)
        top = Top(9, k, scores)
        for start in range(0, 3 * width, width):
            top.take(scores[:, start : start + width].contiguous(), start)
        found.append((top.scores, top.items))
    torch.testing.assert_close(found[0], found[1])
    assert not (found[0][1] % 7 == 5).any()


@compiled
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_score_that_is_not_finite_is_noticed_by_kernels_and_plain_torch(
    plain: Callable[[bool], None], bad: float
) -> None:
    scores, goals = random(5, 40), random(5)
    for off in (False, True):
        plain(off)
        reaching, finite = count_reaching(scores, goals)
        assert reaching.tolist() == (scores >= goals[:, None]).sum(1).tolist()
        assert finite
        broken = scores.clone()
        broken[3, 17] = bad
        assert not count_reaching(broken, goals)[1]


@compiled
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "gbce"])
@pytest.mark.parametrize(("backbone", "config"), ENCODERS)
def test_a_whole_step_of_an_encoder(
    plain: Callable[[bool], None], backbone: str, config: dict[str, object], loss: str
) -> None:
    settings = {"hidden_dim": 16, "max_length": LONGEST, "dropout": 0.4, "attention_dropout": 0.2, **config}
    settings |= {} if loss == "full_softmax" else {"num_negatives": 5}
    spec = SPECS[backbone].model_validate({**settings, "loss": loss})
    items = torch.randint(23, (N,), generator=torch.Generator().manual_seed(4))
    found = []
    for off in (False, True):
        plain(off)
        torch.manual_seed(1)
        model = build(spec, 23)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        model.masks.restart(5)
        states = model.encode(items, LAYOUT.offsets)
        negatives = Negatives(spec, items.bincount(minlength=23).numpy(), items.device)
        generator = torch.Generator().manual_seed(2)
        losses.loss_of(spec, model, states, items, negatives, generator, bf16=False).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((states.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_a_mask_drops_its_share_and_keeps_the_mean() -> None:
    factors = Mask(123456789, 0.3).factors(torch.arange(200_000))
    assert factors.unique().tolist() == [0.0, pytest.approx(1 / 0.7, rel=1e-6)]
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.01)


def test_masks_repeat_from_a_restart_and_differ_within_it() -> None:
    masks = Masks()

    def some() -> list[int]:
        masks.restart(7)
        return [masks.next(0.5).key for _ in range(4)]

    assert some() == some()
    assert len(set(some())) == 4
    masks.training = False
    assert masks.next(0.5) == NOTHING


@compiled
def test_without_a_compiler_plain_torch_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    native.kernels.cache_clear()
    try:
        with caplog.at_level("INFO"):
            assert (native.kernels(), native.describe()) == (None, "plain")
            assert add_dropped(random(2, 3), random(2, 3), NOTHING).shape == (2, 3)
    finally:
        native.kernels.cache_clear()
    said = "no compiled kernels, so plain torch computes: no C++ compiler is installed (g++ or clang++)"
    assert caplog.messages == [said]


def test_a_compiler_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_level", lambda: "AVX2")
    monkeypatch.setattr(native.shutil, "which", lambda name: "/opt/bin/g++")
    failed = subprocess.CompletedProcess([], 1, "", "kernels.cpp:1: error: no\nmore\n")
    monkeypatch.setattr(native.subprocess, "run", lambda *given, **options: failed)
    with pytest.raises(native.NoKernels, match=r"^g\+\+ failed: kernels.cpp:1: error: no$"):
        native.build(tmp_path)


@compiled
def test_an_image_compiles_the_kernels_of_every_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--into", str(tmp_path)]) == 0
    made = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split("-")[1] for name in made] == ["avx2", "avx512"]
    assert sorted(Path(line).name for line in capsys.readouterr().out.split()) == made
    assert f"kernels-{native.describe().removeprefix('compiled-')}.so" in made


def test_a_cut_file_of_kernels_is_one_line_and_plain_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut = tmp_path / "kernels-cut.so"
    cut.write_bytes(b"\x7fELF")
    monkeypatch.setattr(native, "_find_or_build", lambda: cut)
    native.kernels.cache_clear()
    try:
        with caplog.at_level("INFO"):
            assert native.kernels() is None
    finally:
        native.kernels.cache_clear()
    (line,) = caplog.messages
    assert line.startswith("no compiled kernels, so plain torch computes: kernels-cut.so cannot be loaded: ")
