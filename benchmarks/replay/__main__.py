"""Search policies replayed on tables of finished trainings: trainings to a target, success and regret, by policy.

python -m benchmarks.replay --tables DIR [--policies random,tpe,playbook] [--seeds 30] [--trainings 40] [--jobs 2]
                            [--minutes N] [--json] [--write]

Every study that was replayed is kept as a row, so a call that was cut short goes on where it ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.measuring import exit_code
from benchmarks.replay.curves import picture
from benchmarks.replay.measures import Run
from benchmarks.replay.memory import NONE
from benchmarks.replay.options import DOCS, arguments_of, replay_units, titles_of
from benchmarks.replay.report import HEAD, TARGETS, page, summary

POLICIES = "grid,random,random+racing,tpe,tpe+racing,cma-es+racing,playbook,hybrid,gp"


def main(words: Sequence[str] | None = None) -> int:
    options = arguments_of(words, __doc__, POLICIES)
    runs_by_unit, missing = replay_units(options, [NONE])
    page_name = "replay-generated" if options.generated else "replay"
    answer: dict[str, Any] = {}
    for start in options.starts:
        runs: dict[str, list[Run]] = {}
        for unit, unit_runs in runs_by_unit.items():
            if unit.start == start:
                runs.setdefault(unit.policy, []).extend(unit_runs)
        policies = {name: summary(unit_runs, options.trainings) for name, unit_runs in runs.items()}
        answer[start] = {**titles_of(options.tables, start), "policies": policies}
        if options.write and runs and not missing:
            drawing = picture(
                runs, options.trainings, TARGETS[-1], f"Studies from {start} that reached {TARGETS[-1]:.0%}"
            )
            (DOCS / f"{page_name}-{start}.svg").write_text(drawing, encoding="utf-8")
    text = page(answer, options.seeds, options.trainings)
    if options.write and not missing:
        drawn = "".join(
            f"![Share of studies that hit, by trainings, from {s}]({page_name}-{s}.svg)\n" for s in options.starts
        )
        again = f"python -m benchmarks.replay {options.where} --seeds {options.seeds} --policies {options.policies}"
        (DOCS / f"{page_name}.md").write_text(f"{HEAD}{text}\n{drawn}\nAgain: `{again}`\n", encoding="utf-8")
    print(json.dumps(answer, indent=1) if options.as_json else text)
    return exit_code(missing)


if __name__ == "__main__":
    sys.exit(main())
