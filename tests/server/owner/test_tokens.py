"""The token file of `serve --http`."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.auth import Token, Tokens, bearer, read_tokens
from server.client.endpoint import RemoteError, read_token
from server.settings import SettingsError

ALPHA, BETA, GAMMA = "alpha-0123456789", "beta-0123456789a", "gamma-0123456789"


def test_a_token_file_holds_tokens_names_and_roles(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who may\n\n{ALPHA}\n  {BETA}  ann\n{GAMMA} bob read\n")
    assert read_tokens(file) == (Token(ALPHA, "line-3"), Token(BETA, "ann"), Token(GAMMA, "bob", "read"))
    assert ALPHA not in repr(read_tokens(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\n# nothing\n", "The token file {file} holds no token; write one a line."),
        (
            f"{ALPHA}\n{BETA} ann admin\n",
            "{file} line 2: a line is a token, optionally a name and a role (read or tune).",
        ),
        (
            f"{ALPHA} page read\n",
            "{file} line 1: the name 'page' is reserved for the token of the study page; give another.",
        ),
        (
            f"{ALPHA} ann\n{BETA} Owner\n",
            "{file} line 2: the name 'Owner' is reserved for the token of owner.json; give another.",
        ),
        (
            f"{ALPHA} ann\n# two\n{BETA} ann read\n",
            "{file} line 3: its name is that of line 1; each needs one of its own.",
        ),
        (f"{ALPHA} line-2\n{BETA}\n", "{file} line 2: its name is that of line 1; each needs one of its own."),
        (f"{ALPHA} ann\n{ALPHA} bob\n", "{file} line 2: its token is that of line 1; each needs one of its own."),
        (
            f"{ALPHA} ann\nbob {BETA}\n",
            "{file} line 2: the token has 3 characters and needs at least 16; `openssl rand -hex 32` makes one.",
        ),
    ],
)
def test_a_token_file_that_is_wrong_is_refused_by_line_and_without_a_token(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        read_tokens(file)
    assert str(refused.value) == said.format(file=file)
    assert ALPHA not in str(refused.value)
    assert BETA not in str(refused.value)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_tokens(tmp_path / "tokens")


@pytest.mark.anyio
async def test_each_token_is_a_principal_of_its_own_whatever_its_name() -> None:
    tokens = Tokens(Token("private", "owner"), (Token("a", "ann"), Token("b", "ann")), page=Token("c", "page", "read"))
    found = [await tokens.verify_token(value) for value in ("private", "a", "b", "c")]
    assert len({(each.client_id, each.subject) for each in found if each is not None}) == 4
    assert await tokens.verify_token("d") is None


def test_a_byte_order_mark_before_the_first_token_is_none_of_it(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"\ufeff{ALPHA} ann\n", encoding="utf-8")
    assert read_tokens(file) == (Token(ALPHA, "ann"),)
    assert read_token(file) == ALPHA


def test_a_token_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(ALPHA, encoding="utf-16")
    with pytest.raises(SettingsError, match=r"cannot be read: not UTF-8 text\.$"):
        read_tokens(file)
    with pytest.raises(RemoteError, match=r"cannot be read: it is not UTF-8 text; save it as UTF-8\.$"):
        read_token(file)


@pytest.mark.anyio
@pytest.mark.parametrize("header", [f"Bearer {ALPHA}", f"bearer  {ALPHA}", f"BEARER   {ALPHA} "])
async def test_spaces_around_a_token_are_none_of_it(header: str) -> None:
    tokens = Tokens(Token("private", "owner"), (Token(ALPHA, "ann"),))
    assert bearer({"authorization": header}) == ALPHA
    found = await tokens.verify_token(header[7:])  # as the SDK cuts it
    assert found is not None
    assert found.client_id == "ann"


@pytest.mark.anyio
async def test_an_empty_token_is_none() -> None:
    tokens = Tokens(Token("private", "owner"), (Token(ALPHA, "ann"),))
    assert await tokens.verify_token("  ") is None
