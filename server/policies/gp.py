"""Bayesian search with memory: a Gaussian process over this study and all that was trained on similar datasets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from math import prod
from statistics import fmean

from memory.advice.starts import typed_value
from server.policies.base import (
    BAD,
    PENDING,
    Configuration,
    Observation,
    PolicyContext,
    Proposal,
    configurations,
    first_trial,
    ranked,
    tried,
)
from server.policies.playbook import Playbook
from server.policies.racing import confirm, to_confirm
from server.policies.sampling import (
    admits,
    assemble,
    changes_between,
    draw,
    every,
    settle,
    untried,
    valid,
    values_of,
)
from server.policies.surrogate import Array, Task, expected_improvement
from trainers.contract.space import Config, Field, Space, Value

OPENING = 5
"""Size of the playbook's opening, with the default, where memory has no trainings to learn from."""
FIRST_MOVE = 2
"""Size of the opening where memory has trainings: one move, unless memory expects PROMISE more of another one."""
PROMISE = 0.1
"""Relative gain by which another candidate must exceed the playbook's first move to replace it."""
SMALL = 512
"""Largest number of configurations at which a space is searched exhaustively."""
LEADERS = 3
"""How many configurations of the study, and of each other dataset, candidates of a large space are made from."""
VALUES = 4
"""How many values of each field are tried in the study's leader."""
MIXTURES, WALKS = 150, 200
STEP = 3
UNKNOWN = 0.02
"""Relative loss assumed for changing a field that nobody has varied: most fields have a good value already."""
SIGMA = 0.04
"""Relative seed noise of the study's trainings: the protocol's prior, plus a little that replicates do not show."""


class GP:
    """Bayesian search. Pure: everything is computed anew for each proposal."""

    reflects = False

    def __init__(self) -> None:
        self._playbook = Playbook()

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
    ) -> Proposal | None:
        """The playbook's opening, a fresh seed of a leader, or the candidate with the largest expected improvement."""
        opens = len(configurations(history)) < (FIRST_MOVE if context.elsewhere else OPENING)
        if not ranked(history) or (opens and not context.elsewhere):
            return self._playbook.propose(space, history, context, rng)
        if candidate := to_confirm(history, context):
            return confirm(candidate)
        if context.trials_left == 0 or not space.free():
            return None
        candidates = _candidates(space, history, context, rng)
        if not candidates:
            return None
        move = self._playbook.propose(space, history, context.without_memory(), rng) if opens else None
        if move is None:
            return _most_promising(space, history, context, candidates)[0]
        moved = space.apply(_parent(history, move), move.changes)
        best, gains = _most_promising(space, history, context, [*candidates, moved])
        return best if gains.max() > gains[-1] + PROMISE else move


def _parent(history: Sequence[Observation], move: Proposal) -> Config:
    return next((trial.config for trial in history if trial.trial_id == move.parent), history[0].config)


def _most_promising(
    space: Space, history: Sequence[Observation], context: PolicyContext, candidates: Sequence[Config]
) -> tuple[Proposal, Array]:
    """The candidate with the largest expected improvement, and that of each: (candidates,), in relative gain."""
    others = [
        Task(
            [point.config for point in dataset.points],
            [point.mean for point in dataset.points],
            [point.seeds for point in dataset.points],
            dataset.sigma,
            dataset.similarity,
        )
        for dataset in context.elsewhere
    ]
    task = _task_of_study(configurations(history))
    gains = expected_improvement(space, task, others, candidates, _handicaps(space, [task, *others], candidates))
    best = int(gains.argmax())
    datasets = len({dataset.dataset_hash for dataset in context.elsewhere})
    there = f" and those of {datasets} similar {'dataset' if datasets == 1 else 'datasets'}" if datasets else ""
    proposal = Proposal(
        changes_between(space, history[0].config, candidates[best]),
        parent=first_trial(history),
        hypothesis=f"largest expected improvement, {gains[best]:+.2%}, by {len(history)} trainings here{there}",
    )
    return proposal, gains


