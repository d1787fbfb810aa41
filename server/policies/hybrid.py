"""Two policies in one study: the playbook opens and keeps a share of the proposals, TPE learns from all of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from server.policies.advice import advised, drop_failed_advice
from server.policies.base import Observation, PolicyContext, Proposal, configurations
from server.policies.playbook import Playbook
from server.policies.racing import confirm, to_confirm
from server.policies.tpe import STARTUP_TRIALS, TPE
from trainers.contract.space import Space

SHARE = 0.3
"""Share of proposals made by the playbook after the opening."""


class Hybrid:
    """A hybrid of an engineer and a sampler, which beats both in arXiv 2603.24647."""

    reflects = True

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._playbook, self._tpe = Playbook(), TPE()

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
    ) -> Proposal | None:
        """A fresh seed of a leader, else the playbook's move where it is its turn, else TPE's."""
        if history and (candidate := to_confirm(history, context)):
            return confirm(candidate)
        context = drop_failed_advice(space, history, context)
        if history and (proposal := advised(space, history, context)):
            return proposal
        policy = self._playbook if self._plays(len(configurations(history))) else self._tpe
        return policy.propose(space, history, context, rng)

    def _plays(self, configurations: int) -> bool:
        """Whether the next configuration is the playbook's: the opening, then each turn that completes a share."""
        later = configurations - STARTUP_TRIALS
        return later < 0 or int((later + 1) * self._share) > int(later * self._share)
