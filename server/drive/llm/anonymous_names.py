"""Aliases for datasets and fields, to compare a model with one that cannot know their names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

AMBIGUOUS = "loss"
"""The name of a field and of a number in curves; what follows it in a text tells which one is meant."""


class Names:
    """`hide` replaces names by aliases in texts for a model; `restore` replaces aliases by names in its calls."""

    def __init__(self, datasets: Sequence[str], fields: Sequence[str]) -> None:
        self._aliases = {name: f"dataset_{place}" for place, name in enumerate(datasets, 1)}
        self._aliases |= {name: f"field_{place:02}" for place, name in enumerate(fields, 1)}
        self._names = {alias: name for name, alias in self._aliases.items()}
        names = _alternatives(name for name in self._aliases if name != AMBIGUOUS)
        ambiguous = rf"(?<=\"){AMBIGUOUS}(?=\"(?!\s*:\s*-?\d))|\b{AMBIGUOUS}(?=[=>])"
        self._name_pattern = re.compile(
            rf"(?<![\w.-])(?:{names})(?![\w-])" + (f"|{ambiguous}" if AMBIGUOUS in fields else "")
        )
        self._alias_pattern = re.compile(rf"\b(?:{_alternatives(self._names)})\b")

    def hide(self, text: str) -> str:
        """The text with aliases in place of names."""
        return self._name_pattern.sub(lambda match: self._aliases[match[0]], text)

    def restore(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call with names in place of aliases."""
        text = json.dumps(arguments, ensure_ascii=False)
        return json.loads(self._alias_pattern.sub(lambda match: self._names[match[0]], text))


def _alternatives(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
