"""benchmarks.mutants: which mistakes can be planted, which tests are chosen, and one tiny copy that is tried."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.harness.machine import ROOT
from benchmarks.mutants import diff_of, drawn, report
from benchmarks.mutation.choice import Choice, choose, imports_of, package_of
from benchmarks.mutation.operators import Mutant, changes, mutants
from benchmarks.mutation.scratch import Scratch, Verdict, failed_test
from tests.benchmarks.test_harness import row


def planted(source: str) -> list[tuple[str, str]]:
    """The kind of each mistake in a source, and the source with it."""
    return [(mutant.kind, mutant.planted(source)) for mutant in mutants("a.py", source) if changes(mutant, source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("y = a < b", [("compared", "y = a <= b")]),
        ("y = (a) >= (b)", [("compared", "y = (a) > (b)")]),
        ("y = a not  in b", [("compared", "y = a in b")]),
        ("y = a is not None", [("compared", "y = a is None")]),
        ("y = a < b < c", []),
        ("y = ü + b", [("arithmetic", "y = ü - b")]),
        ("y = a // b", [("arithmetic", "y = a / b")]),
        ("y = a + 'text'", []),
        ("y = a | b", []),
        ("y = f(a, b, c)", [("swapped", "y = f(b, a, c)")]),
        ("y = f(a, a)", []),
        ("y = max(a, b)", []),
        ("y = f(*a, b)", []),
        ("y = 3", [("constant", "y = 4")]),
        ("y = 40", [("constant", "y = 80")]),
        ("y = 0.25", [("constant", "y = 0.5")]),
        ("y = 0.0", [("constant", "y = 1.0")]),
        ("y = 1e-12", []),
        ("y = True", [("constant", "y = False")]),
        ("y = a and b and c", [("and/or", "y = a or b and c")]),
        ("y = a if b else c", [("negated", "y = a if not (b) else c")]),
        ("y = [a for a in b if a]", [("negated", "y = [a for a in b if not (a)]")]),
        ("f()", [("removed", "pass")]),
        ("a.b = c", [("removed", "pass")]),
        ("a = b", []),
        ("a += b", [("removed", "pass")]),
        ("def f():\n    return a", [("returned", "def f():\n    return None")]),
        ("def f():\n    return None", []),
        ("y = '''SELECT a FROM b\nWHERE a < 1 AND b'''", [
            ("SQL", "y = '''SELECT a FROM b\nWHERE a <= 1 AND b'''"),
            ("SQL", "y = '''SELECT a FROM b\nWHERE a < 1 OR b'''"),
        ]),
        ("y = 'this AND that'", []),
    ],
)  # fmt: skip
def test_each_place_has_its_mistakes(source: str, expected: list[tuple[str, str]]) -> None:
    assert planted(source) == expected


def test_a_guard_can_be_left_out_negated_and_emptied() -> None:
    assert planted("if a:\n    raise ValueError(1 + 2)") == [
        ("guard removed", "if False:\n    raise ValueError(1 + 2)"),
        ("negated", "if not (a):\n    raise ValueError(1 + 2)"),
        ("removed", "if a:\n    pass"),
    ]


def test_words_annotations_and_settings_are_left_alone() -> None:
    source = '''"""Text: 1 < 2."""
__all__ = ["a", "b"]
log.info("it took %s", 3)
text = f"{1 + 2} epochs"


@decorated(1, 2)
def f(a: Literal[1, 2]) -> Annotated[int, 3]:
    """One."""


class C(Base):
    """Two."""

    model_config = Settings(frozen=True)
    a: Annotated[int, Field(ge=0)]
    """Three."""
'''
    assert planted(source) == []


def test_a_mistake_knows_the_public_function_around_it() -> None:
    source = "def outer():\n    def _inner():\n        f()\n    g()\n\ndef _private():\n    h()\n"
    assert [(mutant.line, mutant.function) for mutant in mutants("a.py", source)] == [
        (3, "outer"),
        (4, "outer"),
        (7, ""),
    ]


def test_the_line_and_the_diff_of_a_mistake() -> None:
    source = "a = 1\nb = (\n    c\n    + d\n)\n"
    (mutant,) = [mutant for mutant in mutants("a.py", source) if mutant.kind == "arithmetic"]
    assert (mutant.line, diff_of(mutant, source)) == (3, "-    + d\n+    - d")


def test_a_larger_draw_begins_with_a_smaller_one_and_stays_under_its_paths() -> None:
    sources = {"memory/a.py": "x = [1, 2, 3, 4]", "memory/ab.py": "y = 1 < 2", "server/c.py": "z = 5"}
    twenty = drawn(sources, ["memory"], 20, seed=0)
    assert {mutant.path for mutant in twenty} == {"memory/a.py", "memory/ab.py"}
    assert drawn(sources, ["memory"], 3, seed=0) == twenty[:3]
    assert drawn(sources, ["memory"], 20, seed=1) != twenty
    assert {mutant.path for mutant in drawn(sources, ["memory/a.py"], 20, seed=0)} == {"memory/a.py"}


SOURCES = {
    "memory/claims/__init__.py": "from memory.claims.book import Book",
    "memory/claims/book.py": "import memory.tables.rows",
    "memory/claims/credit.py": "from memory.claims import Book",
    "memory/tables/__init__.py": "",
    "memory/tables/rows.py": "",
    "server/views/brief.py": "from memory.claims import credit",
    "tests/__init__.py": "",
    "tests/memory/claims/test_book.py": "from tests.support import house",
    "tests/memory/claims/test_other.py": "",
    "tests/memory/claims/test_credit.py": "def test_it():\n    from memory.claims.credit import given",
    "tests/memory/test_store.py": "from memory.claims import Book",
    "tests/server/test_brief.py": "import server.views.brief",
    "tests/server/test_more.py": "import server.views.brief\nimport memory.tables.rows",
    "tests/support/house.py": "from memory.claims.book import Book",
}


def test_imports_are_followed_to_where_a_name_is_from() -> None:
    imports = imports_of(SOURCES)
    assert imports["memory/claims/credit.py"] == {"memory/claims/book.py"}
    assert imports["server/views/brief.py"] == {"memory/claims/credit.py"}
    assert imports["tests/memory/claims/test_book.py"] == {"tests/support/house.py"}
    assert imports["tests/memory/claims/test_credit.py"] == {"memory/claims/credit.py"}


def test_the_tests_of_a_module_come_by_their_distance() -> None:
    imports = imports_of(SOURCES)
    assert choose("memory/claims/book.py", imports) == Choice(
        direct=(
            "tests/memory/claims/test_book.py", "tests/memory/test_store.py", "tests/memory/claims/test_other.py",
            "tests/memory/claims/test_credit.py",
        ),
        indirect=("tests/server/test_brief.py", "tests/server/test_more.py"),
    )  # fmt: skip
    assert choose("memory/tables/rows.py", imports).direct == ("tests/server/test_more.py",)
    assert choose("nowhere/a.py", imports) == Choice((), ())


def test_far_away_the_tests_that_mention_the_function_come_first() -> None:
    imports, mentions = imports_of(SOURCES), {"tests/server/test_more.py": {"found", "elsewhere"}}
    near = choose("memory/claims/book.py", imports)
    named = choose("memory/claims/book.py", imports, "elsewhere", mentions)
    assert named == Choice(near.direct, near.indirect[::-1])


@pytest.mark.parametrize(
    ("path", "package"),
    [("memory/claims/book.py", "memory/claims"), ("memory/store.py", "memory"), ("a/b/c/d.py", "a/b")],
)
def test_results_are_summed_by_the_first_two_folders(path: str, package: str) -> None:
    assert package_of(path) == package


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("F\nFAILED tests/a/test_b.py::test_c[1 2] - assert 1 == 2\n1 failed", "tests/a/test_b.py::test_c[1 2]"),
        ("ERROR tests/a/test_b.py - ImportError\n", "tests/a/test_b.py"),
        ("FAILED tests/a/test_b.py::test_c\n", "tests/a/test_b.py::test_c"),
        ("ImportError while loading conftest", None),
    ],
)
def test_the_test_that_failed_is_read_from_the_summary(output: str, name: str | None) -> None:
    assert failed_test(output) == name


def test_the_report_counts_by_package_and_shows_what_was_not_noticed() -> None:
    values = {"kind": "compared", "noticed": True, "by": "tests/a.py::test_b", "diff": "-a\n+b"}
    rows = [
        row(dataset="memory/claims/a.py", run=3, values=values),
        row(dataset="memory/claims/a.py", run=9, values={**values, "noticed": False, "by": ""}),
        row(dataset="memory/store.py", run=1, values={**values, "noticed": False, "by": "time"}),
    ]
    assert report(rows).split("\n\n") == [
        "| package | planted | noticed | share |\n| --- | ---: | ---: | ---: |\n| memory | 1 | 0 | 0% |\n"
        "| memory/claims | 2 | 1 | 50% |\n| all | 3 | 1 | 33% |",
        "memory/claims/a.py:9 compared\n-a\n+b",
        "memory/store.py:1 compared (its tests took too long)\n-a\n+b",
    ]


CODE = "def least(a, b):\n    return a if a < b else b\n"
TESTS = """
from code_under_test import least

