"""Converts between rows and records: times in UTC, JSON text, maps of finite numbers, text within its limits."""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from memory.errors import MemoryFault
from memory.tables.connection import Row
from trainers.contract.space import Config, Space

LONGEST_TEXT = 20_000
"""The most characters of any stored text, such as the message of a trial."""
LONGEST = {"heuristic": 2_000, "reflection": 4_000, "summary": 8_000, "hypothesis": 2_000}
"""The most characters, by kind, of the texts that are shown to models again."""
_HIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u2069\\ufeff]")
"""Control characters, and characters that hide text or change its direction."""


def new_id(prefix: str) -> str:
    """A fresh id: `prefix`, a dash and 8 random characters of a-z and 2-7."""
    return f"{prefix}-{base64.b32encode(secrets.token_bytes(5)).decode().lower()}"


def now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


def stored_time(when: datetime) -> datetime:
    """`when` as a column holds it: in UTC, without a time zone."""
    return when.astimezone(UTC).replace(tzinfo=None)


def read(row: Row, *json_columns: str) -> Row:
    """A row as a record takes it: its times get the zone UTC, and `json_columns` are parsed."""
    values: Row = {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for name, value in row.items()
    }
    for name in json_columns:
        values[name] = None if values[name] is None else json.loads(values[name])
    return values


def as_json(value: object) -> str:
    """JSON text of plain values."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def finite(metrics: Mapping[str, float]) -> dict[str, list[Any]]:
    """The `keys` and `numbers` of a map column, without metrics that are not finite."""
    kept = {name: float(number) for name, number in metrics.items() if math.isfinite(number)}
    return {"keys": list(kept), "numbers": list(kept.values())}


def checked_text(what: str, text: str) -> str:
    """`text` as valid Unicode without surrounding blanks; control and hidden characters become blanks.

    Raises MemoryFault where it is empty or longer than LONGEST allows for `what`.
    """
    clean = _HIDDEN.sub(" ", text.replace("\r\n", "\n").encode("utf-8", "replace").decode()).strip()
    if not clean:
        raise MemoryFault(f"The {what} is empty; say in a sentence what was learned or expected.")
    longest = LONGEST.get(what, LONGEST_TEXT)
    if len(clean) > longest:
        raise MemoryFault(f"The {what} has {len(clean):,} characters; at most {longest:,} are kept. Shorten it.")
    return clean


def shortened(text: str) -> str:
    """`text` as valid Unicode, at most LONGEST_TEXT characters. The start is cut, as the end says most of a failure."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= LONGEST_TEXT else "…" + clean[1 - LONGEST_TEXT :]


def value_columns(space: Space, config: Config) -> dict[str, Sequence[object]]:
    """The columns of trial_values for one configuration, with one row for each field that has an effect in it."""
    rests = space.rests(config)
    return {
        "fields": list(rests),
        "numbers": [None if isinstance(config[name], str) else float(config[name]) for name in rests],
        "texts": [config[name] if isinstance(config[name], str) else None for name in rests],
        "rests": list(rests.values()),
    }