def _task_of_study(trained: Sequence[Configuration]) -> Task:
    """The study's own trainings as a task. A configuration that ended badly scores what it had reached, or 0.

    A failure of the machine is left out. A configuration under way scores the mean (the constant liar), so that nothing
    near it looks promising.
    """
    seen = [
        configuration
        for configuration in trained
        if configuration.mean is not None or any(trial.status in BAD for trial in configuration.trials)
    ]
    scores = [
        configuration.mean or max((trial.reached or 0.0 for trial in configuration.trials), default=0.0)
        for configuration in seen
    ]
    pending = [
        configuration
        for configuration in trained
        if configuration.mean is None and any(trial.status == PENDING for trial in configuration.trials)
    ]
    scores += [fmean(scores)] * len(pending) if scores else []
    seen += pending if scores else []
    return Task(
        [configuration.config for configuration in seen],
        scores,
        [max(len(configuration.scores), 1) for configuration in seen],
        SIGMA,
    )


def _handicaps(space: Space, tasks: Sequence[Task], candidates: Sequence[Config]) -> list[float]:
    """Assumed loss of each candidate for changing fields that nobody has varied; 0 in a small space."""
    if _is_small(space):
        return [0.0] * len(candidates)
    values: dict[str, set[Value]] = {}
    for task in tasks:
        for config in task.configs:
            for name, value in config.items():
                values.setdefault(name, set()).add(value)
    default = space.default()
    unknown = [field.name for field in space.free() if len(values.get(field.name, ())) < 2]
    return [UNKNOWN * sum(candidate[name] != default[name] for name in unknown) for candidate in candidates]


def _is_small(space: Space) -> bool:
    return prod(len(values_of(field)) for field in space.free()) <= SMALL


def _candidates(
    space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
) -> list[Config]:
    """Valid, untried configurations."""
    seen = tried(space, history)
    if _is_small(space):
        return [config for key, config in _all(space.model_dump_json()).items() if key not in seen]
    candidates: dict[str, Config] = {}
    for config in _proposed(space, history, context, rng):
        key = space.hash(config)
        if key not in seen and valid(space, config):
            candidates.setdefault(key, config)
    if not candidates and (config := untried(space, seen, rng, lambda: draw(space, rng))):
        return [config]
    return list(candidates.values())


@lru_cache(maxsize=16)
def _all(space_text: str) -> dict[str, Config]:
    """Every configuration of a small space (given as JSON) by its hash."""
    space = Space.model_validate_json(space_text)
    return {space.hash(config): config for config in every(space)}


def _proposed(
    space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
) -> Iterator[Config]:
    """Configurations near good ones, since most of a wide space is bad: leaders, mixtures of two, steps from one.

    Steps change up to STEP fields, as in DYCORS (Regis and Shoemaker 2013).
    """
    best = [configuration.config for configuration in islice(ranked(history), LEADERS)]
    leaders = list(best)
    for dataset in context.elsewhere:
        for point in dataset.points[:LEADERS]:
            leaders.append(settle(space, assemble(space, lambda field, point=point: _value(field, point.config))))
    yield from leaders
    for field in space.free():
        values = values_of(field)
        for value in rng.sample(values, min(VALUES, len(values))):
            yield settle(space, {**best[0], field.name: value})
    for _ in range(MIXTURES if len(leaders) > 1 else 0):
        first, second = rng.sample(leaders, 2)
        yield settle(space, {name: (first, second)[rng.random() < 0.5][name] for name in first})
    for _ in range(WALKS):
        leader = rng.choice(leaders)
        changed = rng.sample(space.free(), min(rng.randint(1, STEP), len(space.free())))
        yield settle(space, {**leader, **{field.name: rng.choice(values_of(field)) for field in changed}})


def _value(field: Field, config: Config) -> Value:
    """The value of a field in another space's configuration, if this space admits it; else the default."""
    value = typed_value(field, config[field.name]) if field.name in config else field.default
    return value if admits(field, value) else field.default
