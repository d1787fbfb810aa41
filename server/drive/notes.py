"""What an engineer without a language model writes down: reflections, heuristics and a summary, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory.noise import Sigma
from server.answers import Brief, TrialAnswer
from server.drive.effects import Effect, effects
from server.policies.base import Observation, Proposal, Standing, ranked, standings
from server.policies.lessons import BEAT, LOST, NO_EFFECT
from server.policies.rules import SPARSE_LENGTH, SPARSE_USERS
from trainers.space import Config

HEURISTICS = 3
"""At most so many believable effects of one study become heuristics, and as many open ones, the largest first."""


def changed(changes: Mapping[str, Any]) -> str:
    """Changes in words."""
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "the default"


def counted(number: int, noun: str) -> str:
    """A count with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def reflection(answer: TrialAnswer, proposal: Proposal, metric: str, following: Proposal | None) -> str:
    """What was expected of a trial, what came, how that stands against noise, and what is tried next."""
    what = "A fresh seed" if proposal.replicate_of else changed(answer.changes)
    parts = [f"{what} (number {answer.number}, seed {answer.seed}). {_expected(proposal)} {_came(answer, metric)}"]
    if answer.diagnosis:
        parts.append("Curve: " + "; ".join(answer.diagnosis) + ".")
    parts.append(f"Next: {following.hypothesis}." if following and following.hypothesis else "Next: nothing is left.")
    return " ".join(parts)


def _expected(proposal: Proposal) -> str:
    if proposal.replicate_of:
        return "Expected: to tell luck from effect."
    if proposal.expected is None or proposal.expected.effect is None:
        return "Expected: a measure for the rest."
    sure = f" with probability {proposal.expected.confidence:g}" if proposal.expected.confidence is not None else ""
    return f"Expected: {proposal.expected.effect:+.0%}{sure}."


def _came(answer: TrialAnswer, metric: str) -> str:
    score = answer.metrics.get(metric)
    if score is None:
        why = f": {answer.message}" if answer.message else ""
        return f"It ended {answer.status}{why}; no score."
    against = next((name for name in ("parent", "incumbent", "default") if name in answer.delta), None)
    if answer.status == "stopped":
        return f"Came: {answer.message or 'stopped early'}; counted as worse."
    came = f"Came: {metric} {score:.4f}"
    if against is not None:
        came += f", {answer.delta[against]:+.1%} against the {against}"
    if answer.noise is not None:
        came += f" (noise ±{answer.noise.half_width:.1%})"
    return f"{came}: {answer.verdict}." if answer.verdict else f"{came}."


@dataclass(frozen=True)
class Learned:
    """A heuristic to write: in words, with the trials it rests on, and as a claim where one change had an effect."""

    text: str
    evidence: list[str]
    claim: dict[str, Any] | None = None


def heuristics(brief: Brief, history: Sequence[Observation], sigma: Sigma) -> list[Learned]:
    """What this study found, the most believable first; at least one where anything was trained."""
    found = effects(history, sigma)
    scored = sorted((one for one in found if one.relative is not None), key=lambda one: -abs(one.relative or 0.0))
    believed = [one for one in scored if one.believable][:HEURISTICS]
    open_ones = [one for one in scored if not one.believable and abs(one.relative or 0.0) > one.error][:HEURISTICS]
    doubtful = [one for one in scored if not one.believable and one not in open_ones]
    failed = [one for one in found if one.relative is None and one.status not in ("cancelled", "interrupted")][:1]
    told = [*believed, *open_ones, *failed] if believed or open_ones else [*doubtful[:1], *failed]
    learned = [Learned(_sentence(brief, one), list(one.evidence), _claim(brief, one)) for one in told]
    return learned or [_of_the_default(brief, default) for default in standings(history)[:1]]


