"""The speed tables: from the rows of benchmarks.trainers to markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.rows import Row
from benchmarks.tables import centre, grouped, newest, short, table, times

PADDED, RECTOOLS = "padded SASRec", "RecTools SASRec"
HEADINGS = (
    "trainer", "loss", "s/epoch", "full ranking, s", "tokens/s", "× padded", "× RecTools", "epochs", "version",
)  # fmt: skip

HEAD = """# Speed of the trainers

Seconds per training epoch and per full-ranking evaluation of the validation items: the median (and range) of as many
epochs as the column says. Every row was measured in fresh child processes with the environment that a trial gets
(threads, `malloc` settings), on the same leave-one-out training split, with 2 blocks, 2 heads, batch 256, length 50,
dropout 0.5 and Adam. "× padded" and "× RecTools" say how many times faster an epoch is than the padded reference
(`benchmarks/padded_reference.py`), and than RecTools with the same kind of loss (full or sampled). "version" is the
commit that last touched our code, or the version of the package.

- Ours is timed in two processes, before and after the others; the first epoch of each process is left out. The others
  train three batches to warm up, which are thrown away.
- RecTools evaluates with `recommend` (ten items for every user), RePlay with its metrics callback, the padded
  reference by the rank of the target among all items.
- RecTools and RePlay drop attention weights, too, at the same rate; ours and the reference do not. RecTools samples
  256 negatives for each of 50 positions, padding included. RePlay is shown with its defaults, and with its encoder of
  length buckets.
"""


def page(rows: Sequence[Row], command: str) -> str:
    """docs/speed.md: one heading for each processor, then a table for each dataset and width."""
    parts = [HEAD, f"Again: `{command}`\n"]
    for hardware, found in sorted(grouped(rows, lambda row: row.hardware).items()):
        kind = "CPU" if hardware.endswith(("core", "cores")) else "GPU"
        parts.append(f"## {kind}: {hardware}\n\n{between(found)}\n")
        parts.append(tables(found, level=3))
    return "\n".join(parts)


def between(rows: Sequence[Row]) -> str:
    """When rows were measured, and with which versions."""
    dates = sorted({row.date for row in rows})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured {span}. Versions: {'; '.join(sorted({row.versions for row in rows}))}."


def tables(rows: Sequence[Row], level: int = 2) -> str:
    """A table for each dataset and width."""
    parts: list[str] = []
    for (dataset, width), found in grouped(rows, lambda row: (row.dataset, row.number("hidden_dim"))).items():
        tokens = f"{found[0].number('tokens'):,.0f} training tokens"
        parts.append(f"{'#' * level} {dataset}, d = {width:.0f} ({tokens})\n\n{speed_table(found)}\n")
    return "\n".join(parts)


def speed_table(rows: Sequence[Row]) -> str:
    """The table of one dataset and width on one processor, in the order in which its rows were first measured."""
    measured = [newest(found) for found in grouped(rows, lambda row: row.name).values()]
    padded = next((seconds_of(found) for found in measured if found[0].name.startswith(PADDED)), None)
    rectools = {_kind(found[0]): seconds_of(found) for found in measured if found[0].name.startswith(RECTOOLS)}
    lines: list[list[str]] = []
    for found in measured:
        first, seconds = found[0], seconds_of(found)
        lines.append([
            str(first.values["trainer"]), str(first.values["loss"]),
            centre([row.number("seconds") for row in found]), centre([row.number("eval_seconds") for row in found]),
            short(first.number("tokens") / seconds), times(padded, seconds), times(rectools.get(_kind(first)), seconds),
            str(len(found)), first.commit,
        ])  # fmt: skip
    return table(HEADINGS, lines, left=2)


def seconds_of(rows: Sequence[Row]) -> float:
    """The median seconds of an epoch."""
    return median(row.number("seconds") for row in rows)


def _kind(row: Row) -> bool:
    """Whether all items are scored, or sampled ones."""
    return row.values["loss"] == "full softmax"
