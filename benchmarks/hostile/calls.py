"""What clients can send, drawn from a seed: every tool, resource, prompt and route, and lines on a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from server.client.home import (
    BACKUP_PATH,
    CREDIT_PATH,
    EXPORT_PATH,
    MCP_PATH,
    PACK_PATH,
    PACKS_PATH,
    RECOMMEND_PATH,
    STATUS_PATH,
)
from server.client.message import VERSION_KEY
from server.dashboard.routes import APP, DATA_PATH

Kind = Literal["message", "route", "line"]


@dataclass(frozen=True)
class Input:
    """One input: a JSON-RPC `message`, an HTTP request of a `route`, or a `line` on the pipe of a bridge.

    A text such as `$study1` in it stands for an id that the tried home has.
    """

    kind: Kind
    content: Any


KNOWN = ("$study0", "$study1", "$finished", "$trial0", "$trial1", "$note", "$snapshot", "$dataset", "demo", "nowhere")
FIELDS = ("dropout", "learning_rate", "num_blocks", "loss", "hidden_dim", "max_epochs", "nothing")
SLOW = ("plot_study", "suggest_trial", "start_study")
"""Tools whose calls take a second; they are drawn less often."""
NASTY = (
    "", " ", "\x00", "\n\n", "../../etc/passwd", "%2e%2e", "{}", "[]", "null", "NaN", "'; DROP TABLE trials; --", "𝔘",
    "\ud83d", "\u202e", "x" * 5000, "$", "{study_id}", "virtualmle://", "s-" + "0" * 200, "[" * 300,
)  # fmt: skip
_TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=()), max_size=12))
_NUMBER = st.one_of(
    st.integers(-3, 12), st.sampled_from([2**31, 2**63, -(2**64), 10**30, 1e308, -1e308, 0.1, 1e-300]),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
_PLAIN = st.one_of(st.none(), st.booleans(), _NUMBER, _TEXT, st.sampled_from(KNOWN))
_DEEP = st.integers(2, 400).map(lambda levels: _nested(levels))
JUNK = st.one_of(
    st.recursive(
        _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3), max_leaves=6
    ),
    _DEEP,
)


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def _object(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=members)


_FIELD, _VALUE = st.sampled_from(FIELDS), st.one_of(st.sampled_from([0.1, 0.5, 0.003, 2, 64, True, "bce"]), _PLAIN)
_PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "changes": st.dictionaries(_FIELD, _VALUE, max_size=3),
    "space": st.dictionaries(_FIELD, st.one_of(_VALUE, st.lists(_VALUE, max_size=2), _object(low=_VALUE, high=_VALUE))),
    "expected": _object(
        field=_FIELD, direction=st.sampled_from(["up", "down", "none", "x"]), effect=_NUMBER, confidence=_NUMBER
    ),
    "guardrails": st.dictionaries(st.sampled_from(["coverage@10", "ndcg@10", "x"]), _object(min=_NUMBER, max=_NUMBER)),
    "claim": _object(
        change=_object(field=_FIELD, to=_VALUE, direction=st.sampled_from(["up", "down"]), **{"from": _VALUE}),
        given=st.lists(_object(field=_FIELD, op=st.sampled_from(["<", "=="]), value=_VALUE), max_size=2),
        scope=_object(backbone=st.sampled_from(["sasrec", "x"]), dataset=JUNK), metric=_TEXT,
        sign=st.sampled_from("+-"),
    ),
    "evidence": st.lists(st.sampled_from(KNOWN), max_size=3), "cites": st.lists(st.sampled_from(KNOWN), max_size=3),
    "supersedes": st.lists(st.sampled_from(KNOWN), max_size=3), "backbone": st.sampled_from(["sasrec", "hstu", "x"]),
    "dataset": st.sampled_from(["demo", "$dataset", "nowhere"]), "cursor": st.sampled_from(["0", "3", "9" * 9, "-1"]),
    "max_trials": st.integers(1, 3), "wait_seconds": st.sampled_from([0, 0.01, 1]), "text": _TEXT, "query": _TEXT,
}  # fmt: skip


def _argument(name: str, schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what the argument means, else anything."""
    if name in _PLAUSIBLE:
        fitting = _PLAUSIBLE[name]
    elif choices := schema.get("enum"):
        fitting = st.sampled_from(list(choices))
    elif name.endswith("_id") or name in ("parent", "replicate_of", "compare_to"):
        fitting = st.sampled_from(KNOWN)
    else:
        fitting = _NUMBER if schema.get("type") in ("number", "integer") else _PLAIN
    return st.one_of(fitting, fitting, fitting, st.none(), JUNK)


def _arguments(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    known: Mapping[str, Any] = schema.get("properties", {})
    needed = {name: _argument(name, known[name]) for name in schema.get("required", ())}
    others = {name: _argument(name, one) for name, one in known.items() if name not in needed}
    whole = st.fixed_dictionaries(needed, optional=others)
    return st.one_of(whole, whole, whole, whole.map(lambda given: json.dumps(given)), JUNK)


_IDS = st.one_of(
    st.integers(0, 10**6), st.text("abc", min_size=1, max_size=5), st.floats(0, 1e6).map(lambda n: float(int(n)))
)
_METHODS = (
    "ping", "tools/list", "resources/list", "resources/templates/list", "prompts/list", "logging/setLevel", "tasks/get",
    "tasks/cancel", "tasks/update", "completion/complete", "server/discover", "initialize", "resources/subscribe",
    "notifications/cancelled", "roots/list", "nothing/such", "",
)  # fmt: skip


def _call(tool: str, schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"name": st.just(tool), "arguments": _arguments(schema)})


