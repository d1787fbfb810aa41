"""Search policies: pure functions from what a study has seen to the trial it should run next."""

from __future__ import annotations

from importlib import import_module

from server.policies.base import Policy

POLICIES = {
    "random": "server.policies.random:Random",
    "tpe": "server.policies.tpe:TPE",
    "playbook": "server.policies.playbook:Playbook",
    "gp": "server.policies.gp:GP",
    "hybrid": "server.policies.hybrid:Hybrid",
}


def load(name: str) -> Policy:
    """The policy called `name`; raises MissingExtra, in one line, where its library is not installed."""
    module, policy = POLICIES[name].split(":")
    return getattr(import_module(module), policy)()
