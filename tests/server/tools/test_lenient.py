"""Calls as clients send them: null for what is unset, arguments as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mcp import MCPError
from mcp.server.context import ServerRequestContext

from server.tools.lenient import mend_arguments, without_unset
from tests.support.tool_client import tool_client

pytestmark = pytest.mark.anyio


async def arrived(method: str, params: Any, version: str = "2025-11-25") -> Any:
    """The params that reach the server, or the answer that is given instead."""
    reached: list[Any] = []
    session: Any = SimpleNamespace()
    ctx: ServerRequestContext[Any, Any] = ServerRequestContext(
        session=session, lifespan_context=None, method=method, params=params, request_id=1, meta=None,
        protocol_version=version, request=None, close_sse_stream=None, close_standalone_sse_stream=None,
    )  # fmt: skip

    async def serve(passed: ServerRequestContext[Any, Any]) -> dict[str, Any]:
        reached.append(passed.params)
        return {}

    answer = await mend_arguments(ctx, serve)
    return reached[0] if reached else answer


@pytest.mark.parametrize(
    ("given", "unwrapped"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": 1}', {"a": 1}),
        (json.dumps('{"a": 1}'), {"a": 1}),
        ("", {}),
        ("  ", {}),
        ("null", None),
        (None, None),
    ],
)
async def test_arguments_are_unwrapped(given: Any, unwrapped: Any) -> None:
    assert await arrived("tools/call", {"name": "t", "arguments": given}) == {"name": "t", "arguments": unwrapped}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("no JSON", '"no JSON"'),
        ([1], "[1]"),
        (3, "3"),
        ("[1]", '"[1]"'),
        (json.dumps(json.dumps('{"a": 1}')), json.dumps(json.dumps(json.dumps('{"a": 1}')))),
        ("x" * 90, '"' + "x" * 76 + "…"),
        ("[" * 2000, '"' + "[" * 76 + "…"),
    ],
)
async def test_arguments_that_are_no_object_are_told_in_one_line_that_the_model_reads(given: Any, shown: str) -> None:
    answer = await arrived("tools/call", {"name": "run_trial", "arguments": given})
    text = f'run_trial: arguments must be one JSON object, as in {{"study_id": "s-…"}}; got {shown}.'
    assert answer == {"content": [{"type": "text", "text": text}], "isError": True}
    answer = await arrived("tools/call", {"name": "run_trial", "arguments": given}, "2026-07-28")
    assert answer["resultType"] == "complete"


@pytest.mark.parametrize(
    ("method", "params"),
    [("tools/list", {"cursor": None}), ("tools/call", None), ("resources/read", {"arguments": "{}"}), ("ping", None)],
)
async def test_other_messages_pass_unchanged(method: str, params: Mapping[str, Any] | None) -> None:
    assert await arrived(method, params) == params


async def test_a_prompt_takes_numbers_and_leaves_out_nulls() -> None:
    reached = await arrived("prompts/get", {"name": "tune", "arguments": {"trials": 8, "metric": None, "dataset": "b"}})
    assert reached == {"name": "tune", "arguments": {"trials": "8", "dataset": "b"}}
    assert await arrived("prompts/get", {"name": "tune", "arguments": [1]}) == {"name": "tune", "arguments": [1]}


def test_what_is_null_is_unset_but_for_what_is_required_and_for_fields_of_a_space() -> None:
    given = {
        "study_id": None, "limit": None, "query": "x", "changes": {"dropout": None}, "space": {"dropout": None},
        "claim": {"scope": None, "given": [{"field": "a", "op": None}], "change": {"to": 1, "from": None}},
    }  # fmt: skip
    assert without_unset(given, ["study_id"]) == {
        "study_id": None, "query": "x", "changes": {"dropout": None}, "space": {"dropout": None},
        "claim": {"given": [{"field": "a"}], "change": {"to": 1}},
    }  # fmt: skip


async def test_every_optional_argument_may_be_null(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        tools = {tool.name: tool.input_schema for tool in (await at.client.list_tools()).tools}

        def nulls(tool: str, **given: Any) -> dict[str, Any]:
            return {**dict.fromkeys(tools[tool]["properties"]), **given}

        study = (await at.call("start_study", **nulls("start_study", dataset="demo")))["study_id"]
        first = await at.call("run_trial", **nulls("run_trial", study_id=study))
        assert (first["status"], first["number"], first["changes"]) == ("ok", 0, {})
        expected = {"field": "dropout", "direction": "up", "effect": None, "confidence": None}
        changed = {"changes": {"dropout": 0.1}, "expected": expected}
        assert (await at.call("run_trial", **nulls("run_trial", study_id=study, **changed)))["status"] == "ok"
        trial = first["trial_id"]
        claim = {"change": {"field": "dropout", "from": None, "direction": "down"}, "scope": None, "sign": None}
        note = {"study_id": study, "kind": "heuristic", "text": "Less.", "claim": claim}
        for tool, given in {
            "get_trial": {"trial_id": trial}, "get_study": {"study_id": study}, "read_memory": {"study_id": study},
            "suggest_trial": {"study_id": study}, "write_heuristic": note, "list_datasets": {},
            "cancel_trial": {"trial_id": trial}, "cancel_study": {"study_id": study},
            "run_policy": {"study_id": study, "max_trials": 1}, "finish_study": {"study_id": study},
        }.items():  # fmt: skip
            if tool == "finish_study":
                await at.call("get_study", study_id=study, wait_seconds=60)
            await at.call(tool, **nulls(tool, **given))


async def test_what_a_null_does_not_stand_for_is_told(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        study = (await at.call("start_study", dataset="demo"))["study_id"]
        assert "study_id=None: Input should be a valid string" in await at.refused("run_trial", study_id=None)
        refusal = await at.refused("run_trial", study_id=study, changes={"dropout": "0.3"})
        assert refusal == "dropout='0.3' is not allowed: a number is wanted; dropout is 0 to 0.8."
        assert "dropout=None is not allowed" in await at.refused("run_trial", study_id=study, changes={"dropout": None})
        assert "has no argument 'levle'" in await at.refused("read_memory", levle=None)


async def test_a_prompt_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:

        async def refused(name: str, **arguments: str) -> str:
            with pytest.raises(MCPError) as told:
                await at.client.get_prompt(name, arguments)
            assert "\n" not in told.value.message
            return told.value.message

        told = "There is no prompt 'tuen'. Did you mean 'tune'? Prompts: tune, reflect, distill."
        assert await refused("tuen") == told
        told = (
            "The prompt tune has no argument 'datset'. Did you mean 'dataset'? "
            "Arguments: dataset, backbone, metric, trials."
        )
        assert await refused("tune", datset="x") == told
        assert await refused("distill") == "The prompt distill needs the argument 'study_id'."
        assert "Unknown trial 't-x'" in await refused("reflect", trial_id="t-x")
        assert "Unknown study 's-x'" in await refused("distill", study_id="s-x")


async def test_a_tool_behind_a_prefix_is_named(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        told = await at.refused("mcp__virtualmle__get_trial")
        assert told.startswith("There is no tool 'mcp__virtualmle__get_trial'. Did you mean 'get_trial'? Tools: ")


async def test_a_study_in_which_nothing_was_done_can_be_forgotten_and_no_other(tmp_path: Path) -> None:
    async with tool_client(tmp_path) as at:
        kept = (await at.call("start_study", dataset="demo", withhold=0.5))["study_id"]
        await at.call("run_trial", study_id=kept)
        noted = (await at.call("start_study", dataset="demo"))["study_id"]
        await at.call("write_heuristic", study_id=noted, kind="heuristic", text="Less.")
        begun = (await at.call("start_study", dataset="demo", withhold=0.5))["study_id"]
        await at.call("read_memory", study_id=begun)
        for study in (kept, noted):
            refusal = await at.refused("cancel_study", study_id=study, forget=True)
            assert refusal == f"Something was done in study {study!r}, so it stays."
        await at.call("cancel_study", study_id=begun)
        await at.call("cancel_study", study_id=begun, forget=True)
        assert [study.study_id for study in at.runtime.memory.studies()] == [noted, kept]
        assert "Unknown study" in await at.refused("get_study", study_id=begun)
        assert at.runtime.memory.snapshots.latest(begun) is None