def test_always_fails():
    assert False

def test_least():
    assert least(1, 2) == 1
"""


def test_mistakes_are_planted_in_a_copy_and_a_test_that_always_fails_counts_for_nothing(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    shutil.copytree(ROOT / "benchmarks" / "mutation", checkout / "benchmarks" / "mutation")
    (checkout / "benchmarks" / "__init__.py").touch()
    (checkout / "code_under_test.py").write_text(CODE)
    (checkout / "tests" / "test_code.py").write_text(TESTS)
    (checkout / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["docker", "ray", "node", "gpu", "data"]\n'
    )
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    found = {mutant.kind: mutant for mutant in mutants("code_under_test.py", CODE)}
    copy = Scratch(checkout, tmp_path / "copy", load=("pytest",))
    try:
        choice = Choice((), ("tests/test_code.py",))
        verdicts = {kind: copy.try_on(mutant, choice, 60) for kind, mutant in found.items()}
        late = copy.try_on(found["negated"], choice, -1)
    finally:
        copy.close()
    assert {kind: (verdict.noticed, verdict.by) for kind, verdict in verdicts.items()} == {
        "compared": (False, ""),  # the least of two equal numbers is either
        "negated": (True, "tests/test_code.py::test_least"),
        "returned": (True, "tests/test_code.py::test_least"),
    }
    assert late == Verdict(False, "time", late.seconds)
    assert (
        (checkout / "code_under_test.py").read_text() == (tmp_path / "copy" / "code_under_test.py").read_text() == CODE
    )


def test_a_planted_file_that_cannot_be_parsed_or_means_the_same_is_no_mistake() -> None:
    assert not changes(Mutant("a.py", 1, "compared", 4, 5, "("), "y = a")
    assert not changes(Mutant("a.py", 1, "compared", 4, 5, "(a)"), "y = a")
