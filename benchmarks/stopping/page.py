"""Writes docs/results/early-stop.md: the rule that ends hopeless trainings, what it saves and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.harness.markdown import table
from benchmarks.stopping.rules import SHIPPED
from server.study.early_stop import RULE

Shares = Mapping[str, float]

COLUMNS = {
    "epochs_saved": "epochs saved",
    "seconds_saved": "seconds saved",
    "stopped": "trainings stopped",
    "leaders_stopped": "leaders stopped",
    "clear_leaders_stopped": "clear leaders stopped",
    "best_lost": "studies that lost their best",
    "choice_lost": "studies that lost their choice",
    "regret": "regret added",
}

INTRODUCTION = """# Early stopping of hopeless trainings

`start_study(early_stop="auto")`, the default, ends a training that is far behind the study's earlier ones at its age;
its status is `stopped`. `"off"` trains everything to its end. Studies from before there was a choice are `off`.

## The rule

A training is stopped after an epoch if the best it has validated at so far is below the median, over the study's
earlier configurations, of their best so far at that epoch, times

    1 − {slack:g} × (1 − epoch / horizon, at least 0) − {sigmas:g} σ

- Slow starters catch up, so what is forgiven shrinks with age; the horizon is {lengths:g} times the usual length of the
  study's trainings. Seed noise is forgiven always: σ is its relative size as the study knows it.
- The first {grace} epochs are free, and nothing is stopped before {needed} configurations were trained to their end.
- Never stopped are the default (trial 0) and any further seed of a configuration; so `replicate_of` trains a stopped
  trial to its end. `run_trial(early_stop="off")` lifts the rule for one trial.
- Seeds of a configuration count as their mean. A stopped training counts among the earlier ones up to its last epoch,
  and is not drawn out beyond; nor is one that a lower `max_epochs` cut off.

A stopped trial has no verdict, is never the incumbent, and no noise is estimated from it. Its metrics are
what it had reached: a lower bound, shown as `≥`. TPE is told of a pruned trial, the playbook gives that way up,
random search ignores it.
"""

METHOD = """## How it was measured

`{command}`, {date}.

The tables hold {cells} pairs of dataset and backbone with all their validation curves: 72
configurations each with 2 or 3 seeds, up to 60 epochs with patience 4, made by another trainer. A simulated study
trains the default, then others: at random; by changing one field of the best so far; or, what is hardest on such a
rule, four configurations with the highest learning rate and then only lower ones. 12 or 30 configurations, {seeds}
studies of each kind a pair, {studies:,} in all. What the rule ends is known to its end, so each study is its own
control.

- *lost their best*: the configuration with the best mean in the table, among those visited, was stopped;
- *lost their choice*: the training with the best score, which the study would have chosen, was stopped;
- *regret added*: by how much the table's mean of what is chosen instead is worse (below zero: better, by luck);
- *leaders*: trainings whose end is above the best before them; *clear* ones by more than seed noise
  to the server. What was stopped of each is a share of all that led or would have.

## Candidates, on datasets that their parameters were not chosen on

One dataset is left out at a time: a family's parameters are those that save most seconds on the other four while at
most {lost} of their studies lose their choice (where none is so careful, those that lose fewest), and only the
left-out datasets count here. What this does not guard against: the families, the parameters to try, and which family
is shipped were decided with all five datasets in view.
"""

LIMITS = """## Limits

The tables are small datasets (1,000 to 2,500 users) of one trainer, with one batch size, patience 4 and three
learning rates; the server's patience is 8 and its space wider. Seconds are counted as each training's mean second an
epoch. What is saved depends on the order: a search that stays near its best has less to stop. A slow starter that
would lead is most in danger where everything before it was fast; `replicate_of` gives it its time, and
`early_stop="off"` gives it beforehand to one that is expected to be slow (a low rate, a deep model). No test metric was
read.
"""


@dataclass(frozen=True)
class Results:
    """The results of the replay: shares by held-out family, cell and kind of study, and the chosen parameters."""

    seeds: int
    studies: int
    lost_at_most: float
    held_out: Mapping[str, Shares]
    chosen: Mapping[str, Mapping[str, Sequence[float]]]
    """The chosen parameters by family, for each left-out dataset and for `all`."""
    cells: Mapping[str, Shares]
    kinds: Mapping[str, Shares]
    settings: Mapping[str, Mapping[str, Shares]]
    """The shares by family and parameters, on all datasets."""


def page(results: Results) -> str:
    """The text of docs/results/early-stop.md."""
    numbers = {
        "command": f"python -m benchmarks.early_stop --seeds {results.seeds} --write",
        "date": datetime.now(UTC).date().isoformat(),
        "cells": len(results.cells) - 1,
        "seeds": results.seeds,
        "studies": results.studies,
        "lost": f"{100 * results.lost_at_most:g} %",
    }
    parts = [
        INTRODUCTION.format(**vars(RULE)),
        METHOD.format(**numbers),
        _table("family", results.held_out),
        _chosen_parameters(results),
        "## The shipped rule, by table\n\nIn sample: the same criterion picks its parameters on all datasets.\n",
        _table("dataset, backbone", results.cells),
        "## The shipped rule, by kind of study\n",
        _table("order, configurations", results.kinds),
        LIMITS,
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _table(first: str, rows: Mapping[str, Shares]) -> str:
    lines = [[name, *(_percent(shares[column]) for column in COLUMNS)] for name, shares in rows.items()]
    return table([first, *COLUMNS.values()], lines)


def _percent(share: float) -> str:
    words = f"{100 * share:.1f}" if abs(share) >= 0.0995 else f"{100 * share:.2f}"
    return f"{words.replace('-0.00', '0.00').replace('-', '−')} %"


def _chosen_parameters(results: Results) -> str:
    words = ", ".join(f"{name} {_values(values)}" for name, values in results.chosen[SHIPPED[0]].items())
    return f"Slack and lengths chosen for the shipped family, {SHIPPED[0]}, by the dataset left out: {words}."


def _values(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
