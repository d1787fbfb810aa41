"""The search of a policy: the default and its seeds, then what it proposes until it or the budget is at its end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random

import anyio
import anyio.to_thread

from server.answers import TrialAnswer
from server.drive import notes
from server.drive.ablation import ablated
from server.drive.desk import Refused
from server.drive.state import Drive
from server.drive.together import together
from server.policies.base import PENDING, Observation, Policy, Proposal, first_trial, standings

DEFAULT_SEEDS = 3
"""Trainings of the default, where the budget is wide enough for them."""
SEEDS_FROM_TRIALS = 4
SEEDS_BUDGET_SHARE = 0.1


async def train_default(drive: Drive) -> None:
    """Trial 0, and two more seeds of it where they cost little: the noise that everything else is judged by."""
    desk, plan = drive.desk_open, drive.plan
    first = await run(drive, Proposal({}, hypothesis="the default configuration: the measure of everything after it"))
    observed = desk.observations()[0]
    if observed.score is None:
        why = f" ({first.message})" if first.message else ""
        drive.remark(
            f"The default configuration itself ended {first.status}{why}; going on from it with other settings."
        )
    budget = plan.budget_seconds
    cheap = budget is None or observed.seconds < SEEDS_BUDGET_SHARE * budget
    if plan.trials >= SEEDS_FROM_TRIALS and cheap and observed.score is not None:
        for seed in range(2, DEFAULT_SEEDS + 1):
            if drive.spent():
                break
            why = f"seed {seed} of the default: how much luck there is"
            await run(drive, Proposal({}, replicate_of=first.trial_id, hypothesis=why))


async def _older_best(drive: Drive, policy: Policy) -> None:
    """Trains what won on the older version of the dataset, whatever the policy would try."""
    previous = drive.desk_open.study.brief.previous
    if previous is None or not previous.changes or drive.plan.trials < 2 or drive.spent():
        return
    why = f"what won on the older version of this dataset (study {previous.study_id})"
    proposal = Proposal(previous.changes, parent=first_trial(drive.desk_open.observations()), hypothesis=why)
    answer = await run(drive, proposal)
    if policy.reflects and drive.plan.reflection:
        await _reflect(drive, answer, proposal, None)


async def run(drive: Drive, proposal: Proposal) -> TrialAnswer:
    """One training, shown."""
    desk = drive.desk_open
    number = len({trial.number for trial in desk.trials.values()})
    drive.view.started(proposal, number)
    answer = await desk.run(proposal)
    drive.view.finished(answer, desk.study.brief.metric)
    return answer


async def play_policy(drive: Drive, policy: Policy) -> None:
    """The default, unless it is trained; then ask the policy, train what it proposes and write down what it taught.

    Until the policy or the budget has nothing left; `plan.parallel` trainings at a time.
    """
    desk = drive.desk_open
    first: TrialAnswer | None = None
    if not desk.trials:
        await train_default(drive)
        await _older_best(drive, policy)
        first = next(iter(desk.trials.values()))
    player = partial(_play_on, drive, policy)
    await together([partial(player, first), *[player] * (drive.plan.parallel - 1)], drive.plan.parallel)


async def _play_on(drive: Drive, policy: Policy, first: TrialAnswer | None = None) -> None:
    """One trial after the other; `first` is the default, where it has just been trained."""
    reflects = policy.reflects and drive.plan.reflection
    proposal = await _propose(drive, policy)
    if first is not None and reflects:
        await _reflect(drive, first, Proposal({}), proposal)
    while proposal is not None:
        try:
            answer = await run(drive, proposal)
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
    """What to train next, which is under way from then on; None at the end. Waits where only that tells."""
    async with drive.proposing:
        while True:
            proposal = await _next(drive, policy)
            if proposal is not None:
                pending = _pending(drive, proposal)
                if all(pending.config != one.config for _, one in drive.under_way):
                    drive.under_way.append((proposal, pending))
                    return proposal
            if not drive.under_way or drive.spent():
                return None
            await drive.settled.wait()


def _settle(drive: Drive, proposal: Proposal) -> None:
    """It is not under way any more."""
    drive.under_way = [one for one in drive.under_way if one[0] is not proposal]
    drive.settled.set()
    drive.settled = anyio.Event()


def _pending(drive: Drive, proposal: Proposal) -> Observation:
    """A trial under way as policies see it; it has no id of its own yet."""
    desk = drive.desk_open
    config = desk.config_of(proposal)
    known = {desk.space.hash(one.config): one.number for one in _history(drive)}
    number = known.get(desk.space.hash(config), max(known.values(), default=-1) + 1)
    return Observation(
        f"pending-{number}", number, config, seed=-1, status=PENDING, score=None,
        changes=proposal.changes, parent=proposal.parent, replicate_of=proposal.replicate_of,
    )  # fmt: skip


def _history(drive: Drive) -> list[Observation]:
    """What came back, and after it what is under way."""
    return [*drive.desk_open.observations(), *(pending for _, pending in drive.under_way)]


async def _next(drive: Drive, policy: Policy) -> Proposal | None:
    desk, plan = drive.desk_open, drive.plan
    if drive.spent():
        return None
    if drive.shared:
        await desk.catch_up()
    history = _history(drive)
    left = plan.trials - len(standings(history))
    if left < 0:
        return None
    rng = Random(f"{plan.seed}:{len(history)}")
    brief = desk.brief()
    brief = replace(brief, trials_left=left if brief.trials_left is None else min(left, brief.trials_left))
    told = ablated(brief, plan.memory, desk.space, plan.seed)
    return await anyio.to_thread.run_sync(policy.propose, desk.space, history, told, rng)


async def _reflect(drive: Drive, answer: TrialAnswer, proposal: Proposal, following: Proposal | None) -> None:
    text = notes.reflection(answer, proposal, drive.desk_open.study.brief.metric, following)
    await drive.desk_open.note("reflection", text, [answer.trial_id])
