"""Markdown speed tables from the rows of benchmarks.trainers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.harness.markdown import between, centre, grouped, newest, short, table, times
from benchmarks.harness.rows import Row

OURS, PADDED, RECTOOLS, REPLAY = "VirtualMLE", "padded SASRec", "RecTools SASRec", "RePlay SASRec"
ORDER = (OURS, PADDED, RECTOOLS, REPLAY)
HEADINGS = (
    "trainer", "loss", "s/epoch", "× padded", "× RecTools", "full ranking, s", "× RecTools", "tokens/s", "epochs",
    "version",
)  # fmt: skip

HEAD = """# Speed of the trainers

Seconds per training epoch and per full-ranking evaluation of the validation items: the median (and range) of as many
epochs as the column says. Every row was measured in fresh child processes with the environment that a trial gets
(threads, `malloc` settings), on the same leave-one-out training split, with 2 blocks, 2 heads, batch 256, length 50,
dropout 0.5 and Adam. "× padded" and "× RecTools" say how many times faster an epoch (or the ranking) is than the
padded reference (`benchmarks/peers/padded_reference.py`), whatever the loss, and than RecTools with the same kind of
loss (full or sampled). "version" is the commit that last touched our code, or the version of the package.

- Ours is timed in two processes, before and after the others; the first epoch of each process is left out. The others
  train three batches to warm up, which are thrown away.
- RecTools evaluates with `recommend` (ten items for every user), RePlay with its metrics callback, the padded
  reference by the rank of the target among all items.
- RecTools and RePlay drop attention weights, too, at the same rate; ours and the reference do not. RecTools samples
  256 negatives for each of 50 positions, padding included. RePlay is shown with its defaults, and with its encoder of
  length buckets.
"""


def page(rows: Sequence[Row], command: str) -> str:
    """The text of docs/results/speed.md: a heading for each processor, then a table for each dataset and width."""
    parts = [HEAD, f"Again: `{command}`\n"]
    for hardware, hardware_rows in sorted(grouped(rows, lambda row: row.hardware).items()):
        kind = "CPU" if hardware.endswith(("core", "cores")) else "GPU"
        parts.append(f"## {kind}: {hardware}\n\nEpochs and rankings, {between(hardware_rows)}\n")
        parts.append(tables(hardware_rows, level=3))
    return "\n".join(parts)


def tables(rows: Sequence[Row], level: int = 2) -> str:
    """A heading and a table for each dataset and width."""
    parts: list[str] = []
    for (dataset, width), width_rows in grouped(rows, lambda row: (row.dataset, row.number("hidden_dim"))).items():
        tokens = f"{width_rows[0].number('tokens'):,.0f} training tokens"
        parts.append(f"{'#' * level} {dataset}, d = {width:.0f} ({tokens})\n\n{speed_table(width_rows)}\n")
    return "\n".join(parts)


def speed_table(rows: Sequence[Row]) -> str:
    """The table of one dataset and width on one processor: ours, then the others."""
    measured = [newest(timed) for timed in grouped(rows, lambda row: row.name).values()]
    measured.sort(key=lambda timed: next(place for place, who in enumerate(ORDER) if timed[0].name.startswith(who)))
    padded = next((timed for timed in measured if timed[0].name.startswith(PADDED)), None)
    rectools = {_scores_all_items(timed[0]): timed for timed in measured if timed[0].name.startswith(RECTOOLS)}
    lines: list[list[str]] = []
    for timed in measured:
        first, peer = timed[0], rectools.get(_scores_all_items(timed[0]))
        lines.append([
            str(first.values["trainer"]), str(first.values["loss"]),
            centre([row.number("seconds") for row in timed]), _times(padded, timed), _times(peer, timed),
            centre([row.number("eval_seconds") for row in timed]), _times(peer, timed, "eval_seconds"),
            short(first.number("tokens") / seconds_of(timed)), str(len(timed)), first.commit,
        ])  # fmt: skip
    return table(HEADINGS, lines, left=2)


def seconds_of(rows: Sequence[Row], value: str = "seconds") -> float:
    """The median seconds of an epoch, or of an evaluation."""
    return median(row.number(value) for row in rows)


def _times(others: Sequence[Row] | None, ours: Sequence[Row], value: str = "seconds") -> str:
    return times(None if others is None else seconds_of(others, value), seconds_of(ours, value))


def _scores_all_items(row: Row) -> bool:
    """Whether the loss scores all items; otherwise it samples them."""
    return row.values["loss"] == "full softmax"
