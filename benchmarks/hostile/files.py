"""Leaves a hostile file in the place of a good one: no regular file, nonsense, or a good file with a few changes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.contract.regular_files import remove

_NUMBERS = ["-1", "0", "1e999", "-1e999", "NaN", "3000000000", str(2**63), str(2**127), "9" * 400, "0.1", "1e-400"]
_VALUES = [*_NUMBERS, "null", "true", '""', '"\\u0000"', '"\\ud83d"', '"../../owner.json"', "[]", "{}", "[[]]", '"9"']


def leave(path: Path, draw: random.Random) -> str:
    """Replaces what is at `path` by something hostile; returns its kind."""
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    remove(path)
    kind = draw.choice(list(_KINDS))
    _KINDS[kind](path, content, draw)
    return kind


def _bytes_changed(path: Path, content: bytes, draw: random.Random) -> None:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8) if content else 0):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    path.write_bytes(changed)


def _cut(path: Path, content: bytes, draw: random.Random) -> None:
    path.write_bytes(content[: draw.randint(0, len(content))])


def _value_changed(path: Path, content: bytes, draw: random.Random) -> None:
    """Replaces one value of a JSON text, or of one line of JSON lines; other files get a piece of JSON in front."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    try:
        parsed = json.loads(lines[place] if path.suffix == ".jsonl" else content)
    except ValueError:
        path.write_bytes(draw.choice(_VALUES).encode() + content)
        return
    marked = json.dumps(_mark(parsed, draw)).replace('"<here>"', draw.choice(_VALUES), 1).encode()
    path.write_bytes(b"\n".join([*lines[:place], marked, *lines[place + 1 :]]) if path.suffix == ".jsonl" else marked)


def _mark(value: Any, draw: random.Random) -> Any:
    """`value` with one of its parts, at any depth, replaced by the mark."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        return {**value, name: _mark(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        return [*value[:place], _mark(value[place], draw), *value[place + 1 :]]
    return "<here>"


def _key_added(path: Path, content: bytes, draw: random.Random) -> None:
    name = draw.choice(["m" * 5000, "", "\u0000", "__proto__", "status", "epoch"])
    path.write_bytes(content.replace(b"{", b"{" + json.dumps(name).encode() + b": 1, ", 1))


def _repeated(path: Path, content: bytes, draw: random.Random) -> None:
    path.write_bytes(content * draw.randint(2, 50))


def _nested(path: Path, content: bytes, draw: random.Random) -> None:
    depth = draw.choice([100, 2000, 100_000])
    path.write_text(draw.choice(["[", '{"a":']) * depth)


def _long_line(path: Path, content: bytes, draw: random.Random) -> None:
    path.write_bytes(content.rstrip(b"\n") + b" " * draw.choice([1000, 2**20]) + content)


_KINDS: dict[str, Callable[[Path, bytes, random.Random], object]] = {
    "a pipe": lambda path, content, draw: os.mkfifo(path),
    "a folder": lambda path, content, draw: path.mkdir(),
    "a link to the token": lambda path, content, draw: path.symlink_to("../../owner.json"),
    "a link to an endless file": lambda path, content, draw: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path, content, draw: path.symlink_to(path.name),
    "nothing": lambda path, content, draw: None,
    "an empty file": lambda path, content, draw: path.touch(),
    "a sparse file": lambda path, content, draw: (path.touch(), os.truncate(path, 2**40))[0],
    "noise": lambda path, content, draw: path.write_bytes(draw.randbytes(draw.randint(1, 4096))) and None,
    "changed bytes": _bytes_changed,
    "a file cut short": _cut,
    "a changed value": _value_changed,
    "another key": _key_added,
    "a repeated file": _repeated,
    "deep brackets": _nested,
    "a long line": _long_line,
}
