"""The search of a policy: the default and its seeds, then its proposals until the policy or the budget ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random

import anyio
import anyio.to_thread

from server.answers import TrialAnswer
from server.drive import notes
from server.drive.ablation import ablated
from server.drive.default_trial import default_proposal, default_scores, default_trained, is_default
from server.drive.state import Drive
from server.drive.study_client import Refused
from server.drive.together import run_together
from server.policies.base import PENDING, Observation, Policy, Proposal, configurations, first_trial

DEFAULT_SEEDS = 3
"""Trainings of the default, if the budget allows them."""
SEEDS_FROM_TRIALS = 8
"""Shorter studies leave the noise to what was recorded elsewhere."""
SEEDS_BUDGET_SHARE = 0.1


async def train_missing_default(drive: Drive) -> TrialAnswer | None:
    """Trains the default unless it is trained: a first training that was interrupted or cancelled counts as none.

    Returns the answer of the new training. Where other trials are there already, a refusal is a remark.
    """
    study_client = drive.open_study
    if default_trained(study_client):
        return None
    try:
        return await _train_default(drive)
    except Refused as refusal:
        if not study_client.trials:
            raise
        drive.remark(f"The server refused to train the default, so the study goes on without it: {refusal}")
        return None


async def _train_default(drive: Drive) -> TrialAnswer:
    """Trains trial 0, and two more seeds of it where they cost little, to measure the noise of later verdicts."""
    study_client, plan = drive.open_study, drive.plan
    first = await train(drive, await default_proposal(study_client))
    observed = study_client.observation(first)
    if observed.violations:
        limits = "; ".join(observed.violations)
        drive.remark(
            f"The default configuration itself violates a guardrail ({limits}); the study goes on from the first "
            "configuration that does not."
        )
    elif observed.score is None:
        why = f" ({first.message})" if first.message else ""
        drive.remark(
            f"The default configuration itself ended {first.status}{why}; going on from it with other settings."
        )
    budget = plan.budget_seconds
    cheap = budget is None or observed.seconds < SEEDS_BUDGET_SHARE * budget
    if plan.max_trials >= SEEDS_FROM_TRIALS and cheap and observed.score is not None:
        for seed in range(default_scores(study_client) + 1, DEFAULT_SEEDS + 1):
            if drive.spent():
                break
            why = f"seed {seed} of the default: how much luck there is"
            await train(drive, Proposal({}, replicate_of=first.trial_id, hypothesis=why))
    return first


async def _train_previous_best(drive: Drive, policy: Policy) -> None:
    """Trains what won on the older version of the dataset, before the policy proposes anything."""
    previous = drive.open_study.study.brief.previous
    if previous is None or not previous.changes or drive.plan.max_trials < 2 or drive.spent():
        return
    why = f"what won on the older version of this dataset (study {previous.study_id})"
    proposal = Proposal(previous.changes, parent=first_trial(drive.open_study.observations()), hypothesis=why)
    answer = await train(drive, proposal)
    if policy.reflects and drive.plan.reflection:
        await _reflect(drive, answer, proposal, None)


async def train(drive: Drive, proposal: Proposal) -> TrialAnswer:
    """Trains one proposal and shows it."""
    study_client = drive.open_study
    number = len({trial.number for trial in study_client.trials.values()})
    drive.view.started(proposal, number)
    answer = await study_client.run(proposal)
    drive.view.finished(answer, study_client.study.brief.metric)
    return answer


async def play_policy(drive: Drive, policy: Policy) -> None:
    """Trains the default, if that is missing, then the policy's proposals, and writes a reflection on each.

    Ends with the policy's proposals or the budget. `plan.parallel` trainings run at a time.
    """
    study_client = drive.open_study
    begins = all(is_default(study_client, trial_id) for trial_id in study_client.trials)
    first = await train_missing_default(drive)
    if first is not None and begins:
        await _train_previous_best(drive, policy)
    player = partial(_play_in_turn, drive, policy)
    await run_together([partial(player, first), *[player] * (drive.plan.parallel - 1)], drive.plan.parallel)


async def _play_in_turn(drive: Drive, policy: Policy, first: TrialAnswer | None = None) -> None:
    """Trains one proposal after another. `first` is the default's answer, where it has just been trained."""
    reflects = policy.reflects and drive.plan.reflection
    proposal = await _propose(drive, policy)
    if first is not None and reflects:
        await _reflect(drive, first, Proposal({}), proposal)
    while proposal is not None:
        try:
            answer = await train(drive, proposal)
        except Refused as refusal:
            if drive.spent():
                return
            drive.remark(f"The server refused a trial, so the search ends here: {refusal}")
            return
        finally:
            _settle(drive, proposal)
        following = await _propose(drive, policy)
        if reflects:
            await _reflect(drive, answer, proposal, following)
        if answer.duplicate and following == proposal:
            drive.remark(f"{policy.__class__.__name__} proposes {answer.trial_id} again, so the search ends here.")
            return
        proposal = following


async def _propose(drive: Drive, policy: Policy) -> Proposal | None:
    """The next proposal, which counts as under way from then on; None at the end.

    Where the policy has nothing new yet, waits for a trial under way to end and asks again.
    """
    async with drive.proposing:
        while True:
            proposal = await _ask_policy(drive, policy)
            if proposal is not None:
                pending = _pending(drive, proposal)
                if all(pending.config != other.config for _, other in drive.under_way):
                    drive.under_way.append((proposal, pending))
                    return proposal
            if not drive.under_way or drive.spent():
                return None
            await drive.settled.wait()


def _settle(drive: Drive, proposal: Proposal) -> None:
    """Marks a proposal as no longer under way."""
    drive.under_way = [entry for entry in drive.under_way if entry[0] is not proposal]
    drive.settled.set()
    drive.settled = anyio.Event()


def _pending(drive: Drive, proposal: Proposal) -> Observation:
    """A trial under way as policies see it; it has no id of its own yet."""
    study_client = drive.open_study
    config = study_client.config_of(proposal)
    numbers = {study_client.space.hash(observation.config): observation.number for observation in _history(drive)}
    number = numbers.get(study_client.space.hash(config), max(numbers.values(), default=-1) + 1)
    return Observation(
        f"pending-{number}", number, config, seed=-1, status=PENDING, score=None,
        changes=proposal.changes, parent=proposal.parent, replicate_of=proposal.replicate_of,
    )  # fmt: skip


def _history(drive: Drive) -> list[Observation]:
    """The trials that have finished, and after them those under way."""
    return [*drive.open_study.observations(), *(pending for _, pending in drive.under_way)]


async def _ask_policy(drive: Drive, policy: Policy) -> Proposal | None:
    study_client, plan = drive.open_study, drive.plan
    if drive.spent():
        return None
    if drive.shared:
        await study_client.catch_up()
    history = _history(drive)
    others = 0 if drive.count_others is None else await drive.count_others()
    left = plan.max_trials + others - len(configurations(history))
    if left < 0:
        return None
    rng = Random(f"{plan.request.seed}:{len(history)}")
    context = study_client.context()
    trials_left = left if context.trials_left is None else min(left, context.trials_left)
    context = replace(context, trials_left=trials_left)
    visible = ablated(context, plan.memory, study_client.space, plan.request.seed)
    return await anyio.to_thread.run_sync(policy.propose, study_client.space, history, visible, rng)


async def _reflect(drive: Drive, answer: TrialAnswer, proposal: Proposal, following: Proposal | None) -> None:
    text = notes.reflection(answer, proposal, drive.open_study.study.brief.metric, following)
    await drive.open_study.note("reflection", text, [answer.trial_id])
