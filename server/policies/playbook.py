"""An engineer without a language model: diagnose, change one field of the incumbent, confirm a winner by a new seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memory.records import Expected
from server.policies.advice import advised, best_by_field, heeded
from server.policies.base import Brief, Observation, Proposal, Standing, standings, tried
from server.policies.lessons import hints
from server.policies.racing import confirm, incumbent, to_confirm, usual_seconds
from server.policies.rules import ALWAYS, DIAGNOSES, SPARSE_LENGTH, SPARSE_USERS, Rule
from server.policies.sampling import changes_between, position, settle, untried, valid, values_of
from trainers.space import Config, Field, Space, Value

EFFECT = 0.03
"""The gain that a move is expected to bring where it helps: about the seed noise of 5,000 users."""
STRIDE = 0.15
"""How far a local perturbation walks on a field's scale, at most."""
SCORING_SHARE = 0.25
"""Of the configurations: the last ones try other scorings of the weights that were found best."""
BOUNDS_ONLY = ("max_epochs", "patience")
"""Fields that end a training rather than shape it: perturbed only where nothing else is free."""


@dataclass(frozen=True)
class Move:
    """One field of the incumbent set to another value, and the reason."""

    field: str
    value: Value
    why: str
    confidence: float
    cites: tuple[str, ...] = ()


class Playbook:
    """Small and readable on purpose; every proposal says which rule made it."""

    reflects = True

    def propose(
        self, space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random
    ) -> Proposal | None:
        """Confirm a promising winner, else try the first untried move on the incumbent, else walk near it."""
        if not history:
            return Proposal({}, hypothesis="the default configuration: the measure of everything after it")
        if candidate := to_confirm(history, brief):
            return confirm(candidate)
        brief = heeded(space, history, brief)
        if brief.trials_left == 0:
            return None
        if proposal := advised(space, history, brief):
            return proposal
        best = incumbent(history, brief)
        seen, failed = tried(space, history), given_up(history)
        for move in moves(space, best, history, brief):
            config = _applied(space, best.config, move)
            if config is None or space.hash(config) in seen or _same_way(space, best, move) in failed:
                continue
            return _proposal(space, best, move, config)
        return perturbation(space, best, seen, rng)


def is_late(history: Sequence[Observation], left: int | None) -> bool:
    """Whether only the share of configurations is left that is meant for scorings."""
    return left is not None and left <= SCORING_SHARE * (len(standings(history)) + left)


def given_up(history: Sequence[Observation]) -> set[tuple[str, bool | Value]]:
    """(field, way) of every single-field change whose child did not end above its parent: not tried again that way."""
    by_trial = {trial.trial_id: standing for standing in standings(history) for trial in standing.trials}
    found: set[tuple[str, bool | Value]] = set()
    for trial in history:
        parent = by_trial.get(trial.parent or "")
        if trial.replicate_of or parent is None or len(trial.changes) != 1:
            continue
        ((name, value),) = trial.changes.items()
        child = by_trial[trial.trial_id]
        if child.mean is None or (parent.mean is not None and child.mean <= parent.mean):
            found.add((name, way(parent.config[name], value)))
    return found


def way(before: Value, after: Value) -> bool | Value:
    """True is up and False is down for numbers; for a choice it is the value itself."""
    if isinstance(before, (bool, str)) or isinstance(after, (bool, str)):
        return f"to {after}"
    return after > before


def _same_way(space: Space, best: Standing, move: Move) -> tuple[str, bool | Value]:
    return move.field, way(best.config[move.field], move.value)


def moves(space: Space, best: Standing, history: Sequence[Observation], brief: Brief) -> Iterator[Move]:
    """Every move on the incumbent, the most promising first: memory, diagnoses, then what is always worth a trial.

    Other scorings of its weights come last, or after memory once it is late in the study.
    """
    told = hints(space, brief.memory)
    for hint in told:
        if hint.helped:
            why = f"{hint.lesson.heuristic_id} from {hint.lesson.dataset}: {hint.field} {hint.value} helped there"
            yield Move(hint.field, hint.value, why, 0.5, (hint.lesson.heuristic_id,))
    for name, one in best_by_field(brief.beliefs).items():
        yield Move(name, one.value, f"claims expect {one.gain:+.1%} here", 0.5, one.cites)
    doubted = {(hint.field, hint.value) for hint in told if not hint.helped}
    doubted |= {(one.field, one.value) for one in brief.beliefs if one.gain < 0}
    unlikely: list[Move] = []
    scoring = ["scoring"] if best.scores else []
    early = scoring if is_late(history, brief.trials_left) else []
    for name in [*early, *diagnoses(best, history, brief), *scoring]:
        for rule in DIAGNOSES.get(name, ALWAYS):
            move = _of_rule(space, best.config, rule, name)
            if move is None:
                continue
            if (move.field, move.value) in doubted:
                unlikely.append(move)
            else:
                yield move
    yield from unlikely


