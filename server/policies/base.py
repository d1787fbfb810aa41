"""The interface of policies: what they receive and what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

from memory.advice.starts import Belief, Start
from memory.records import Expected
from memory.statistics.elsewhere import Elsewhere
from memory.statistics.noise import Sigma, that_started
from trainers.contract.space import Config, Space

PENDING = "running"
"""The status of a trial that is under way: proposed, but nothing is known of it yet."""
BAD = ("diverged", "out_of_memory", "timed_out", "stopped")
"""Statuses that count against a configuration; other failures say nothing about it."""


class MissingExtra(RuntimeError):
    """A policy needs a library of an optional extra; the message names the extra."""


@dataclass(frozen=True)
class Observation:
    """One finished training."""

    trial_id: str
    number: int
    """Number of the configuration; replicates share it."""
    config: Config
    seed: int
    status: str
    score: float | None
    """The study's metric on validation, or None where the training may not be compared."""
    changes: Config = field(default_factory=dict[str, bool | int | float | str])
    """Changes from the parent."""
    parent: str | None = None
    replicate_of: str | None = None
    verdict: str | None = None
    curve: tuple[Mapping[str, float], ...] = ()
    diagnosis: tuple[str, ...] = ()
    """The finding on the training, and whether weights were reused. A few words and a colon come first."""
    seconds: float = 0.0
    epochs: int = 0
    best_epoch: int | None = None
    weights_of: str | None = None
    """The trial whose weights it scored: its seconds are those of one evaluation. None: it was trained."""
    reached: float | None = None
    """Score that a training had reached when it was stopped early: a lower bound of its final score."""
    violations: tuple[str, ...] = ()
    """The guardrails that its configuration violates, in words; it has no score then."""

    @property
    def reused(self) -> bool:
        """Whether nothing was trained for it."""
        return self.weights_of is not None

    @property
    def weights(self) -> str:
        """The trial that trained the weights it scored."""
        return self.weights_of or self.trial_id


@dataclass(frozen=True)
class Lesson:
    """A note of an earlier study: data to weigh."""

    note_id: str
    kind: str
    text: str
    dataset: str
    backbone: str


@dataclass(frozen=True)
class PolicyContext:
    """What a policy knows beside the trials."""

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
    noise: Sigma | None = None
    """Seed noise as the server knows it. None: what the history and recorded trainings say."""
    min_gain: float | None = None
    """The smallest relative gain that matters, where the study names one."""

    def without_memory(self) -> PolicyContext:
        """The context without anything from other studies."""
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
    """Pure: the same space, history, context and generator state give the same proposal."""

    reflects: bool
    """Whether the driver writes a reflection on each of its trials, since each trial tests a hypothesis."""

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: Random
    ) -> Proposal | None:
        """The next trial, or None if the policy has nothing left to try."""
        ...


@dataclass(frozen=True)
class Configuration:
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
        """The mean over its scored seeds, without those that never started to learn."""
        scores = [trial.score for trial in self.counted if trial.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def counted(self) -> list[Observation]:
        """Its scored trainings, without seeds that never started to learn."""
        return [trial for trial, counts in zip(self.scored, that_started(self.scores), strict=True) if counts]

    @property
    def scored(self) -> list[Observation]:
        return [trial for trial in self.trials if trial.score is not None]


def configurations(history: Sequence[Observation]) -> list[Configuration]:
    """Every configuration that was trained, in the order of its first training."""
    groups: dict[int, list[Observation]] = {}
    for trial in history:
        groups.setdefault(trial.number, []).append(trial)
    return [Configuration(number, tuple(trials)) for number, trials in groups.items()]


def ranked(history: Sequence[Observation]) -> list[Configuration]:
    """The configurations that scored, best mean first; a tie goes to the earlier one."""
    scored = [standing for standing in configurations(history) if standing.mean is not None]
    return sorted(scored, key=lambda standing: -(standing.mean or 0.0))


def tried(space: Space, history: Sequence[Observation]) -> set[str]:
    """The trained configurations, as hashes of the space."""
    return {space.hash(trial.config) for trial in history}


def first_trial(history: Sequence[Observation]) -> str:
    """The trial that trained the default configuration."""
    return history[0].trial_id
