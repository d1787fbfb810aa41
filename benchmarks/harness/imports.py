"""Summarises imports: modules and lines of each folder, and levels and cycles of imports in each package.

python -m benchmarks.harness.imports [--root DIR] [--json]

Imports inside functions count. Modules that are only named in strings, as in a lazy registry, do not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import grimp

from benchmarks.harness.machine import ROOT
from benchmarks.harness.markdown import table

PACKAGES = ("server", "memory", "prompts", "trainers", "benchmarks")


@dataclass(frozen=True)
class Folder:
    """A folder of a package: the number of modules beside `__init__`, and the lines of all its files."""

    path: str
    modules: int
    lines: int


@dataclass(frozen=True)
class Package:
    """A top-level package: its number of modules, the depth of its imports, and the circles among them."""

    name: str
    modules: int
    levels: int
    circles: tuple[tuple[str, ...], ...]


def folders(root: Path) -> list[Folder]:
    """Every folder with Python files in the packages under `root`."""
    measured: list[Folder] = []
    for package in PACKAGES:
        with_files = {path.parent for path in (root / package).rglob("*.py")}
        for folder in sorted(with_files):
            files = sorted(folder.glob("*.py"))
            lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
            modules = sum(path.name != "__init__.py" for path in files)
            measured.append(Folder(str(folder.relative_to(root)), modules, lines))
    return measured


def packages(root: Path) -> list[Package]:
    """The packages under `root`, measured by the imports within each package."""
    sys.path.insert(0, str(root))
    try:
        return [_measure_package(name) for name in PACKAGES]
    finally:
        sys.path.remove(str(root))


def _measure_package(name: str) -> Package:
    graph = grimp.build_graph(name, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return Package(name, len(imports), levels(imports), tuple(circles(imports)))


def circles(imports: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules that import each other, directly or through others."""
    reached = {module: _reachable_from(imports, module) for module in imports}
    groups = {
        tuple(sorted(other for other in others if module in reached[other])) for module, others in reached.items()
    }  # a module that reaches itself is in a circle with every module that reaches it back
    return sorted(group for group in groups if group)


def _reachable_from(imports: Mapping[str, set[str]], module: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(imports[module])
    while waiting:
        other = waiting.pop()
        if other not in reached:
            reached.add(other)
            waiting.extend(imports[other])
    return reached


def levels(imports: Mapping[str, set[str]]) -> int:
    """The length of the longest chain of imports, in modules. A circle counts as one module."""
    home = {module: group for group in circles(imports) for module in group}
    heights: dict[str, int] = {}

    def level(module: str) -> int:
        if module not in heights:
            group = home.get(module, (module,))
            below = {other for member in group for other in imports[member]} - set(group)
            height = 1 + max((level(other) for other in below), default=0)
            heights.update(dict.fromkeys(group, height))
        return heights[module]

    return max((level(module) for module in imports), default=0)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.harness.imports", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="a checkout; default: this one")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    options = parser.parse_args()
    all_folders, all_packages = folders(options.root), packages(options.root)
    if options.as_json:
        print(
            json.dumps(
                {
                    "folders": [asdict(folder) for folder in all_folders],
                    "packages": [asdict(package) for package in all_packages],
                }
            )
        )
        return 0
    rows = [
        [
            package.name,
            str(package.modules),
            str(package.levels),
            "; ".join(" → ".join(circle) for circle in package.circles) or "none",
        ]
        for package in all_packages
    ]
    print(table(["package", "modules", "levels", "circles"], rows))
    print(
        table(
            ["folder", "modules", "lines"],
            [[folder.path, str(folder.modules), str(folder.lines)] for folder in all_folders],
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
