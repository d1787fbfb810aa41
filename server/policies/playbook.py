"""An engineer without a language model: diagnose, change one field of the incumbent, confirm a winner by a new seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from memory.records import Expected
from server.policies.advice import advised, best_by_field, drop_failed_advice
from server.policies.base import Configuration, Observation, PolicyContext, Proposal, configurations, tried
from server.policies.lessons import hints
from server.policies.racing import confirm, to_confirm, trusted_leader, usual_seconds
from server.policies.rules import ALWAYS, DIAGNOSES, SPARSE_LENGTH, SPARSE_USERS, Rule
from server.policies.sampling import changes_between, position, settle, untried, valid, values_of
from trainers.contract.space import Config, Field, Space, Value

EFFECT = 0.03
"""Relative gain that a helpful move is expected to bring: about the seed noise of 5,000 users."""
STRIDE = 0.15
"""Largest step of a local perturbation, as a share of the field's scale."""
SCORING_SHARE = 0.25
"""Share of the configurations, the last ones, that try other scorings of the best weights."""
BOUNDS_ONLY = ("max_epochs", "patience")
"""Fields that only limit a training's length; they are perturbed only where nothing else is free."""


@dataclass(frozen=True)
class Move:
    """One field of the incumbent set to another value, and the reason."""

    field: str
    value: Value
    why: str
    confidence: float
    cites: tuple[str, ...] = ()


class Playbook:
    """An engineer's rules, small and readable on purpose; every proposal says which rule made it."""

    reflects = True

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
    ) -> Proposal | None:
        """Confirms a promising winner, else tries the first untried move on the incumbent, else steps near it."""
        if not history:
            return Proposal({}, hypothesis="the default configuration: the measure of everything after it")
        if candidate := to_confirm(history, context):
            return confirm(candidate)
        context = drop_failed_advice(space, history, context)
        if context.trials_left == 0:
            return None
        if proposal := advised(space, history, context):
            return proposal
        best = trusted_leader(history, context)
        seen, failed = tried(space, history), given_up(history)
        for move in moves(space, best, history, context):
            config = _applied(space, best.config, move)
            if config is None or space.hash(config) in seen or _same_way(space, best, move) in failed:
                continue
            return _proposal(space, best, move, config)
        return perturbation(space, best, seen, rng)


def is_late(history: Sequence[Observation], left: int | None) -> bool:
    """Whether only the configurations that are reserved for scorings are left."""
    return left is not None and left <= SCORING_SHARE * (len(configurations(history)) + left)


def given_up(history: Sequence[Observation]) -> set[tuple[str, bool | Value]]:
    """(field, way) of every single-field change whose child did not beat its parent; it is not tried again that way."""
    by_trial = {
        trial.trial_id: configuration for configuration in configurations(history) for trial in configuration.trials
    }
    failed: set[tuple[str, bool | Value]] = set()
    for trial in history:
        parent = by_trial.get(trial.parent or "")
        if trial.replicate_of or parent is None or len(trial.changes) != 1:
            continue
        ((name, value),) = trial.changes.items()
        child = by_trial[trial.trial_id]
        if child.mean is None or (parent.mean is not None and child.mean <= parent.mean):
            failed.add((name, way(parent.config[name], value)))
    return failed


def way(before: Value, after: Value) -> bool | Value:
    """The direction of a change: True for up and False for down in numbers, `to VALUE` for a choice."""
    if isinstance(before, (bool, str)) or isinstance(after, (bool, str)):
        return f"to {after}"
    return after > before


def _same_way(space: Space, best: Configuration, move: Move) -> tuple[str, bool | Value]:
    return move.field, way(best.config[move.field], move.value)


def moves(space: Space, best: Configuration, history: Sequence[Observation], context: PolicyContext) -> Iterator[Move]:
    """Every move on the incumbent, the most promising first: memory, diagnoses, then moves always worth a trial.

    Other scorings of its weights come last, or right after memory late in the study.
    """
    memory_hints = hints(space, context.memory)
    for hint in memory_hints:
        if hint.helped:
            why = f"{hint.lesson.note_id} from {hint.lesson.dataset}: {hint.field} {hint.value} helped there"
            yield Move(hint.field, hint.value, why, 0.5, (hint.lesson.note_id,))
    for name, belief in best_by_field(context.beliefs).items():
        yield Move(name, belief.value, f"claims expect {belief.gain:+.1%} here", 0.5, belief.cites)
    doubted = {(hint.field, hint.value) for hint in memory_hints if not hint.helped}
    doubted |= {(belief.field, belief.value) for belief in context.beliefs if belief.gain < 0}
    unlikely: list[Move] = []
    scoring = ["scoring"] if best.scores else []
    early = scoring if is_late(history, context.trials_left) else []
    for name in [*early, *diagnoses(best, history, context), *scoring]:
        for rule in DIAGNOSES.get(name, ALWAYS):
            move = _move_by(space, best.config, rule, name)
            if move is None:
                continue
            if (move.field, move.value) in doubted:
                unlikely.append(move)
            else:
                yield move
    yield from unlikely


def diagnoses(best: Configuration, history: Sequence[Observation], context: PolicyContext) -> list[str]:
    """The table's keys that fit the incumbent and the data, the most pressing first, and `always` at the end."""
    latest = best.trials[-1]
    words = [finding.split(":")[0] for finding in latest.diagnosis]
    if latest.status == "timed_out" and latest.score is None:
        words.append("slow")
    seconds = usual_seconds(history) if latest.reused else latest.seconds
    if context.seconds_left is not None and seconds * (context.trials_left or 1) > context.seconds_left:
        words.append("slow")
    users, length = context.facts.get("users"), context.facts.get("mean_length")
    if (users is not None and users < SPARSE_USERS) or (length is not None and length < SPARSE_LENGTH):
        words.append("sparse")
    return [*(name for name in dict.fromkeys(words) if name in DIAGNOSES), "always"]


def _move_by(space: Space, config: Config, rule: Rule, diagnosis: str) -> Move | None:
    field = next((field for field in space.free() if field.name == rule.field), None)
    if field is None or rule.backbone not in (None, space.backbone):
        return None
    value = target(field, config[field.name], rule)
    if value is None:
        return None
    reason = rule.why if diagnosis == "always" else f"{diagnosis}: {rule.why}"
    return Move(field.name, value, reason, rule.confidence)


def target(field: Field, now: Value, rule: Rule) -> Value | None:
    """Where the rule moves a field: the admitted value nearest to its aim, or None where no value lies that way."""
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
    """The incumbent after the move, with divisible pairs made to fit; None where the move has no effect there."""
    changed = settle(space, {**config, move.field: move.value})
    active = space.active(space.field(move.field), changed)
    return changed if active and changed[move.field] == move.value and valid(space, changed) else None


def _proposal(space: Space, best: Configuration, move: Move, config: Config) -> Proposal:
    return Proposal(
        changes_between(space, best.config, config),
        parent=best.trials[0].trial_id,
        hypothesis=f"{move.field} {best.config[move.field]} → {move.value}: {move.why}",
        expected=Expected(field=move.field, direction="up", effect=EFFECT, confidence=move.confidence),
        cites=move.cites,
    )


def perturbation(space: Space, best: Configuration, seen: set[str], rng: random.Random) -> Proposal | None:
    """A small random step in one field of the incumbent; None where every configuration was tried."""
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
