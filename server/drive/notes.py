"""The reflections and heuristics that a drive without a language model writes, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory.statistics.noise import Sigma, relative
from server.answers import Brief, TrialAnswer
from server.policies.base import Configuration, Observation, Proposal, configurations
from server.policies.lessons import BEAT, LOST, NO_EFFECT
from server.policies.phrases import changed, counted, data_words
from server.policies.single_changes import Effect, effects

HEURISTICS = 3
"""How many believable effects of one study become heuristics, and how many open ones, the largest first."""


def reflection(answer: TrialAnswer, proposal: Proposal, metric: str, following: Proposal | None) -> str:
    """What was expected of a trial, what it scored, how that compares with noise, and what is tried next."""
    what = "A fresh seed" if proposal.replicate_of else changed(answer.changes)
    parts = [
        f"{what} (number {answer.number}, seed {answer.seed}). {_expectation(proposal)} {_outcome(answer, metric)}"
    ]
    if answer.diagnosis:
        parts.append("Curve: " + "; ".join(answer.diagnosis) + ".")
    parts.append(f"Next: {following.hypothesis}." if following and following.hypothesis else "Next: nothing is left.")
    return " ".join(parts)


def _expectation(proposal: Proposal) -> str:
    if proposal.replicate_of:
        return "Expected: to tell luck from effect."
    if proposal.expected is None or proposal.expected.effect is None:
        return "Expected: a measure for the rest."
    sure = f" with probability {proposal.expected.confidence:g}" if proposal.expected.confidence is not None else ""
    return f"Expected: {proposal.expected.effect:+.0%}{sure}."


def _outcome(answer: TrialAnswer, metric: str) -> str:
    score = answer.metrics.get(metric)
    if score is None:
        why = f": {answer.message}" if answer.message else ""
        return f"It ended {answer.status}{why}; no score."
    against = next((name for name in ("parent", "incumbent", "default") if name in answer.delta), None)
    if answer.status == "stopped":
        return f"Came: {answer.message or 'stopped early'}; counted as worse."
    text = f"Came: {metric} {score:.4f}"
    if against is not None:
        text += f", {answer.delta[against]:+.1%} against the {against}"
    if answer.gain is not None:
        text += f" ({answer.gain.low:+.1%} to {answer.gain.high:+.1%} is expected)"
    if answer.violations:
        return f"{text}. It violates a guardrail: {'; '.join(answer.violations)}."
    return f"{text}: {answer.verdict}." if answer.verdict else f"{text}."


@dataclass(frozen=True)
class HeuristicDraft:
    """A heuristic to write: in words, with the trials it rests on, and as a claim where one change had an effect."""

    text: str
    evidence: list[str]
    claim: dict[str, Any] | None = None


def heuristics(brief: Brief, history: Sequence[Observation], sigma: Sigma) -> list[HeuristicDraft]:
    """The heuristics of this study, the most believable first; at least one if anything was trained."""
    measured = effects(history, sigma)
    scored = sorted(
        (effect for effect in measured if effect.relative is not None),
        key=lambda effect: -abs(effect.gain or 0.0),
    )
    believed = [effect for effect in scored if effect.believable][:HEURISTICS]
    unsettled = [effect for effect in scored if not effect.believable and abs(effect.gain or 0.0) > effect.error]
    unsettled = unsettled[:HEURISTICS]
    doubtful = [effect for effect in scored if not effect.believable and effect not in unsettled]
    failed = [
        effect for effect in measured if effect.relative is None and effect.status not in ("cancelled", "interrupted")
    ][:1]
    reported = [*believed, *unsettled, *failed] if believed or unsettled else [*doubtful[:1], *failed]
    drafts = [
        HeuristicDraft(_sentence(brief, effect), list(effect.evidence), _claim(brief, effect)) for effect in reported
    ]
    return drafts or [_default_draft(brief, default) for default in configurations(history)[:1]]


def _claim(brief: Brief, effect: Effect) -> dict[str, Any] | None:
    """The effect as something that later trials can support or refute."""
    if effect.gain is None or abs(effect.gain) <= effect.error:
        return None
    return {
        "scope": {"backbone": brief.backbone},
        "change": {"field": effect.field, "from": effect.before, "to": effect.after},
        "metric": brief.metric,
        "sign": "+" if effect.gain > 0 else "-",
    }


def _sentence(brief: Brief, effect: Effect) -> str:
    start = f"{data_words(brief.dataset)}, {brief.backbone}: {effect.field} {effect.after}"
    if effect.relative is None and effect.violations:
        return f"{start}, after {effect.before}, violates a guardrail: {'; '.join(effect.violations)}."
    if effect.relative is None:
        how = "was stopped early, far behind" if effect.status == "stopped" else f"ended {effect.status}"
        return f"{start} {LOST} {effect.before}: it {how}."
    trainings, other_trainings = effect.trainings
    noise = f"noise ±{relative(effect.half_width):.1%}, {trainings} against {counted(other_trainings, 'training')}"
    if not effect.believable and abs(effect.gain or 0.0) > effect.error:
        return (
            f"{start} came out {effect.relative:+.1%} against {effect.before} in {brief.metric}, not settled ({noise})."
        )
    if not effect.believable:
        return f"{start} {NO_EFFECT} {effect.before} in {brief.metric} ({effect.relative:+.1%}, {noise})."
    verb = BEAT if effect.relative > 0 else LOST
    return f"{start} {verb} {effect.before} by {abs(effect.relative):.1%} in {brief.metric} ({noise})."


def _default_draft(brief: Brief, default: Configuration) -> HeuristicDraft:
    evidence = [trial.trial_id for trial in default.trials]
    start = f"{data_words(brief.dataset)}, the default of {brief.backbone}"
    if default.mean is None and (violations := default.trials[-1].violations):
        return HeuristicDraft(f"{start} violates a guardrail: {'; '.join(violations)}.", evidence)
    if default.mean is None:
        return HeuristicDraft(f"{start} did not train: it ended {default.trials[-1].status}.", evidence)
    scale = {name: values.get(brief.metric, 0.0) for name, values in brief.baselines.items()}
    best = max(scale, key=lambda name: scale[name], default=None)
    beside = f", against {scale[best]:.4f} of {best} without training" if best else ""
    reached = f"reached {brief.metric} {default.mean:.4f} over {counted(len(default.scores), 'training')}{beside}"
    return HeuristicDraft(f"{start} {reached}.", evidence)
