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


@dataclass(frozen=True)
class Token:
    """One bearer of the token file. The value stays out of every repr, and so out of logs."""

    value: str = field(repr=False)
    name: str
    role: Role = "tune"


@dataclass(frozen=True)
class Tokens:
    """Every token an owner admits: the private one of owner.json, and those of a token file.

    `required` False: /mcp is open (loopback without a token file); the private routes ask for the private token still.
    """

    private: Token
    listed: tuple[Token, ...] = ()
    required: bool = True

    async def verify_token(self, token: str) -> AccessToken | None:
        """The SDK's TokenVerifier; every token is compared, so that the time says nothing."""
        found: Token | None = None
        for known in (self.private, *self.listed):
            if _same(known.value, token):
                found = known
        if found is None:
            return None
        return AccessToken(token=token, client_id=found.name, scopes=[found.role])

    def is_private(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the private token (headers by lower-case name)."""
        return _same(self.private.value, bearer(headers))


CHALLENGE = {"www-authenticate": 'Bearer error="invalid_token"'}


def bearer(headers: Mapping[str, str]) -> str:
    """The token that a request carries (headers by lower-case name); empty where it carries none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _same(known: str, given: str) -> bool:
    # HTTP headers arrive decoded as latin-1; their bytes are what the client sent.
    return hmac.compare_digest(known.encode(), given.encode("latin-1", "replace"))


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file: one a line, optionally followed by a name and a role; `#` starts a comment line.

    Raises SettingsError, which names the line's number and never its token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"The token file {path} cannot be read: {reason}.") from None
    tokens = tuple(
        _parse(path, number, line.split())
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    )
    if not tokens:
        raise SettingsError(f"The token file {path} holds no token; write one a line.")
    return tokens


def _parse(path: Path, number: int, parts: list[str]) -> Token:
    roles = get_args(Role)
    if len(parts) > 3 or (len(parts) == 3 and parts[2] not in roles):
        raise SettingsError(
            f"{path} line {number}: a line is a token, optionally a name and a role ({' or '.join(roles)})."
        )
    name = parts[1] if len(parts) > 1 else f"line-{number}"
    role: Role = "read" if parts[2:] == ["read"] else "tune"
    return Token(parts[0], name, role)
