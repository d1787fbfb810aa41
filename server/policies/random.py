"""Random search: every free field uniform on its own scale."""

from __future__ import annotations

import random
from collections.abc import Sequence

from server.policies.base import Observation, PolicyContext, Proposal, first_trial, tried
from server.policies.sampling import changes_between, draw, untried
from trainers.contract.space import Space


class Random:
    """The baseline that every other policy has to beat."""

    reflects = False

    def propose(
        self, space: Space, history: Sequence[Observation], context: PolicyContext, rng: random.Random
    ) -> Proposal | None:
        """An untried configuration, or None once there is none."""
        if not history:
            return Proposal({}, hypothesis="the default configuration")
        if context.trials_left == 0:
            return None
        config = untried(space, tried(space, history), rng, lambda: draw(space, rng))
        if config is None:
            return None
        changes = changes_between(space, history[0].config, config)
        return Proposal(changes, parent=first_trial(history), hypothesis="a uniform draw from the space")
