"""Bearer tokens: who may talk to an owner over HTTP."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mcp.server.auth.provider import AccessToken

from server.settings import SettingsError

Role = Literal["read", "tune"]
OWNER = "owner"
PAGE = "page"
_RESERVED = {OWNER: "the token of owner.json", PAGE: "the token of the study page"}
LEAST_CHARACTERS = 16


@dataclass(frozen=True)
class Token:
    """One entry of the token file. The value stays out of every repr, and so out of logs."""

    value: str = field(repr=False)
    name: str
    role: Role = "tune"


@dataclass(frozen=True)
class Tokens:
    """Every token an owner accepts: the private one of owner.json, those of a token file, and the study page's.

    `required` False: /mcp is open (loopback without a token file). The private routes still require the private token.
    """

    private: Token
    listed: tuple[Token, ...] = ()
    required: bool = True
    page: Token | None = None
    """What browsers send; it may only read."""

    async def verify_token(self, token: str) -> AccessToken | None:
        """Implements the SDK's TokenVerifier. Compares every token, so that the time it takes reveals nothing.

        The SDK keeps a session for the `client_id` and `subject` that opened it; the subject is one for each token.
        """
        token = token.strip()  # two spaces after `bearer` are a slip
        matched: tuple[int, Token] | None = None
        for index, accepted in enumerate((self.private, *((self.page,) if self.page else ()), *self.listed)):
            if _same(accepted.value, token):
                matched = index, accepted
        if matched is None:
            return None
        index, accepted = matched
        return AccessToken(token=token, client_id=accepted.name, scopes=[accepted.role], subject=f"token-{index}")

    def is_private(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the private token (headers by lower-case name)."""
        return _same(self.private.value, bearer(headers))


CHALLENGE = {"www-authenticate": 'Bearer error="invalid_token"'}


def bearer(headers: Mapping[str, str]) -> str:
    """The request's bearer token (headers by lower-case name), or an empty string."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _same(expected: str, received: str) -> bool:
    # HTTP headers arrive decoded as latin-1; their bytes are what the client sent.
    return hmac.compare_digest(expected.encode(), received.encode("latin-1", "replace"))


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file: one per line, optionally followed by a name and a role; `#` starts a comment line.

    Raises SettingsError, whose message names the line number and never the token, nor a name: where a user has
    confused their order, it is the token.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"The token file {path} cannot be read: {reason}.") from None
    tokens = {
        number: _parse_line(path, number, line.split())
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    }
    if not tokens:
        raise SettingsError(f"The token file {path} holds no token; write one a line.")
    _refuse_repeated(path, "token", {number: token.value for number, token in tokens.items()})
    _refuse_repeated(path, "name", {number: token.name for number, token in tokens.items()})
    return tuple(tokens.values())


def _refuse_repeated(path: Path, what: str, values: Mapping[int, str]) -> None:
    first: dict[str, int] = {}
    for number, value in values.items():
        if (before := first.setdefault(value, number)) != number:
            raise SettingsError(
                f"{path} line {number}: its {what} is that of line {before}; each needs one of its own."
            )


def _parse_line(path: Path, number: int, parts: list[str]) -> Token:
    roles = get_args(Role)
    if len(parts) > 3 or (len(parts) == 3 and parts[2] not in roles):
        raise SettingsError(
            f"{path} line {number}: a line is a token, optionally a name and a role ({' or '.join(roles)})."
        )
    if len(parts[0]) < LEAST_CHARACTERS:
        raise SettingsError(
            f"{path} line {number}: the token has {len(parts[0])} characters and needs at least {LEAST_CHARACTERS}; "
            "`openssl rand -hex 32` makes one."
        )
    name = parts[1] if len(parts) > 1 else f"line-{number}"
    if (use := _RESERVED.get(name.casefold())) is not None:
        raise SettingsError(f"{path} line {number}: the name {name!r} is reserved for {use}; give another.")
    role: Role = "read" if parts[2:] == ["read"] else "tune"
    return Token(parts[0], name, role)
