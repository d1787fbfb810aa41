"""How chat clients find the server: the entry in each client's configuration, and the path of its file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

ClientName = Literal["claude-desktop", "claude-code", "vscode", "cursor"]
NAME = "virtualmle"
HOME_VARIABLE = "VIRTUALMLE_HOME"
_NONE: Mapping[str, str] = {}


class ConnectError(RuntimeError):
    """An entry cannot be made or written; the message says what to do."""


@dataclass(frozen=True)
class ClientKind:
    """A chat client: its title, the key that holds its servers, and the path of its configuration file."""

    title: str
    key: str
    place: Callable[[str, Path, Mapping[str, str]], Path]
    typed: bool = False
    """Whether an entry has to say that the server uses stdio."""


def _application(*parts: str) -> Callable[[str, Path, Mapping[str, str]], Path]:
    """Returns a function that finds a file in the platform's folder for application settings."""

    def place(platform: str, user: Path, environment: Mapping[str, str]) -> Path:
        if platform == "darwin":
            base = user / "Library" / "Application Support"
        elif platform == "win32":
            base = Path(environment.get("APPDATA") or user / "AppData" / "Roaming")
        else:
            base = Path(environment.get("XDG_CONFIG_HOME") or user / ".config")
        return base.joinpath(*parts)

    return place


CLIENTS: dict[ClientName, ClientKind] = {
    "claude-desktop": ClientKind("Claude Desktop", "mcpServers", _application("Claude", "claude_desktop_config.json")),
    "claude-code": ClientKind("Claude Code", "mcpServers", lambda _, user, __: user / ".claude.json", typed=True),
    "vscode": ClientKind("VS Code", "servers", _application("Code", "User", "mcp.json"), typed=True),
    "cursor": ClientKind("Cursor", "mcpServers", lambda _, user, __: user / ".cursor" / "mcp.json"),
}


def config_path(
    client: ClientName, platform: str = sys.platform, user: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Path:  # fmt: skip
    """The file in which the client keeps its servers for this user."""
    return CLIENTS[client].place(platform, user or Path.home(), environment)


def local_command(home: Path | None, tables: Path | None = None) -> list[str]:
    """`virtualmle serve` on this machine, by an absolute path: chat clients have their own PATH and folder.

    `tables`: the folder of recorded tables, for a replay home.
    """
    replay = ["--replay", str(tables)] if tables else []
    return [*_program(), "serve", *replay, *(["--home", str(home.expanduser().absolute())] if home else [])]


def ssh_command(host: str, home: Path | None, program: str = "virtualmle") -> list[str]:
    """`virtualmle serve` on a host, over ssh without a port, a token or a password prompt. Raises ConnectError."""
    if host.startswith("-") or not host or host.split() != [host]:
        raise ConnectError(f"--ssh {host!r} is no host; it looks like user@host.")
    remote = [program, "serve", *(["--home", shlex.quote(str(home))] if home else [])]  # ssh joins its arguments
    return ["ssh", "-T", "-o", "BatchMode=yes", host, *remote]


def bridge_command(url: str, token_file: Path | None) -> list[str]:
    """The command for a bridge from this machine to a remote server."""
    token = ["--token-file", str(token_file.expanduser().absolute())] if token_file else []
    return [*_program(), "bridge", "--url", url, *token]


def _program() -> list[str]:
    beside = Path(sys.executable).with_name("virtualmle.exe" if sys.platform == "win32" else "virtualmle")
    return [str(beside)] if beside.exists() else [sys.executable, "-P", "-m", "server.cli"]


def home_variable(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """VIRTUALMLE_HOME for the entry of a server here, where it is set: a chat client does not inherit it."""
    home = environment.get(HOME_VARIABLE)
    return {HOME_VARIABLE: str(Path(home).expanduser().absolute())} if home else {}


def entry(client: ClientName, command: Sequence[str], variables: Mapping[str, str] = _NONE) -> dict[str, Any]:
    """The value under the server's name in the client's configuration. The server is started with `variables`."""
    kind = {"type": "stdio"} if CLIENTS[client].typed else {}
    environment = {"env": dict(variables)} if variables else {}
    return {**kind, "command": command[0], "args": list(command[1:]), **environment}


def snippet(client: ClientName, command: Sequence[str], variables: Mapping[str, str] = _NONE) -> str:
    """What a person adds by hand: JSON, or a command that adds the entry."""
    if client == "claude-code":
        options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        return shlex.join(["claude", "mcp", "add", "--scope", "user", NAME, *options, "--", *command])
    return json.dumps({CLIENTS[client].key: {NAME: entry(client, command, variables)}}, indent=2)


def write(client: ClientName, command: Sequence[str], path: Path, variables: Mapping[str, str] = _NONE) -> Path | None:
    """Puts the entry into the client's file and keeps everything else; returns the path of a backup of the old file.

    Returns None where there was no file, or where the entry is there already. Raises ConnectError.
    """
    content = _read(client, path)
    servers: dict[str, Any] = content.setdefault(CLIENTS[client].key, {})
    new_entry = entry(client, command, variables)
    if servers.get(NAME) == new_entry:
        return None
    servers[NAME] = new_entry
    try:
        backup = _back_up(path) if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if path.exists():
            partial.chmod(path.stat().st_mode & 0o777)
        partial.replace(path.resolve())  # a symbolic link stays a link
    except OSError as error:
        raise ConnectError(f"{path} cannot be written: {error.strerror}; nothing was changed.") from None
    return backup


def _read(client: ClientName, path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    by_hand = f"add the entry by hand; `virtualmle connect {client}` prints it."
    try:
        content: Any = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ConnectError(f"{path} is not plain JSON ({error}), and comments would be lost: {by_hand}") from None
    key = CLIENTS[client].key
    if not isinstance(content, dict) or not isinstance(cast("dict[str, Any]", content).get(key, {}), dict):
        raise ConnectError(f"{path} does not hold an object with {key!r} in it: {by_hand}")
    return cast("dict[str, Any]", content)


def _back_up(path: Path) -> Path:
    backup = path.with_name(f"{path.name}.{datetime.now():%Y%m%d-%H%M%S-%f}.bak")
    backup.write_bytes(path.read_bytes())
    backup.chmod(path.stat().st_mode & 0o777)
    return backup
