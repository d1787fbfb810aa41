"""What an engineer without a language model writes down: reflections and heuristics, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory.noise import Sigma
from server.answers import Brief, TrialAnswer
from server.effects import Effect, effects
from server.policies.base import Observation, Proposal, Standing, standings
from server.policies.lessons import BEAT, LOST, NO_EFFECT
from server.words import changed, counted, data_words

HEURISTICS = 3
"""At most so many believable effects of one study become heuristics, and as many open ones, the largest first."""


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
