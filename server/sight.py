"""What policies see of a study: the server's answers as observations and as a brief."""

from __future__ import annotations

from collections.abc import Sequence

from memory.elsewhere import Elsewhere
from memory.priors import Belief, Start
from server import answers
from server.answers import TrialAnswer
from server.policies.base import Brief, Lesson, Observation
from trainers.space import Config


def observe(answer: TrialAnswer, config: Config, metric: str) -> Observation:
    """A trial's answer as a policy sees it."""
    scored = answer.status in ("ok", "timed_out") and not answer.violations
    return Observation(
        trial_id=answer.trial_id,
        number=answer.number,
        config=config,
        seed=answer.seed,
        status=answer.status,
        score=answer.metrics.get(metric) if scored else None,
        reached=answer.metrics.get(metric) if answer.status == "stopped" else None,
        changes=answer.changes,
        parent=answer.parent,
        replicate_of=answer.replicate_of,
        verdict=answer.verdict,
        curve=tuple(answer.curve),
        diagnosis=tuple(answer.diagnosis),
        seconds=(answer.seconds or 0.0) + (answer.eval_seconds or 0.0),
        reused=answer.weights_of is not None,
        epochs=answer.epochs,
        best_epoch=answer.best_epoch,
    )


def seen(
    brief: answers.Brief, elsewhere: Sequence[Elsewhere], trials_left: int | None, seconds_left: float | None
) -> Brief:
    """What is known beside the trials."""
    facts = {name: float(value) for name, value in brief.dataset.items() if type(value) in (int, float)}
    lessons = tuple(
        Lesson(note.heuristic_id, note.kind, note.text, note.dataset, note.backbone) for note in brief.memory
    )
    starts = tuple(Start(one.changes, one.gain, tuple(one.datasets)) for one in brief.starts)
    beliefs = tuple(Belief(one.field, one.value, one.gain, tuple(one.cites)) for one in brief.beliefs)
    return Brief(
        brief.metric, brief.backbone, facts, lessons, starts, beliefs, tuple(elsewhere), trials_left, seconds_left
    )
