"""examples/registry/server.json: what an MCP registry is told of this package."""

import json
import re
import tomllib
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]


def test_the_file_for_registries_is_that_of_this_version_and_starts_the_stdio_server() -> None:
    told = json.loads((CLONE / "examples/registry/server.json").read_text())
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    (package,) = told["packages"]
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", told["name"])
    assert len(told["description"]) <= 100
    assert (told["version"], package["version"]) == (project["version"], project["version"])
    assert package["identifier"] == project["name"]
    assert package["transport"] == {"type": "stdio"}
    assert [argument["value"] for argument in package["packageArguments"]] == ["serve"]
    assert f"mcp-name: {told['name']}" in (CLONE / "README.md").read_text()
