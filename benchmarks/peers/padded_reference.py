"""SASRec as it is usually trained, in plain torch: rows padded on the left, dense attention, negatives gathered.

Written to be fast in that form: fused attention, one projection for q, k and v, and the loss on real positions only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness.task import Answer, Arrays, PeerTraining


class Block(nn.Module):
    """A pre-norm block: causal attention, then a feed-forward layer of the same width."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        B, L, D = x.shape
        projected = self.project(self.attention_norm(x))
        q, k, v = projected.view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # 3 of (B, H, L, D/H)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class PaddedSASRec(nn.Module):
    """SASRec over padded rows. Items count from 1, and 0 is padding. The input table also scores the states."""

    def __init__(self, task: PeerTraining, num_items: int) -> None:
        super().__init__()
        width = task.hidden_dim
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(task.max_length, width))
        self.dropout = nn.Dropout(task.dropout)
        self.blocks = nn.ModuleList(Block(width, task.num_heads, task.dropout) for _ in range(task.num_blocks))
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():
            self.items.weight.normal_(std=0.02)[0] = 0
            self.positions.normal_(std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """States (B, L, D) of items (B, L); states of padding are meaningless."""
        real = items > 0
        L = items.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool, device=items.device).tril()
        diagonal = torch.eye(L, dtype=torch.bool, device=items.device)  # padding sees itself, so no row is empty
        visible = causal & (real[:, None, None, :] | diagonal)  # (B, 1, L, L)
        x = self.dropout(self.items(items) + self.positions)
        for block in self.blocks:
            x = block(x, visible)
        return self.norm(x)


def sampled_loss(model: PaddedSASRec, items: Tensor, real: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross entropy of targets (N,) at the positions `real` (N,) of items (B, L), against negatives (N, K).

    `real` indexes the flattened rows. A negative that equals the target is masked out.
    """
    states, goals = model(items).flatten(0, 1).index_select(0, real), targets[:, None]  # (N, D), (N, 1)
    candidates = model.items(torch.cat([goals, negatives], 1))  # (N, 1 + K, D)
    scores = torch.bmm(candidates, states[:, :, None]).squeeze(2)
    same = F.pad(negatives == goals, (1, 0))
    return F.cross_entropy(scores.masked_fill(same, -torch.inf), torch.zeros_like(targets))


def train_epoch(model: PaddedSASRec, optimizer: torch.optim.Optimizer, loader: DataLoader, task: PeerTraining) -> float:
    """Trains on every batch of the loader once; returns the mean loss."""
    model.train()
    losses: list[Tensor] = []
    for items, targets in loader:
        real = targets.flatten().nonzero().squeeze(1)  # on the host, so that no shape is read from the device
        goals = targets.flatten().index_select(0, real).to(task.device, non_blocking=True)
        shape = (len(real), task.num_negatives)
        negatives = torch.randint(1, model.items.num_embeddings, shape, device=task.device)
        items, real = items.to(task.device, non_blocking=True), real.to(task.device, non_blocking=True)
        loss = sampled_loss(model, items, real, goals, negatives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.inference_mode()
def full_ranking(model: PaddedSASRec, loader: DataLoader, filter_seen: bool, device: str) -> Tensor:
    """Ranks (users,) of the targets among all items. Batches are (newest items, whole history, target)."""
    model.eval()
    ranks: list[Tensor] = []
    for batch in loader:
        items, history, targets = (tensor.to(device, non_blocking=True) for tensor in batch)
        scores = model(items)[:, -1] @ model.items.weight.T  # (B, 1 + V)
        goals = scores.gather(1, targets[:, None])
        if filter_seen:
            scores.scatter_(1, history, -torch.inf)
        scores[:, 0] = -torch.inf
        ranks.append((scores >= goals).sum(1))
    return torch.cat(ranks)


def loaders(arrays: Arrays, task: PeerTraining) -> tuple[DataLoader, DataLoader]:
    """Loaders of (items, targets) for training, shuffled every epoch, and of the batches that `full_ranking` takes."""
    rows = torch.from_numpy(arrays.padded(task.max_length + 1))
    rows = rows[(rows > 0).sum(1) > 1]
    pairs = TensorDataset(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
    longest = int(np.diff(arrays.offsets).max())
    users = TensorDataset(
        torch.from_numpy(arrays.padded(task.max_length)),
        torch.from_numpy(arrays.padded(longest)),
        torch.from_numpy(arrays.validation.astype(np.int64) + 1),
    )
    pinned = task.device != "cpu"
    return (
        DataLoader(pairs, task.batch_size, shuffle=True, pin_memory=pinned),
        DataLoader(users, task.batch_size, pin_memory=pinned),
    )


def new_model(task: PeerTraining, num_items: int) -> tuple[PaddedSASRec, torch.optim.Optimizer]:
    """A new model on the device, and its optimizer."""
    model = PaddedSASRec(task, num_items).to(task.device)
    return model, torch.optim.Adam(model.parameters(), lr=task.learning_rate, betas=(0.9, 0.98), fused=True)


def main(path: Path) -> None:
    """Trains the task in the file `path` and prints an answer after each epoch."""
    task = PeerTraining.read(path)
    arrays = Arrays.read(Path(task.arrays))
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    training, users = loaders(arrays, task)
    if task.warm_up_steps:
        few = range(min(len(training.dataset), task.warm_up_steps * task.batch_size))  # pyright: ignore[reportArgumentType]
        train_epoch(
            *new_model(task, arrays.num_items), DataLoader(training.dataset, task.batch_size, sampler=few), task
        )
    model, optimizer = new_model(task, arrays.num_items)
    for epoch in range(1, task.epochs + 1):
        started = clock(task.device)
        loss = train_epoch(model, optimizer, training, task)
        trained = clock(task.device)
        full_ranking(model, users, task.filter_seen, task.device)
        Answer(epoch, loss, trained - started, clock(task.device) - trained).print_line()


def clock(device: str) -> float:
    """The clock in seconds, read once the device has finished all its work."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
