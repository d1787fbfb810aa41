"""What verdicts hold: simulated studies with known effects, judged by the server's own functions.

python -m benchmarks.verdicts [rule] [choosing] [searching] [ending] [--studies 250] [--tables DIR] [--jobs 2] [--write]

rule: how often verdicts are wrong, what they find, and what their intervals hold.
choosing: what the choice among thirty configurations lacks after so many trainings, beside other ways to spend them.
searching: each shipped policy where nothing, one field or ten fields have an effect.
ending: what the interval of a study's last sentence holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import files
from benchmarks.verdicts import choosing, ending, rule, searching

PAGE = Path(__file__).parents[2] / "docs" / "results" / "noise.md"
COMMAND = "python -m benchmarks.verdicts"
TITLE = "# What a verdict is worth\n"


class Part(NamedTuple):
    """One section of the page; `section` makes its table."""

    heading: str
    words: str
    section: Callable[[Executor, Path, int], str]


PARTS = {
    "rule": Part(rule.HEADING, rule.WORDS, rule.section),
    "choosing": Part(choosing.HEADING, choosing.WORDS, choosing.section),
    "searching": Part(searching.HEADING, searching.WORDS, searching.section),
    "ending": Part(ending.HEADING, ending.WORDS, ending.section),
}


def with_section(page: str, heading: str, text: str) -> str:
    """The page with this section in place of the one of that heading, or at its end."""
    head, *sections = page.split("\n## ")
    kept = {section.partition("\n")[0]: section for section in sections}
    kept[heading] = f"{heading}\n\n{text.strip()}\n"
    return "\n## ".join([head, *kept.values()])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--studies", type=int, default=250, metavar="N", help="of each kind")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="default: replay/ in the folder of data")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--write", action="store_true", help=f"write the sections into {PAGE.name}")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"{unknown[0]!r} is no part; choose from {', '.join(PARTS)}")
    folder = options.tables or files.folder_of(None) / "replay"
    with ProcessPoolExecutor(options.jobs) as pool:
        for name in options.parts or PARTS:
            part = PARTS[name]
            found = part.section(pool, folder, options.studies)
            again = f"Again: `{COMMAND} {name} --studies {options.studies}`"
            print(f"## {part.heading}\n\n{found}\n")
            if options.write:
                page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else TITLE
                PAGE.write_text(
                    with_section(page, part.heading, f"{part.words}\n\n{found}\n\n{again}"), encoding="utf-8"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
