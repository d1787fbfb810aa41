"""Bayesian search with memory: a Gaussian process over this study and all that was trained on similar datasets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from math import prod
from statistics import fmean

from memory.priors import typed_value
from server.policies.base import (
    BAD,
    PENDING,
    Brief,
    Observation,
    Proposal,
    Standing,
    first_trial,
    ranked,
    standings,
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
from trainers.space import Config, Field, Space, Value

OPENING = 5
"""Configurations that the playbook opens with, the default among them, where memory has no trainings to learn from."""
FIRST_MOVE = 2
"""As many where it has: one move, as long as memory does not expect PROMISE more of another."""
PROMISE = 0.1
"""In relative gain."""
SMALL = 512
"""A space with at most so many configurations is looked through whole."""
LEADERS = 3
"""Configurations of the study, and of each other dataset, that candidates of a large one are made of."""
VALUES = 4
"""Of every field, put into the study's leader."""
MIXTURES, WALKS = 150, 200
STEP = 3
UNKNOWN = 0.02
"""What a change of a field that nobody varied is thought to cost, relative: most fields are at a good value already."""
SIGMA = 0.04
"""Relative seed noise of the study's own trainings: protocol's prior, and a little for what replicates do not show."""


class GP:
    """Pure: everything is worked out anew for each proposal."""

    reflects = False

    def __init__(self) -> None:
        self._playbook = Playbook()

    def propose(
        self, space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random
    ) -> Proposal | None:
        """A fresh seed of a leader; the playbook's opening; then what has the largest expected improvement."""
        opens = len(standings(history)) < (FIRST_MOVE if brief.elsewhere else OPENING)
        if not ranked(history) or (opens and not brief.elsewhere):
            return self._playbook.propose(space, history, brief, rng)
        if candidate := to_confirm(history, brief):
            return confirm(candidate)
        if brief.trials_left == 0 or not space.free():
            return None
        candidates = _candidates(space, history, brief, rng)
        if not candidates:
            return None
        move = self._playbook.propose(space, history, brief.without_memory(), rng) if opens else None
        if move is None:
            return _most_promising(space, history, brief, candidates)[0]
        moved = space.apply(_parent(history, move), move.changes)
        best, gains = _most_promising(space, history, brief, [*candidates, moved])
        return best if gains.max() > gains[-1] + PROMISE else move


def _parent(history: Sequence[Observation], move: Proposal) -> Config:
    return next((trial.config for trial in history if trial.trial_id == move.parent), history[0].config)


def _most_promising(
    space: Space, history: Sequence[Observation], brief: Brief, candidates: Sequence[Config]
) -> tuple[Proposal, Array]:
    """The candidate with the largest expected improvement, and that of each: (candidates,), in relative gain."""
    others = [
        Task(
            [point.config for point in one.points],
            [point.mean for point in one.points],
            [point.seeds for point in one.points],
            one.sigma,
            one.similarity,
        )
        for one in brief.elsewhere
    ]
    own = _own(standings(history))
    gains = expected_improvement(space, own, others, candidates, _handicaps(space, [own, *others], candidates))
    best = int(gains.argmax())
    datasets = len({one.dataset_hash for one in brief.elsewhere})
    there = f" and those of {datasets} similar {'dataset' if datasets == 1 else 'datasets'}" if datasets else ""
    proposal = Proposal(
        changes_between(space, history[0].config, candidates[best]),
        parent=first_trial(history),
        hypothesis=f"largest expected improvement, {gains[best]:+.2%}, by {len(history)} trainings here{there}",
    )
    return proposal, gains


def _own(known: Sequence[Standing]) -> Task:
    """What the study has seen. What ended badly stands as low as the model looks, a failure of the machine nowhere.

    What is under way is taken for as good as the mean (the constant liar), so that nothing near it looks promising.
    """
    told = [one for one in known if one.mean is not None or any(trial.status in BAD for trial in one.trials)]
    scores = [one.mean or max((trial.reached or 0.0 for trial in one.trials), default=0.0) for one in told]
    pending = [one for one in known if one.mean is None and any(trial.status == PENDING for trial in one.trials)]
    scores += [fmean(scores)] * len(pending) if scores else []
    told += pending if scores else []
    return Task([one.config for one in told], scores, [max(len(one.scores), 1) for one in told], SIGMA)


def _handicaps(space: Space, tasks: Sequence[Task], candidates: Sequence[Config]) -> list[float]:
    """Of candidates, what their changes of fields cost that nobody has varied; in a small space all are meant to be."""
    if _is_small(space):
        return [0.0] * len(candidates)
    values: dict[str, set[Value]] = {}
    for task in tasks:
        for config in task.configs:
            for name, value in config.items():
                values.setdefault(name, set()).add(value)
    default = space.default()
    unknown = [field.name for field in space.free() if len(values.get(field.name, ())) < 2]
    return [UNKNOWN * sum(one[name] != default[name] for name in unknown) for one in candidates]


def _is_small(space: Space) -> bool:
    return prod(len(values_of(field)) for field in space.free()) <= SMALL


def _candidates(space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random) -> list[Config]:
    """Valid and untried."""
    seen = tried(space, history)
    if _is_small(space):
        return [config for name, config in _all(space.model_dump_json()).items() if name not in seen]
    found: dict[str, Config] = {}
    for config in _proposed(space, history, brief, rng):
        name = space.hash(config)
        if name not in seen and valid(space, config):
            found.setdefault(name, config)
    if not found and (config := untried(space, seen, rng, lambda: draw(space, rng))):
        return [config]
    return list(found.values())


@lru_cache(maxsize=16)
def _all(space_text: str) -> dict[str, Config]:
    """Every configuration of a small space, which is given as JSON, by its hash."""
    space = Space.model_validate_json(space_text)
    return {space.hash(config): config for config in every(space)}


def _proposed(space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random) -> Iterator[Config]:
    """Near what is known to be good, for most of a wide space is bad: leaders, mixtures of two, steps from one.

    Steps change up to STEP fields, as in DYCORS (Regis and Shoemaker 2013).
    """
    own = [one.config for one in islice(ranked(history), LEADERS)]
    leaders = list(own)
    for one in brief.elsewhere:
        for point in one.points[:LEADERS]:
            leaders.append(settle(space, assemble(space, lambda field, point=point: _value(field, point.config))))
    yield from leaders
    for field in space.free():
        values = values_of(field)
        for value in rng.sample(values, min(VALUES, len(values))):
            yield settle(space, {**own[0], field.name: value})
    for _ in range(MIXTURES if len(leaders) > 1 else 0):
        one, other = rng.sample(leaders, 2)
        yield settle(space, {name: (one, other)[rng.random() < 0.5][name] for name in one})
    for _ in range(WALKS):
        leader = rng.choice(leaders)
        changed = rng.sample(space.free(), min(rng.randint(1, STEP), len(space.free())))
        yield settle(space, {**leader, **{field.name: rng.choice(values_of(field)) for field in changed}})


def _value(field: Field, config: Config) -> Value:
    """What another space's configuration has there, where this one admits it; else the default."""
    value = typed_value(field, config[field.name]) if field.name in config else field.default
    return value if admits(field, value) else field.default