def messages(tools: Mapping[str, Mapping[str, Any]], templates: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON-RPC requests, by method; `tools` are the schemas of their arguments."""
    uris = st.one_of(
        st.tuples(st.sampled_from([*templates, APP]), st.one_of(st.sampled_from(KNOWN), _TEXT), _TEXT).map(_uri),
        _TEXT,
        JUNK,
    )
    quick = [_call(name, schema) for name, schema in tools.items() if name not in SLOW]
    slow = [_call(name, schema) for name, schema in tools.items() if name in SLOW]
    calls = st.one_of([*quick, *quick, *quick, *quick, *slow])
    prompts = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["tune", "reflect", "distill", "x"]),
            "arguments": st.one_of(
                _object(trial_id=st.sampled_from(KNOWN), study_id=st.sampled_from(KNOWN), dataset=_TEXT, trials=_PLAIN),
                JUNK,
            ),
        }
    )
    completion = st.fixed_dictionaries(
        {
            "ref": st.one_of(_object(type=st.sampled_from(["ref/prompt", "ref/resource"]), name=_TEXT, uri=uris), JUNK),
            "argument": st.one_of(
                _object(name=st.sampled_from(["study_id", "trial_id", "dataset"]), value=_TEXT), JUNK
            ),
            "context": st.one_of(st.none(), _object(arguments=JUNK), JUNK),
        }
    )
    params = {
        "tools/call": st.one_of(calls, calls, calls, calls, JUNK), "resources/read": _object(uri=uris),
        "prompts/get": prompts, "completion/complete": completion,
    }  # fmt: skip
    named = [st.tuples(st.just(method), given) for method, given in params.items()]
    other = st.tuples(st.one_of(st.sampled_from(_METHODS), _TEXT, JUNK), JUNK)
    methods = st.one_of(named[0], named[0], named[0], named[1], named[2], named[3], other)
    return st.tuples(_IDS, methods, st.booleans()).map(_message)


def _uri(parts: tuple[str, str, str]) -> str:
    template, name, rest = parts
    head, mark, tail = template.partition("{")
    _, _, after = tail.partition("}")
    return head + (name if mark else "") + (rest if "{" in after else after)


def _message(parts: tuple[Any, tuple[Any, Any], bool]) -> dict[str, Any]:
    id, (method, params), modern = parts
    meta = {
        VERSION_KEY: "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    if modern and isinstance(params, dict):
        params = {**params, "_meta": meta}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


_PATHS = st.one_of(
    st.sampled_from(
        [MCP_PATH, "/", "/health", "/metrics", DATA_PATH, f"{DATA_PATH}/$study0", f"{DATA_PATH}/$finished", STATUS_PATH,
         BACKUP_PATH, EXPORT_PATH, RECOMMEND_PATH, PACK_PATH, PACKS_PATH, CREDIT_PATH, "/owner/none"]
    ),
    st.text("/%?#.abc;é\\", max_size=12).map(lambda text: f"/{text}"),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8).map(f"{DATA_PATH}/{{}}".format),
)  # fmt: skip
_BODIES = st.one_of(
    st.binary(max_size=40),
    JUNK.map(lambda value: json.dumps(value).encode()),
    _object(
        study_id=st.sampled_from(KNOWN), trial_id=st.sampled_from(KNOWN), folder=_TEXT, out=_TEXT, histories=JUNK,
        format=st.sampled_from([0, 1, 2]), name=_TEXT, heuristics=JUNK, trials=JUNK, digest=_TEXT,
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
ROUTES = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
        "path": _PATHS, "body": _BODIES, "token": st.booleans(),
        "accept": st.sampled_from(["application/json, text/event-stream", "*/*", "text/html", ""]),
        "type": st.sampled_from(["application/json", "text/plain", ""]),
        "version": st.sampled_from(["", "", "2025-11-25", "2026-07-28", "1.0"]),
    }
)  # fmt: skip


def written(message: dict[str, Any], way: int, noise: bytes, place: int) -> tuple[Any, bytes]:
    """A line for a bridge, and the id that has to be answered; None where the line may hold no message."""
    given = message["id"]
    id = f"{given}-{place}" if isinstance(given, str) else type(given)(place)
    text = json.dumps({**message, "id": id}).encode()
    if way == 0:
        return id, b"\xef\xbb\xbf" + text
    if way == 1:
        return None, noise.replace(b"\n", b"")
    if way == 2:
        return None, text[: len(text) // 2]
    return id, text


def inputs(tools: Mapping[str, Mapping[str, Any]], templates: Sequence[str]) -> st.SearchStrategy[Input]:
    """Inputs of every kind; of ten, six are messages, two requests of routes and two lines."""
    sent = messages(tools, templates)
    lines = st.tuples(sent, st.integers(0, 8), st.binary(max_size=60))
    kinds = [
        *([sent.map(lambda content: Input("message", content))] * 6),
        *([ROUTES.map(lambda content: Input("route", content))] * 2),
        *([lines.map(lambda content: Input("line", content))] * 2),
    ]
    return st.integers(0, 9).flatmap(lambda number: kinds[number])


def draw(strategy: st.SearchStrategy[Input], number: int, amount: int) -> list[Input]:
    """`amount` inputs, the same for the same number."""
    found = list[Input]()
    part = 0
    while len(found) < amount:

        @seed(1_000_003 * number + part)
        @settings(
            max_examples=amount, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )  # fmt: skip
        @given(strategy)
        def collect(drawn: Input) -> None:
            found.append(drawn)

        collect()  # pyright: ignore[reportCallIssue] - hypothesis gives the argument
        part += 1
    return found[:amount]
