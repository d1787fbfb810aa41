"""Search policies: pure functions from what a study has seen to the trial it should run next.

A policy reads observations (inputs.py) and proposes a configuration. It never sees a trial record or the database.
"""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from server.policies.base import Policy

PolicyName = Literal["playbook", "random", "tpe", "hybrid", "gp"]
POLICIES: dict[str, str] = {
    "playbook": "server.policies.playbook:Playbook",
    "random": "server.policies.random:Random",
    "tpe": "server.policies.tpe:TPE",
    "hybrid": "server.policies.hybrid:Hybrid",
    "gp": "server.policies.gp:GP",
}
"""Import path of each policy, which `load` imports when it is needed."""
SAMPLERS = ("random", "tpe")
"""Policies that know nothing of fresh seeds."""


def load(name: str) -> Policy:
    """The policy called `name`, which confirms its leaders by fresh seeds.

    Raises MissingExtra, with a one-line message, where its library is not installed.
    """
    from server.policies.racing import Racing

    policy = load_plain(name)
    return Racing(policy) if name in SAMPLERS else policy


def load_plain(name: str) -> Policy:
    """The policy called `name`; a sampler trains each configuration once. Raises MissingExtra like `load`."""
    module, policy = POLICIES[name].split(":")
    return getattr(import_module(module), policy)()
