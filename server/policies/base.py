"""What every policy is told and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from memory.elsewhere import Elsewhere
from memory.priors import Belief, Start
from memory.records import Expected
from trainers.space import Config, Space

PENDING = "running"
"""The status of a trial that is under way: proposed, but nothing is known of it yet."""
BAD = ("diverged", "out_of_memory", "timed_out", "stopped")
"""Ends that speak against a configuration; others say nothing of it."""


class MissingExtra(RuntimeError):
    """A policy needs a library of an optional extra; the message names the extra."""


@dataclass(frozen=True)
class Observation:
    """One finished training."""

    trial_id: str
    number: int
    """Of the configuration: replicates share it."""
    config: Config
    seed: int
    status: str
    score: float | None
    """The study's metric on validation, or None where the training may not be compared."""
    changes: Config = field(default_factory=dict[str, bool | int | float | str])
    """From the parent."""
    parent: str | None = None
    replicate_of: str | None = None
    verdict: str | None = None
    curve: tuple[Mapping[str, float], ...] = ()
    diagnosis: tuple[str, ...] = ()
    """Findings on the learning curve; each starts with one word and a colon."""
    seconds: float = 0.0
    epochs: int = 0
    best_epoch: int | None = None
    reused: bool = False
    """Whether it scored the weights of another trial: its seconds are those of one evaluation."""
    reached: float | None = None
    """What a training that was stopped early had reached: less than its score would have been."""


@dataclass(frozen=True)
class Lesson:
    """A note of an earlier study: data to weigh."""

    heuristic_id: str
    kind: str
    text: str
    dataset: str
    backbone: str


@dataclass(frozen=True)
class Brief:
    """What is known beside the trials."""

    metric: str
    backbone: str
    facts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Meta-features of the dataset."""
    memory: tuple[Lesson, ...] = ()
    starts: tuple[Start, ...] = ()
    """What won on similar datasets, to be trained first."""
    beliefs: tuple[Belief, ...] = ()
    """What claims expect of single fields here."""
    elsewhere: tuple[Elsewhere, ...] = ()
    """What was trained on other datasets, the most similar first."""
    trials_left: int | None = None
    """Configurations that may still be tried; at 0 only replicates are admitted."""
    seconds_left: float | None = None

    def without_memory(self) -> Brief:
        """What is known of the study itself."""
        return replace(self, memory=(), starts=(), beliefs=(), elsewhere=())


@dataclass(frozen=True)
class Proposal:
    """The next trial: `changes` on `parent` (no parent: the study's default), or a fresh seed of `replicate_of`."""

    changes: Config
    parent: str | None = None
    replicate_of: str | None = None
    hypothesis: str | None = None
    expected: Expected | None = None
    cites: tuple[str, ...] = ()


class Policy(Protocol):
    """Pure: the same space, history, brief and generator state give the same proposal."""

    reflects: bool
    """Whether the driver writes down what each of its trials taught: only where a trial is a hypothesis."""

    def propose(self, space: Space, history: Sequence[Observation], brief: Brief, rng: Random) -> Proposal | None:
        """The next trial, or None where there is nothing left that it would try."""
        ...


@dataclass(frozen=True)
class Standing:
    """One configuration with its trainings, oldest first."""

    number: int
    trials: tuple[Observation, ...]

    @property
    def config(self) -> Config:
        return self.trials[0].config

    @property
    def scores(self) -> list[float]:
        return [trial.score for trial in self.trials if trial.score is not None]

    @property
    def mean(self) -> float | None:
        """The mean over its scored seeds."""
        return sum(self.scores) / len(self.scores) if self.scores else None

    @property
    def scored(self) -> list[Observation]:
        return [trial for trial in self.trials if trial.score is not None]


def standings(history: Sequence[Observation]) -> list[Standing]:
    """Every configuration that was trained, in the order of its first training."""
    groups: dict[int, list[Observation]] = {}
    for trial in history:
        groups.setdefault(trial.number, []).append(trial)
    return [Standing(number, tuple(trials)) for number, trials in groups.items()]


def ranked(history: Sequence[Observation]) -> list[Standing]:
    """The configurations that scored, best mean first; a tie goes to the earlier one."""
    scored = [standing for standing in standings(history) if standing.mean is not None]
    return sorted(scored, key=lambda standing: -(standing.mean or 0.0))


def tried(space: Space, history: Sequence[Observation]) -> set[str]:
    """What the trained configurations do, as hashes of the space."""
    return {space.hash(trial.config) for trial in history}


def first_trial(history: Sequence[Observation]) -> str:
    """The trial that trained the default configuration."""
    return history[0].trial_id
