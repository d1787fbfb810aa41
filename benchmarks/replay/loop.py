"""Replays a study on a table of finished trainings: a policy proposes, the table answers, the server's rules judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from benchmarks.harness.invented import BEGAN, METRIC, study
from memory.records import Study, Trial
from server.policies.base import Observation, Policy, PolicyContext, Proposal
from server.policies.inputs import observation
from server.replay.recorded import Table
from server.study import admission, verdicts
from server.study.diagnosis import diagnose
from server.study.history import StudyHistory
from server.study.requests import TrialRequest
from trainers.contract.facts import DatasetFacts
from trainers.contract.space import Space

PATIENCE = 20
"""After this many proposals in a row that train nothing new, a policy counts as exhausted."""

MakePolicy = Callable[[], Policy]


@dataclass(frozen=True)
class Step:
    """One training: the hashes of the trained configuration, and of the one that leads afterwards."""

    trained: str
    leading: str
    rival: str | None = None
    """The hash of the configuration that it was compared with."""


@dataclass
class Replayed:
    """The records of one replayed study."""

    study: Study
    table: Table
    trials: list[Trial]
    history: list[Observation]
    steps: list[Step]


def play(
    table: Table, space: Space, facts: DatasetFacts, make: MakePolicy, seed: int, trainings: int,
    advise: Callable[[PolicyContext], PolicyContext] = lambda context: context, configurations: int | None = None,
) -> Replayed:  # fmt: skip
    """Replays one study with up to `trainings` trainings, whose trial 0 is the default of `space`.

    `advise` adds the advice of memory to the policy's context. After `configurations` of them only fresh seeds are
    trained, as in a study that ends there.
    """
    replay = Replayed(study(space, table.dataset, facts, filter_seen="reference", seed=seed), table, [], [], [])
    policy, idle = make(), 0
    known_facts = {"users": float(facts.users), "mean_length": facts.mean_length}
    context = advise(PolicyContext(METRIC, space.backbone, known_facts))
    while len(replay.steps) < trainings and idle < PATIENCE:
        if configurations is not None:
            tried = {trial.config_hash for trial in replay.trials}
            context = replace(context, trials_left=configurations - len(tried))
        proposal = policy.propose(space, replay.history, context, Random(f"{seed}:{len(replay.history)}:{idle}"))
        if proposal is None or (context.trials_left == 0 and proposal.replicate_of is None):
            break
        idle = 0 if _train(replay, proposal) else idle + 1
    return replay


def _train(replay: Replayed, proposal: Proposal) -> bool:
    """Answers one proposal from the table; returns whether it was a new training."""
    request = TrialRequest(
        study_id=replay.study.study_id, changes=proposal.changes, parent=proposal.parent,
        replicate_of=proposal.replicate_of,
    )  # fmt: skip
    new = admission.plan_trial(StudyHistory(replay.study, replay.trials), request)
    if any(trial.config_hash == new.config_hash and trial.seed == new.seed for trial in replay.trials):
        return False
    training = replay.table.training(new.config_hash, new.seed)
    numbers = {trial.config_hash: trial.number for trial in replay.trials}
    number = numbers.get(new.config_hash, len(set(numbers.values())))
    trial = Trial(
        **new.model_dump(), trial_id=f"t-{len(replay.trials)}", number=number, created_at=BEGAN, status=training.status,
        validation=training.validation, best_epoch=training.best_epoch, epochs=len(training.epochs),
        seconds=training.seconds,
    )  # fmt: skip
    judgement = verdicts.verdict(replay.study, trial, [*replay.trials, trial])
    verdict = judgement.comparison.verdict if judgement.comparison else None
    trial = trial.model_copy(update={"verdict": verdict})
    replay.trials.append(trial)
    findings = diagnose(trial, training.epochs, METRIC, judgement.noise.sigma, {})
    score = trial.validation.get(METRIC)
    replay.history.append(observation(trial, trial.config, score, (), diagnosis=findings))
    best = verdicts.ranking_of(replay.study, replay.trials).leader
    leading = best.config_hash if best else trial.config_hash
    rival = judgement.against.config_hash if judgement.against else None
    replay.steps.append(Step(trial.config_hash, leading, rival))
    return True
