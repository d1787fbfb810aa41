"""What clients are told of the tools: a golden file in both eras, and few tokens.

`python -m tests.server.tools.test_tools_list` writes the file anew, and prints what the list costs.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
from mcp import Client

from server.executors.testing.stub import StubExecutor
from server.owner.assembly import open_runtime
from server.settings import Settings
from server.tools.app import create_app

GOLDEN = Path(__file__).with_name("tools_list.json")
MOST_TOKENS = 3000
CHARACTERS_A_TOKEN = 4.0
"""Of JSON and English, about."""


def tokens(text: str) -> float:
    return len(text) / CHARACTERS_A_TOKEN


async def listed(home: Path, era: Literal["auto", "legacy"]) -> list[dict[str, Any]]:
    async with (
        open_runtime(Settings(home=home), StubExecutor()) as runtime,
        Client(create_app(runtime), mode=era) as client,
    ):
        found = (await client.list_tools()).tools
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in found]


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_the_list_is_the_golden_one_in_both_eras(tmp_path: Path, era: Literal["auto", "legacy"]) -> None:
    assert asyncio.run(listed(tmp_path, era)) == json.loads(GOLDEN.read_text())


def test_the_whole_list_is_thrifty() -> None:
    whole = json.dumps(json.loads(GOLDEN.read_text()), separators=(",", ":"), ensure_ascii=False)
    assert tokens(whole) < MOST_TOKENS


def test_every_tool_says_what_it_may_do_and_takes_no_unknown_argument() -> None:
    for tool in json.loads(GOLDEN.read_text()):
        assert tool["annotations"]["openWorldHint"] is False
        assert tool["inputSchema"]["additionalProperties"] is False
        assert tool["name"] == "plot_study" or tool["outputSchema"]["type"] == "object"
        assert "null" not in json.dumps(tool["inputSchema"])


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        found = asyncio.run(listed(Path(home), "auto"))
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    costs = {tool["name"]: tokens(json.dumps(tool, separators=(",", ":"), ensure_ascii=False)) for tool in found}
    costs["all"] = sum(costs.values())
    sys.stdout.writelines(f"{cost:6.0f}  {name}\n" for name, cost in costs.items())


if __name__ == "__main__":
    main()
