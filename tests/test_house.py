"""The layout of the code: no circles, folders small enough to look through, and in each a word on what is there."""

import ast
import re

import pytest

from benchmarks.harness.imports import Package, circles, folders, levels, packages
from benchmarks.harness.machine import ROOT

MODULES = 16
"""Of a folder, at most; benchmarks/ has one for each command."""
TOP = {"__main__", "auth", "errors", "runtime", "settings", "version"}
"""What lies directly in server/."""


@pytest.mark.parametrize("package", packages(ROOT), ids=lambda package: package.name)
def test_no_module_imports_itself_through_others(package: Package) -> None:
    assert package.circles == ()


def test_no_folder_is_a_drawer() -> None:
    assert [one for one in folders(ROOT) if one.modules > MODULES and one.path != "benchmarks"] == []
    assert {path.stem for path in (ROOT / "server").glob("*.py")} - {"__init__"} == TOP


def test_every_folder_says_in_a_paragraph_what_belongs_there() -> None:
    for folder in folders(ROOT):
        text = (ROOT / folder.path / "__init__.py").read_text(encoding="utf-8")
        words = ast.get_docstring(ast.parse(text)) or ""
        assert len(words.split("\n\n")) >= 2, folder.path


def test_circles_and_levels_by_hand() -> None:
    straight = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert (circles(straight), levels(straight)) == ([], 3)
    round_trip = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert (circles(round_trip), levels(round_trip)) == ([("b", "c")], 3)
    assert circles({"a": {"a"}}) == [("a",)]


def test_the_five_walks_are_short_and_lead_through_functions_that_there_are() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = re.findall(r"^\*\*[^*]+\*\*: (`.+?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert len(walks) == 5
    for walk in walks:
        steps = re.findall(r"`([\w/]+\.py): (\w+)`", walk)
        assert 3 <= len(steps) <= 7, walk
        for path, name in steps:
            code = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^ *(async )?def {name}\(", code, re.MULTILINE), f"{path} has no {name}"


def test_contributing_names_files_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:server|memory|trainers|tests|benchmarks)/[\w/]+(?:\.py|/))`", text)
    assert len(named) >= 15
    assert [path for path in named if not (ROOT / path).exists()] == []
