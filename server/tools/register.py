"""Registers the MCP tools with their names, descriptions and hints."""

from __future__ import annotations

from inspect import getdoc
from typing import Any

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from server.client.message import READING_TOOLS
from server.dashboard.routes import APP
from server.tools.memory import read_memory, write_heuristic
from server.tools.policies import cancel_study, get_study, plot_study, run_policy, suggest_trial
from server.tools.studies import finish_study, list_datasets_tool, start_study
from server.tools.trials import cancel_trial, get_trial, run_trial

_READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITE = ToolAnnotations(destructive_hint=False, open_world_hint=False)
_END = ToolAnnotations(idempotent_hint=True, open_world_hint=False)
"""Without a hint, a client assumes the worst: that the tool changes and destroys things and may not be repeated."""
_ENDING = ("cancel_trial", "cancel_study", "finish_study")
"""Tools that end something, which may be repeated and cannot be undone."""


def register(server: MCPServer[Any]) -> None:
    """Register the tools, in the order in which an engineer uses them."""
    for tool in (
        list_datasets_tool, start_study, run_trial, get_trial, cancel_trial, suggest_trial, run_policy, get_study,
        cancel_study, plot_study, read_memory, write_heuristic, finish_study,
    ):  # fmt: skip
        # Some clients show the model only structured content, so an answer with a picture must not have any.
        structured = None if tool is not plot_study else False
        name = tool.__name__.removesuffix("_tool")
        hints = _READ if name in READING_TOOLS else _END if name in _ENDING else _WRITE
        page = {"ui": {"resourceUri": APP}} if tool is get_study else None
        server.add_tool(
            tool, name=name, description=getdoc(tool), annotations=hints, structured_output=structured, meta=page
        )
