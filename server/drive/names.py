"""Other names for datasets and fields, so that a model can be compared with one that cannot know them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

AMBIGUOUS = "loss"
"""A field that holds a word, and what a curve tells: known as a field by what follows it."""


class Names:
    """`hide` puts aliases for the names into what a model is told, `restore` the names into what it asks for."""

    def __init__(self, datasets: Sequence[str], fields: Sequence[str]) -> None:
        self._aliases = {name: f"dataset_{place}" for place, name in enumerate(datasets, 1)}
        self._aliases |= {name: f"field_{place:02}" for place, name in enumerate(fields, 1)}
        self._names = {alias: name for name, alias in self._aliases.items()}
        told = _any(name for name in self._aliases if name != AMBIGUOUS)
        ambiguous = rf"(?<=\"){AMBIGUOUS}(?=\"(?!\s*:\s*-?\d))|\b{AMBIGUOUS}(?=[=>])"
        self._told = re.compile(rf"(?<![\w.-])(?:{told})(?![\w-])" + (f"|{ambiguous}" if AMBIGUOUS in fields else ""))
        self._asked = re.compile(rf"\b(?:{_any(self._names)})\b")

    def hide(self, text: str) -> str:
        """The text with aliases."""
        return self._told.sub(lambda found: self._aliases[found[0]], text)

    def restore(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call with the names."""
        text = json.dumps(arguments, ensure_ascii=False)
        return json.loads(self._asked.sub(lambda found: self._names[found[0]], text))


def _any(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
