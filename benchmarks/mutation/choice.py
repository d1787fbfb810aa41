"""Which tests may notice a mistake in a module, the most direct first, by the imports in the source."""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DIRECT, INDIRECT = 6, 5
"""How many files of tests are chosen, at most: those that name the module or lie in its folder, and others."""


@dataclass(frozen=True)
class Choice:
    """The files of tests for one module: `indirect` are run where none of `direct` notices anything."""

    direct: tuple[str, ...]
    indirect: tuple[str, ...]


def read_sources(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """The Python files of some folders, by path from `root`."""
    files = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


def imports_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """The files that each file imports. A name that a package passes on counts as an import of where it is from."""
    files = {_module(path): path for path in sources}
    trees = {path: ast.parse(source) for path, source in sources.items()}
    passed_on: dict[str, dict[str, str]] = {}
    for path, tree in trees.items():
        if path.endswith("__init__.py"):
            lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
            passed_on[path] = {
                alias.asname or alias.name: files[line.module]
                for line in lines
                for alias in line.names
                if line.module in files
            }
    return {path: _imported(tree, files, passed_on) - {path} for path, tree in trees.items()}


def _imported(tree: ast.Module, files: Mapping[str, str], passed_on: Mapping[str, Mapping[str, str]]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {files[alias.name] for alias in node.names if alias.name in files}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if path := files.get(f"{node.module}.{alias.name}"):
                    found.add(path)
                elif path := files.get(node.module):
                    found.add(passed_on.get(path, {}).get(alias.name, path))
    return found


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def mentions_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """The words in each file of tests."""
    return {path: set(re.findall(r"\w+", source)) for path, source in sources.items() if path.startswith("tests/")}


def choose(
    path: str, imports: Mapping[str, set[str]], function: str = "", mentions: Mapping[str, set[str]] | None = None
) -> Choice:
    """The tests of the module at `path`, or of one `function` in it, if `mentions` has the words of each file of tests.

    First comes the file that is named after the module, then those that import it, then the others of the mirrored
    folder. What is further away follows by the number of imports between. Of two alike, a test of the same package is
    the first, then the one that imports less, as it is the more particular. Far away, those that mention the function
    precede.
    """
    away = _distances(path, imports)
    module = PurePosixPath(path)
    folder = PurePosixPath("tests", module.parent).as_posix()
    ranks: list[tuple[int, bool, bool, int, str]] = []
    for test in imports:
        place = PurePosixPath(test)
        if not place.name.startswith("test_") or place.parts[0] != "tests":
            continue
        mirrored = place.parent.as_posix() == folder
        if mirrored and place.stem == f"test_{module.stem}":
            rank = 0
        elif away.get(test) == 1:
            rank = 1
        elif mirrored:
            rank = 2
        elif test in away:
            rank = 1 + away[test]
        else:
            continue
        unmentioned = rank > 2 and function not in (mentions or {}).get(test, ())
        rank = min(rank, 3) if not unmentioned else rank + 1
        ranks.append((rank, unmentioned, place.parts[1] != module.parts[0], len(imports[test]), test))
    direct = [test for rank, *_, test in sorted(ranks) if rank <= 2][:DIRECT]
    others = [test for *_, test in sorted(ranks) if test not in direct]
    return Choice(tuple(direct), tuple(others[:INDIRECT]))


def _distances(path: str, imports: Mapping[str, set[str]]) -> dict[str, int]:
    """The number of imports from each file to `path`, for the files that reach it."""
    importers: dict[str, list[str]] = {}
    for importer, imported in imports.items():
        for other in imported:
            importers.setdefault(other, []).append(importer)
    away, waiting = {path: 0}, deque([path])
    while waiting:
        here = waiting.popleft()
        for importer in importers.get(here, ()):
            if importer not in away:
                away[importer] = away[here] + 1
                waiting.append(importer)
    return away


def package_of(path: str) -> str:
    """The first two folders of a path: what the results are summed by."""
    parts: Sequence[str] = PurePosixPath(path).parent.parts
    return "/".join(parts[:2])