def _claim(brief: Brief, effect: Effect) -> dict[str, Any] | None:
    """The effect as something that later trials can support or refute."""
    if effect.relative is None or abs(effect.relative) <= effect.error:
        return None
    return {
        "scope": {"backbone": brief.backbone},
        "change": {"field": effect.field, "from": effect.before, "to": effect.after},
        "metric": brief.metric,
        "sign": "+" if effect.relative > 0 else "-",
    }


def _sentence(brief: Brief, effect: Effect) -> str:
    start = f"{data_words(brief.dataset)}, {brief.backbone}: {effect.field} {effect.after}"
    if effect.relative is None:
        how = "was stopped early, far behind" if effect.status == "stopped" else f"ended {effect.status}"
        return f"{start} {LOST} {effect.before}: it {how}."
    own, other = effect.trainings
    noise = f"noise ±{effect.half_width:.1%}, {own} against {counted(other, 'training')}"
    if not effect.believable and abs(effect.relative) > effect.error:
        return (
            f"{start} came out {effect.relative:+.1%} against {effect.before} in {brief.metric}, not settled ({noise})."
        )
    if not effect.believable:
        return f"{start} {NO_EFFECT} {effect.before} in {brief.metric} ({effect.relative:+.1%}, {noise})."
    verb = BEAT if effect.relative > 0 else LOST
    return f"{start} {verb} {effect.before} by {abs(effect.relative):.1%} in {brief.metric} ({noise})."


def _of_the_default(brief: Brief, default: Standing) -> Learned:
    evidence = [trial.trial_id for trial in default.trials]
    start = f"{data_words(brief.dataset)}, the default of {brief.backbone}"
    if default.mean is None:
        return Learned(f"{start} did not train: it ended {default.trials[-1].status}.", evidence)
    scale = {name: values.get(brief.metric, 0.0) for name, values in brief.baselines.items()}
    best = max(scale, key=lambda name: scale[name], default=None)
    beside = f", against {scale[best]:.4f} of {best} without training" if best else ""
    reached = f"reached {brief.metric} {default.mean:.4f} over {counted(len(default.scores), 'training')}{beside}"
    return Learned(f"{start} {reached}.", evidence)


def data_words(facts: Mapping[str, Any]) -> str:
    """The data that a lesson was learned on, so that it can be weighed elsewhere."""
    users, length = int(facts.get("users", 0)), float(facts.get("mean_length", 0.0))
    kinds = [word for word, fits in (("short", length < SPARSE_LENGTH), ("sparse", users < SPARSE_USERS)) if fits]
    kind = " and ".join(kinds) + " " if kinds else ""
    size = f"mean length {length:.1f}, {users:,} users, {int(facts.get('items', 0)):,} items"
    return f"On {kind}sequences ({size})"


def summary(brief: Brief, history: Sequence[Observation], sigma: Sigma, default: Config) -> str:
    """The study in a few sentences: how much was tried, what is best, what helped and what did not."""
    found, best = standings(history), next(iter(ranked(history)), None)
    parts = [
        f"{data_words(brief.dataset)}: {counted(len(found), 'configuration')} of {brief.backbone} in "
        f"{counted(len(history), 'training')}."
    ]
    if best is None or best.mean is None:
        ends = ", ".join(sorted({trial.status for trial in history}))
        return " ".join([*parts, f"None scored ({ends})."])
    changes = {name: value for name, value in best.config.items() if value != default.get(name)}
    parts.append(
        f"Best: {changed(changes)}, {brief.metric} {best.mean:.4f} over {counted(len(best.scores), 'training')}."
    )
    base = found[0].mean
    if base and best.number != found[0].number:
        parts.append(f"That is {best.mean / base - 1:+.1%} on validation against the default's {base:.4f}.")
    for verdict, words in ((True, "Helped"), (False, "Hurt")):
        names = [
            f"{one.field} {one.before} → {one.after} ({one.relative:+.1%})"
            for one in effects(history, sigma)
            if one.believable and one.relative is not None and (one.relative > 0) == verdict
        ]
        parts.append(f"{words} beyond noise: {', '.join(names) or 'nothing'}.")
    return " ".join(parts)
