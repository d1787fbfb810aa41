"""What is known of one backbone on one dataset: its scored runs, and which configurations differ in one field only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memory.noise import Sigma, estimate
from trainers.space import Config, Value
from trainers.spec import DatasetFacts


@dataclass(frozen=True)
class Setting:
    """What must agree between two runs beside dataset and backbone, or their scores do not compare."""

    filter_seen: str
    trainer_version: str


@dataclass(frozen=True)
class Run:
    """One scored training. `order` counts trials of the home in the order in which they were planned."""

    trial_id: str
    setting: Setting
    config_hash: str
    seed: int
    order: int
    parent: str | None
    """The configuration that it was planned from, where that is another one."""
    is_default: bool
    """Whether it is of its study's default, which nothing selected."""
    weights: str
    """The trial whose weights it scored: its own, or another's."""
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """Two configurations that differ in `field` only, in the order in which they were first planned."""

    field: str
    setting: Setting
    first: str
    second: str


Two = tuple[str, str]
Gain = tuple[tuple[str, Config], float]
"""Changes, as text and as they are, and the relative gain that they brought."""
Group = tuple[Setting, str, str]
Step = tuple[Value, Value]
"""A field's value in the first configuration of a pair, and in the second."""


@dataclass
class Landscape:
    """Grows by one run at a time; one for each dataset content and backbone."""

    dataset_hash: str
    backbone: str
    facts: DatasetFacts
    runs: dict[tuple[Setting, str], list[Run]] = field(default_factory=dict[tuple[Setting, str], list[Run]])
    settings: dict[Setting, None] = field(default_factory=dict[Setting, None])
    values: dict[str, Config] = field(default_factory=dict[str, Config])
    """By configuration, its fields that have an effect."""
    trial_ids: set[str] = field(default_factory=set[str])
    effects: dict[tuple[Pair, str], object] = field(default_factory=dict[tuple[Pair, str], object])
    """What memory/effects.py has worked out of pairs, with what it depends on."""
    changes: dict[Two, tuple[str, Config]] = field(default_factory=dict[Two, tuple[str, Config]])
    """What memory/priors.py has worked out of two configurations."""
    gains: dict[str, tuple[int, list[Gain]]] = field(default_factory=dict[str, tuple[int, list[Gain]]])
    """By metric, what it has worked out of so many runs."""
    _groups: dict[Group, list[str]] = field(default_factory=dict[Group, list[str]])
    """By setting, field and the hash of the rest: the configurations that share it, in the order of their first run."""
    _rests: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    _steps: dict[str, dict[Step, list[Pair]]] = field(default_factory=dict[str, dict[Step, list[Pair]]])
    _noises: dict[str, tuple[int, Sigma]] = field(default_factory=dict[str, tuple[int, Sigma]])
    _repeats: int = 0

    def add(self, run: Run, config: Mapping[str, Value], rests: Mapping[str, str]) -> None:
        """Takes a run of `config`; `rests` (Space.rests) names the fields that have an effect in it.

        Numbers and switches are kept as the store keeps them, so that what was read and what landed are alike. A seed
        that is there already on the same weights is the same evidence and is left out.
        """
        known = self.runs.setdefault((run.setting, run.config_hash), [])
        if any((one.seed, one.weights) == (run.seed, run.weights) for one in known):
            return
        known.append(run)
        self.trial_ids.add(run.trial_id)
        self._repeats += len(known) > 1
        if len(known) > 1:
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
        """The steps that lead to a run's configuration or away from it: field, and its values in the order of pairs."""
        own = self.values[run.config_hash]
        found: list[tuple[str, Value, Value]] = []
        for name, rest in self._rests[run.config_hash].items():
            group = self._groups[run.setting, name, rest]
            place = group.index(run.config_hash)
            for index, other in enumerate(group):
                step = (self.values[other][name], own[name])
                if step[0] != step[1]:
                    first, second = step if index < place else (step[1], step[0])
                    found.append((name, first, second))
        return found

    def noise(self, metric: str) -> Sigma:
        """Relative seed noise of the metric here, from every configuration that several seeds were trained of.

        It is worked out anew once there are a twentieth more seeds of a known configuration.
        """
        then, known = self._noises.get(metric, (-1, None))
        if known is None or self._repeats > then * 1.05:
            known = self._noise(metric)
            self._noises[metric] = (self._repeats, known)
        return known

    def _noise(self, metric: str) -> Sigma:
        groups: list[list[float]] = []
        for known in self.runs.values():
            own = [one.scores[metric] for one in known if metric in one.scores and one.weights == one.trial_id]
            if len(own) > 1:
                groups.append(own)
        return estimate(groups, self.facts.measured_users)


def _stored(value: Value) -> Value:
    return value if isinstance(value, str) else float(value)
