"""What is said to a model: one Markdown file for each prompt, whose {{places}} `render` fills.

Nothing here talks to a model; server/drive/llm does, and server/tools offers the prompts to MCP clients.
"""

from __future__ import annotations

import re
from importlib import resources

_PLACE = re.compile(r"\{\{(\w+)\}\}")


class PromptError(ValueError):
    """An unknown prompt, or values that do not match its places."""


def names() -> list[str]:
    """The prompts there are."""
    return sorted(file.name[:-3] for file in resources.files("prompts").iterdir() if file.name.endswith(".md"))


def places(name: str) -> list[str]:
    """The values that prompt `name` needs, in order of first use."""
    return list(dict.fromkeys(_PLACE.findall(_text(name))))


def render(name: str, **values: object) -> str:
    """The prompt `name` with its places filled; raises PromptError on an unknown or a missing value."""
    wanted = set(places(name))
    if missing := sorted(wanted - set(values)):
        raise PromptError(f"prompt {name!r} needs {', '.join(missing)}.")
    if unknown := sorted(set(values) - wanted):
        raise PromptError(
            f"prompt {name!r} has no place for {', '.join(unknown)}; it takes {', '.join(sorted(wanted))}."
        )
    return _PLACE.sub(lambda match: str(values[match.group(1)]), _text(name))


def _text(name: str) -> str:
    if name not in names():
        raise PromptError(f"no prompt {name!r}; there are {', '.join(names())}.")
    return resources.files("prompts").joinpath(f"{name}.md").read_text(encoding="utf-8")
