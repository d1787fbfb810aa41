"""Two minds, one study: the playbook opens and keeps a share of the proposals, TPE learns from all of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from server.policies.advice import advised, heeded
from server.policies.base import Brief, Observation, Proposal, standings
from server.policies.playbook import Playbook
from server.policies.racing import confirm, to_confirm
from server.policies.tpe import STARTUP_TRIALS, TPE
from trainers.space import Space

SHARE = 0.3
"""Of the proposals after the opening: the playbook's."""


class Hybrid:
    """As in arXiv 2603.24647, where a hybrid of an engineer and a sampler beats both."""

    reflects = True

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._playbook, self._tpe = Playbook(), TPE()

    def propose(
        self, space: Space, history: Sequence[Observation], brief: Brief, rng: random.Random
    ) -> Proposal | None:
        """A fresh seed of a leader, else the playbook's move where it is its turn, else TPE's."""
        if history and (candidate := to_confirm(history, brief)):
            return confirm(candidate)
        brief = heeded(space, history, brief)
        if history and (proposal := advised(space, history, brief)):
            return proposal
        mind = self._playbook if self._plays(len(standings(history))) else self._tpe
        return mind.propose(space, history, brief, rng)

    def _plays(self, configurations: int) -> bool:
        """Whether the next configuration is the playbook's: the opening, then each turn that completes a share."""
        later = configurations - STARTUP_TRIALS
        return later < 0 or int((later + 1) * self._share) > int(later * self._share)
