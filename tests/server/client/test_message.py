"""Lines of a client as messages: what is mended, and what is refused by its id."""

from __future__ import annotations

import json

import pytest

from server.client.message import BadLine, as_line, read_message

PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}


def line(**changed: object) -> bytes:
    return json.dumps({**PING, **changed}).encode()


def test_a_plain_message_is_passed_on_unchanged() -> None:
    text = b'{ "jsonrpc":"2.0", "id": 7,  "method":"ping", "params": {"a": "\xc3\xa4"} }'
    message = read_message(text)
    assert (message.line, message.id, message.answer_id, message.is_request) == (text, 7, 7, True)


def test_a_byte_order_mark_is_dropped() -> None:
    assert read_message(b"\xef\xbb\xbf" + line()).line == line()


def test_a_whole_number_with_a_point_is_an_id_and_is_answered_as_it_was_written() -> None:
    message = read_message(line(id=2.0))
    assert (message.id, type(message.id), repr(message.answer_id)) == (2, int, "2.0")
    assert json.loads(message.line) == {**PING, "id": 2}


@pytest.mark.parametrize("broken", ['"\\ud83d"', '"a\\ude00"', '"\\ud83dx"'])
def test_half_a_character_is_replaced(broken: str) -> None:
    message = read_message(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"text":%s}}' % broken.encode())
    assert "\ufffd" in message.body["params"]["text"]
    assert json.loads(message.line.decode("utf-8"))["params"] == message.body["params"]


def test_a_whole_character_in_two_halves_is_kept() -> None:
    assert read_message(line(params={"text": "😀ä"})).body["params"] == {"text": "😀ä"}


def test_half_a_character_in_an_id_comes_back_as_it_was() -> None:
    message = read_message(line(id="\ud800"))
    assert message.id == "\ufffd"
    assert json.loads(as_line({"id": message.answer_id}))["id"] == "\ud800"
    as_line({"id": message.answer_id}).encode()


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert read_message(line(params={"text": "x"}).replace(b'"x"', b'"\xff"')).body["params"] == {"text": "\ufffd"}


def test_a_null_id_makes_no_request_of_a_notification() -> None:
    message = read_message(line(id=None, method="notifications/initialized"))
    assert (message.is_request, message.body) == (False, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert json.loads(message.line) == message.body


def test_an_answer_of_the_client_is_no_request() -> None:
    assert not read_message(b'{"jsonrpc":"2.0","id":7,"result":{}}').is_request


@pytest.mark.parametrize(
    ("text", "code", "words", "waiting"),
    [
        (b"not json", -32700, "not a line of JSON", None),
        (b'{"id": 3, "method": "ping"', -32700, "not a line of JSON", 3),
        (b'{"x": {"id": 4}, "y": ["id", 5], "id": "a", "method" oops', -32700, "not a line of JSON", "a"),
        (b'{"method": "ping", "id": {"a": 1}, oops', -32700, "not a line of JSON", None),
        (b'{"n": "\\"id\\": 1", "id": 9, oops', -32700, "not a line of JSON", 9),
        (b'{"id": 6, "n": ' + b"1" * 5000 + b"}", -32700, "digits", 6),
        (b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b', "id": 8}', -32600, "nested too deeply", 8),
        (b"[" * 200_000, -32600, "nested too deeply", None),
        (b"[]", -32600, "batches are not supported", None),
        (b"3", -32600, "One JSON-RPC message a line", None),
        (line(id=None), -32600, "id of a request is text or a whole number", None),
        (line(id=True), -32600, "id of a request is text or a whole number", None),
        (line(id=[1]), -32600, "id of a request is text or a whole number", None),
        (line(id=2.5), -32600, "id of a request is text or a whole number", 2.5),
        (line(id=1).replace(b": 1,", b": 1e999,"), -32600, "id of a request is text or a whole number", None),
        (line(method=3), -32600, "method of a message is text", 7),
        (line(params=[1]), -32600, "params of a message are an object", 7),
        (line(jsonrpc="1.0"), -32600, '"jsonrpc": "2.0"', 7),
        (b'{"id": 7, "method": "ping"}', -32600, '"jsonrpc": "2.0"', 7),
    ],
)
def test_what_no_server_could_answer_is_refused_by_its_id(
    text: bytes, code: int, words: str, waiting: str | float | None
) -> None:
    with pytest.raises(BadLine, match=words.replace("[", r"\[")) as refused:
        read_message(text)
    assert (refused.value.code, refused.value.id) == (code, waiting)
    assert "\n" not in str(refused.value)


def test_params_may_be_null() -> None:
    assert read_message(line(params=None)).is_request
