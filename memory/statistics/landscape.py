"""All scored runs of one backbone on one dataset, and the pairs of configurations that differ in one field only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memory.statistics.noise import Sigma, estimate
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Config, Value


@dataclass(frozen=True)
class Setting:
    """The settings that two runs must share, besides dataset and backbone, for comparable scores."""

    filter_seen: str
    trainer_version: str


@dataclass(frozen=True)
class Run:
    """One scored training. `order` is its place among all trials of the home, in the order they were planned."""

    trial_id: str
    setting: Setting
    config_hash: str
    seed: int
    order: int
    parent: str | None
    """The hash of the configuration that the run was planned from; None without one, or where it is the same."""
    is_default: bool
    """Whether the run trained the default configuration of its study, which nothing selected."""
    weights: str
    """The id of the trial whose weights were scored: this one, or an earlier one."""
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """The hashes of two configurations that differ in `field` only, in the order they were first planned."""

    field: str
    setting: Setting
    first: str
    second: str


Two = tuple[str, str]
Gain = tuple[tuple[str, Config], float]
"""A set of changes, as JSON text and as a dict, and the relative gain that it brought."""
Group = tuple[Setting, str, str]
Step = tuple[Value, Value]
"""The values of a field in the first and the second configuration of a pair."""


@dataclass
class Landscape:
    """All scored runs of one backbone on one dataset content. Runs are added one at a time."""

    dataset_hash: str
    backbone: str
    facts: DatasetFacts
    runs: dict[tuple[Setting, str], list[Run]] = field(default_factory=dict[tuple[Setting, str], list[Run]])
    settings: dict[Setting, None] = field(default_factory=dict[Setting, None])
    values: dict[str, Config] = field(default_factory=dict[str, Config])
    """By configuration hash, the values of the fields that have an effect."""
    trial_ids: set[str] = field(default_factory=set[str])
    effects: dict[tuple[Pair, str], object] = field(default_factory=dict[tuple[Pair, str], object])
    """A cache of memory/statistics/effects.py: the effect of each pair, with what it was computed from."""
    changes: dict[Two, tuple[str, Config]] = field(default_factory=dict[Two, tuple[str, Config]])
    """A cache of memory/advice/starts.py: the changes from one configuration to another."""
    gains: dict[str, tuple[int, list[Gain]]] = field(default_factory=dict[str, tuple[int, list[Gain]]])
    """A cache of memory/advice/starts.py: by metric, the number of runs and the gains computed from them."""
    _groups: dict[Group, list[str]] = field(default_factory=dict[Group, list[str]])
    """By setting, field and hash of all other fields: the configurations that share them, by their first run."""
    _rests: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    _steps: dict[str, dict[Step, list[Pair]]] = field(default_factory=dict[str, dict[Step, list[Pair]]])
    _noises: dict[str, tuple[int, Sigma]] = field(default_factory=dict[str, tuple[int, Sigma]])
    _repeats: int = 0

    def add(self, run: Run, config: Mapping[str, Value], rests: Mapping[str, str]) -> None:
        """Adds a run of `config`; the keys of `rests` (Space.rests) are the fields that have an effect in it.

        Numbers and switches become floats, as in the store, so that stored and new runs compare. A run with a known
        seed on the same weights adds no evidence and is left out.
        """
        runs = self.runs.setdefault((run.setting, run.config_hash), [])
        if any((earlier.seed, earlier.weights) == (run.seed, run.weights) for earlier in runs):
            return
        runs.append(run)
        self.trial_ids.add(run.trial_id)
        self._repeats += len(runs) > 1
        if len(runs) > 1:
            return
        self.settings[run.setting] = None
        values = {name: _stored(config[name]) for name in rests}
        self.values[run.config_hash] = values
        self._rests[run.config_hash] = rests
        for name, rest in rests.items():
            group = self._groups.setdefault((run.setting, name, rest), [])
            for other in group:
                step = (self.values[other][name], values[name])
                if step[0] != step[1]:
                    pair = Pair(name, run.setting, other, run.config_hash)
                    self._steps.setdefault(name, {}).setdefault(step, []).append(pair)
            group.append(run.config_hash)

    def steps(self, name: str) -> Mapping[Step, Sequence[Pair]]:
        """Pairs of configurations that differ in this field only, by its values in the first and in the second."""
        return self._steps.get(name, {})

    def steps_of(self, run: Run) -> list[tuple[str, Value, Value]]:
        """The steps to and from a run's configuration, as (field, value in the pair's first, value in its second)."""
        values = self.values[run.config_hash]
        steps: list[tuple[str, Value, Value]] = []
        for name, rest in self._rests[run.config_hash].items():
            group = self._groups[run.setting, name, rest]
            place = group.index(run.config_hash)
            for index, other in enumerate(group):
                step = (self.values[other][name], values[name])
                if step[0] != step[1]:
                    first, second = step if index < place else (step[1], step[0])
                    steps.append((name, first, second))
        return steps

    def noise(self, metric: str) -> Sigma:
        """Relative seed noise of the metric here, from every configuration that was trained with several seeds.

        It is computed again once the number of repeated trainings has grown by more than 5 %.
        """
        repeats_then, noise = self._noises.get(metric, (-1, None))
        if noise is None or self._repeats > repeats_then * 1.05:
            noise = self._noise(metric)
            self._noises[metric] = (self._repeats, noise)
        return noise

    def _noise(self, metric: str) -> Sigma:
        groups: list[list[float]] = []
        for runs in self.runs.values():
            scores = [run.scores[metric] for run in runs if metric in run.scores and run.weights == run.trial_id]
            if len(scores) > 1:
                groups.append(scores)
        return estimate(groups, self.facts.measured_users)


def _stored(value: Value) -> Value:
    return value if isinstance(value, str) else float(value)
