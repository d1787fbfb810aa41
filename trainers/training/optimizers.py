"""The optimizers: Adam or AdamW, and a row-wise Adam for item tables of which a step touches few rows."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract.fields import Spec


def optimizers_of(spec: Spec, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Adam with L2 decay, or AdamW with decay decoupled from the gradient; `set_rate` applies the rate schedule.

    Tables with sparse gradients (`table_updates="touched_rows"`) get a separate RowAdam.
    """
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse]
    touched = {id(table) for table in tables}
    others = [parameter for parameter in model.parameters() if id(parameter) not in touched]
    kind = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    rate, betas, decay = spec.learning_rate, (0.9, spec.beta2), spec.weight_decay
    optimizers: list[torch.optim.Optimizer] = [kind(others, lr=rate, betas=betas, weight_decay=decay, fused=True)]
    if tables:
        optimizers.append(RowAdam(tables, rate, betas, decay, decoupled=spec.optimizer == "adamw"))
    return optimizers


def set_rate(optimizers: Iterable[torch.optim.Optimizer], spec: Spec, epochs: float) -> None:
    """Sets the learning rate of a step; `epochs`, a fraction too, is the training done by the middle of the step."""
    if spec.learning_rate_schedule == "constant" and not spec.warmup_epochs:
        return
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * rate_factor(spec, epochs)


def rate_factor(spec: Spec, epochs: float) -> float:
    """The share of the highest rate: linear growth in the warm-up, then a fall that would reach 0 at max_epochs."""
    if epochs < spec.warmup_epochs:
        return epochs / spec.warmup_epochs
    if spec.learning_rate_schedule == "constant":
        return 1.0
    left = (spec.max_epochs - epochs) / (spec.max_epochs - spec.warmup_epochs)
    return left if spec.learning_rate_schedule == "linear" else 0.5 - 0.5 * cos(pi * left)


class RowAdam(torch.optim.Optimizer):
    """Adam that leaves the value and moments of rows without a gradient unchanged; decay skips these rows as well."""

    def __init__(
        self, tables: Iterable[Tensor], rate: float, betas: tuple[float, float], weight_decay: float, decoupled: bool
    ) -> None:
        super().__init__(
            tables, {"lr": rate, "betas": betas, "weight_decay": weight_decay, "decoupled": decoupled, "eps": 1e-8}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates the rows that received a gradient since the last `zero_grad`."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad.coalesce(), group)

    def _update(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state |= {"step": 0, "first": torch.zeros_like(table), "second": torch.zeros_like(table)}
        state["step"] += 1
        rate, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        (rows,), pull = gradient.indices(), gradient.values()  # (K,), (K, D)
        values = table.index_select(0, rows)
        if decay and group["decoupled"]:
            values.mul_(1 - rate * decay)
        elif decay:
            pull = pull + decay * values
        first = state["first"].index_select(0, rows).lerp_(pull, 1 - beta1)
        second = state["second"].index_select(0, rows).mul_(beta2).addcmul_(pull, pull, value=1 - beta2)
        size = (second / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        values.addcdiv_(first, size, value=-rate / (1 - beta1 ** state["step"]))
        for whole, part in ((state["first"], first), (state["second"], second), (table, values)):
            whole.index_copy_(0, rows, part)


def clip_gradients(parameters: Iterable[Tensor], norm: float) -> None:
    """Scales all gradients by one factor if their total norm exceeds `norm`; sparse ones become coalesced."""
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    total = torch.nn.utils.get_total_norm(gradients)
    factor = (norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