def diagnoses(best: Standing, history: Sequence[Observation], brief: Brief) -> list[str]:
    """The words of the table that fit the incumbent and the data, the most pressing first, and `always` at the end."""
    latest = best.trials[-1]
    said = [finding.split(":")[0] for finding in latest.diagnosis]
    if latest.status == "timed_out" and latest.score is None:
        said.append("slow")
    seconds = usual_seconds(history) if latest.reused else latest.seconds
    if brief.seconds_left is not None and seconds * (brief.trials_left or 1) > brief.seconds_left:
        said.append("slow")
    users, length = brief.facts.get("users"), brief.facts.get("mean_length")
    if (users is not None and users < SPARSE_USERS) or (length is not None and length < SPARSE_LENGTH):
        said.append("sparse")
    return [*(name for name in dict.fromkeys(said) if name in DIAGNOSES), "always"]


def _of_rule(space: Space, config: Config, rule: Rule, diagnosis: str) -> Move | None:
    field = next((field for field in space.free() if field.name == rule.field), None)
    if field is None or rule.backbone not in (None, space.backbone):
        return None
    value = target(field, config[field.name], rule)
    if value is None:
        return None
    reason = rule.why if diagnosis == "always" else f"{diagnosis}: {rule.why}"
    return Move(field.name, value, reason, rule.confidence)


def target(field: Field, now: Value, rule: Rule) -> Value | None:
    """Where the rule takes a field: the admitted value nearest to its aim, or None where that is no step that way."""
    if rule.to is not None:
        admitted = [value for value in values_of(field) if value == rule.to] if field.choices else [rule.to]
        return next((value for value in admitted if value != now and _inside(field, value)), None)
    aim = float(now) * rule.times if rule.times is not None else float(now) + (rule.plus or 0.0)
    up = aim > float(now)
    if rule.until is not None:
        aim = min(aim, rule.until) if up else max(aim, rule.until)
    options = [option for option in values_of(field) if not isinstance(option, (bool, str))]
    if not field.choices and field.low is not None and field.high is not None:
        clipped = min(max(aim, field.low), field.high)
        options = [round(clipped) if field.kind == "int" else float(f"{clipped:.3g}")]
    ahead = [option for option in options if option != now and (option > float(now)) == up]
    return min(ahead, key=lambda option: abs(position(field, option) - position(field, aim)), default=None)


def _inside(field: Field, value: Value) -> bool:
    if field.choices or isinstance(value, (bool, str)):
        return True
    return (field.low or 0) <= value <= (field.high or 0) or (field.zero and value == 0)


def _applied(space: Space, config: Mapping[str, Value], move: Move) -> Config | None:
    """The incumbent after the move, a pair that must divide made to fit; None where the move has no effect there."""
    changed = settle(space, {**config, move.field: move.value})
    active = space.active(space.field(move.field), changed)
    return changed if active and changed[move.field] == move.value and valid(space, changed) else None


def _proposal(space: Space, best: Standing, move: Move, config: Config) -> Proposal:
    return Proposal(
        changes_between(space, best.config, config),
        parent=best.trials[0].trial_id,
        hypothesis=f"{move.field} {best.config[move.field]} → {move.value}: {move.why}",
        expected=Expected(field=move.field, direction="up", effect=EFFECT, confidence=move.confidence),
        cites=move.cites,
    )


def perturbation(space: Space, best: Standing, seen: set[str], rng: random.Random) -> Proposal | None:
    """One field of the incumbent moved a little way, at random; None where every configuration was tried."""
    active = [field for field in space.free() if space.active(field, best.config)]
    shaping = [field for field in active if field.name not in BOUNDS_ONLY] or active
    config = untried(space, seen, rng, lambda: _near(space, best.config, rng.choice(shaping), rng))
    if config is None:
        return None
    changes = changes_between(space, best.config, config)
    named = ", ".join(f"{name} {best.config[name]} → {value}" for name, value in changes.items())
    first = next(iter(changes), None)
    expected = Expected(field=first, direction="up", effect=EFFECT, confidence=0.2) if first else None
    why = f"{named}: the table is exhausted, so a step near the incumbent"
    return Proposal(changes, parent=best.trials[0].trial_id, hypothesis=why, expected=expected)


def _near(space: Space, config: Config, field: Field, rng: random.Random) -> Config:
    options = [option for option in field.choices or (False, True) if option != config[field.name]]
    if field.choices or field.kind == "bool":
        value = rng.choice(options) if options else field.default
    else:
        walked = position(field, config[field.name]) + rng.uniform(-STRIDE, STRIDE)
        value = field.at(min(max(walked, 0.0), 1.0))
    return settle(space, {**config, field.name: value})
