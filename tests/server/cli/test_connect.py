"""virtualmle connect, doctor and status, and bridges to a server elsewhere: over HTTP, and over ssh."""

import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from server.cli import client_configs, doctor
from server.cli.client_configs import CLIENTS, ClientName, ConnectError
from server.cli.doctor import Finding
from server.client.endpoint import RemoteEndpoint, RemoteError, uses_proxies
from server.client.home import find_or_start
from server.settings import Settings
from tests.support.fake_endpoint import serving
from tests.support.owners import command, environment, foreground, new_study, owner_of, run

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@pytest.mark.parametrize(
    ("client", "platform", "path"),
    [
        ("claude-desktop", "darwin", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("claude-desktop", "linux", ".config/Claude/claude_desktop_config.json"),
        ("vscode", "darwin", "Library/Application Support/Code/User/mcp.json"),
        ("vscode", "linux", ".config/Code/User/mcp.json"),
        ("claude-code", "linux", ".claude.json"),
        ("cursor", "win32", ".cursor/mcp.json"),
    ],
)
def test_every_client_has_its_file_on_every_platform(client: ClientName, platform: str, path: str) -> None:
    assert client_configs.config_path(client, platform, Path("/u"), {}) == Path("/u") / path


def test_appdata_and_xdg_are_heeded() -> None:
    assert client_configs.config_path("vscode", "win32", Path("/u"), {"APPDATA": "/r"}) == Path("/r/Code/User/mcp.json")
    found = client_configs.config_path("vscode", "linux", Path("/u"), {"XDG_CONFIG_HOME": "/x"})
    assert found == Path("/x/Code/User/mcp.json")


@pytest.mark.parametrize("client", list(CLIENTS))
def test_writing_keeps_everything_else_and_a_backup(client: ClientName, tmp_path: Path) -> None:
    path, key = tmp_path / "deep" / "config.json", CLIENTS[client].key
    assert client_configs.write(client, ["a", "b"], path) is None
    path.write_text(json.dumps({"theme": "é", key: {"other": {"command": "x"}}}))
    path.chmod(0o600)
    backup = client_configs.write(client, ["a", "b"], path)
    assert backup is not None
    assert json.loads(backup.read_text()) == {"theme": "é", key: {"other": {"command": "x"}}}
    found = json.loads(path.read_text())
    assert found["theme"] == "é"
    assert found[key]["other"] == {"command": "x"}
    assert found[key]["virtualmle"] == client_configs.entry(client, ["a", "b"])
    assert path.stat().st_mode & 0o777 == backup.stat().st_mode & 0o777 == 0o600
    assert client_configs.write(client, ["a", "b"], path) is None
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted([path.name, backup.name])


@pytest.mark.parametrize("content", ["{// note\n}", "[1]", '{"servers": 3}', "\xff"])
def test_a_file_that_would_be_harmed_is_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConnectError, match=r"by hand|cannot be read"):
        client_configs.write("vscode", ["a"], path)
    assert path.read_bytes() == content.encode("latin-1")


def test_the_command_prints_what_a_person_adds(tmp_path: Path) -> None:
    done = run("connect", "cursor", "--ssh", "me@gpu", "--home", "/data/my home")
    entry = json.loads(done.stdout)["mcpServers"]["virtualmle"]
    assert entry["command"] == "ssh"
    assert entry["args"][-5:] == ["me@gpu", "virtualmle", "serve", "--home", "'/data/my home'"]
    assert run("connect", "claude-code").stdout.startswith("claude mcp add --scope user virtualmle -- /")
    file = tmp_path / "c.json"
    written = run("connect", "cursor", "--url", "https://h/mcp", "--token-file", "t", "--write", "--file", file)
    assert written.returncode == 0
    args = json.loads(file.read_text())["mcpServers"]["virtualmle"]["args"]
    assert args[-5:] == ["bridge", "--url", "https://h/mcp", "--token-file", str(Path("t").absolute())]


@pytest.mark.parametrize("client", list(CLIENTS))
def test_the_home_of_the_environment_is_written_into_the_entry(client: ClientName, tmp_path: Path) -> None:
    home, file = tmp_path / "my home", tmp_path / "c.json"
    told = {"VIRTUALMLE_HOME": str(home)}
    printed = run("connect", client, **told).stdout
    if client == "claude-code":
        words = shlex.split(printed)
        assert words[:8] == [
            "claude",
            "mcp",
            "add",
            "--scope",
            "user",
            "virtualmle",
            "--env",
            f"VIRTUALMLE_HOME={home}",
        ]
        assert words[8] == "--"
    else:
        assert json.loads(printed)[CLIENTS[client].key]["virtualmle"]["env"] == told
    assert run("connect", client, "--write", "--file", file, **told).returncode == 0
    assert json.loads(file.read_text())[CLIENTS[client].key]["virtualmle"]["env"] == told
    assert json.loads(run("connect", client, "--json", **told).stdout)["entry"]["env"] == told
    for words in (["--home", str(tmp_path)], ["--ssh", "me@gpu"], ["--url", "https://h/mcp"]):
        assert "env" not in json.loads(run("connect", client, "--json", *words, **told).stdout)["entry"]


def test_without_a_home_in_the_environment_the_entry_names_none(tmp_path: Path) -> None:
    assert client_configs.home_variable({}) == client_configs.home_variable({"VIRTUALMLE_HOME": ""}) == {}
    assert client_configs.home_variable({"VIRTUALMLE_HOME": "h"}) == {"VIRTUALMLE_HOME": str(Path("h").absolute())}
    assert "env" not in client_configs.entry("cursor", ["a"])


PROXIES = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}


@pytest.mark.anyio
async def test_loopback_is_never_reached_through_a_proxy(home: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-token-of-ann ann\n")
    with foreground(home, "--token-file", tokens):
        url = f"{owner_of(home).url}/mcp"
        program, *words = command("bridge", "--url", url, "--token-file", tokens)
        entry = StdioServerParameters(command=program, args=words, env=environment(**PROXIES))
        async with Client(entry) as client:
            assert await new_study(client)
        fixed = ("--fix", "max_epochs=1", "--confirm-seeds", "0")
        drive = ("drive", "--url", url, "--token-file", tokens, "--policy", "random", "--trials", "1", *fixed)
        done = await anyio.to_thread.run_sync(lambda: run(*drive, "--report", tmp_path / "r", **PROXIES))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://127.0.0.1:80/mcp", False),
        ("http://127.9.9.9/mcp", False),
        ("http://localhost:80", False),
        ("http://me.localhost", False),
        ("http://[::1]:80/mcp", False),
        ("http://0.0.0.0:80/mcp", False),
        ("http://10.0.0.1/mcp", True),
        ("https://localhost.example.org", True),
        ("https://host/mcp", True),
    ],
)
def test_this_machine_is_told_from_others(url: str, proxied: bool) -> None:
    assert uses_proxies(url) is proxied


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("socks5://h:1", "it is a SOCKS proxy"), ("socks4://h:1", "it is a SOCKS proxy"), ("x://h", "x://h")],
)
def test_a_proxy_that_cannot_be_used_is_one_line(proxy: str, said: str, tmp_path: Path) -> None:
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
    bridged = run("bridge", "--url", "https://host.invalid/mcp", stdin=asked, ALL_PROXY=proxy, all_proxy=proxy)
    driven = run("drive", "--url", "https://host.invalid/mcp", ALL_PROXY=proxy, all_proxy=proxy)
    for done in (bridged, driven):
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line.startswith("virtualmle: The environment names a proxy for https://host.i")) == (
            1,
            True,
        )
        assert said in line
        assert "NO_PROXY" in line


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["vscode", "--ssh", "-oProxyCommand=x"], 1, "is no host; it looks like user@host"),
        (["vscode", "--ssh", "a", "--url", "b"], 2, "two ways to one server"),
        (["vscode", "--token-file", "t"], 2, "--token-file belongs to --url"),
        (["emacs"], 2, "'claude-desktop', 'claude-code', 'vscode', 'cursor'"),
    ],
)
def test_wrong_usage_is_told(words: list[str], code: int, said: str) -> None:
    done = run("connect", *words)
    assert done.returncode == code
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.anyio
async def test_a_bridge_carries_to_a_server_at_a_url_and_survives_its_end(home: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-token-of-ann ann\n")
    with foreground(home, "--token-file", tokens):
        url = f"{owner_of(home).url}/mcp"
        async with Client(bridge_to(url, tokens)) as client:
            study = await new_study(client)
        async with Client(bridge_to(url, tokens), mode="legacy") as client:
            assert not (await client.call_tool("get_study", {"study_id": study})).is_error
        tokens.write_text("another\n")
        refusal = await refused(url, tokens)
        assert "does not admit the token (401): give one of its own with --token-file" in refusal
        assert "secret" not in refusal
    assert f"{url} does not answer: is the server up" in await refused(url, tokens)


def bridge_to(url: str, token_file: Path) -> StdioServerParameters:
    program, *arguments = command("bridge", "--url", url, "--token-file", token_file)
    return StdioServerParameters(command=program, args=arguments, env=environment())


async def refused(url: str, token_file: Path) -> str:
    """What the bridge answers to the first request of a client that cannot be served."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    done = await anyio.to_thread.run_sync(
        lambda: run("bridge", "--url", url, "--token-file", token_file, stdin=json.dumps(asked) + "\n")
    )
    assert done.returncode == 0
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer["error"]["message"]


def test_an_address_is_checked_before_anything_is_sent() -> None:
    for url in ("host:80", "ftp://host/mcp", "/mcp"):
        with pytest.raises(RemoteError, match="it looks like https://host/mcp"):
            RemoteEndpoint(url, None)
    assert RemoteEndpoint("https://host", None).path == "/mcp"
    assert RemoteEndpoint("https://host/deep/mcp?x=1", None).path == "/deep/mcp?x=1"


def test_a_host_that_is_not_admitted_is_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc")
    with serving([(421, {})]) as endpoint:
        assert "does not admit this Host or Origin (421)" in anyio.run(refused, f"{endpoint.url}/mcp", token)
    assert endpoint.headers[0]["authorization"] == "Bearer abc"


@contextmanager
def sshd(folder: Path) -> Iterator[list[str]]:
    """A real sshd on loopback that admits a key of its own; answers the options that a client needs."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nUsePAM no\nPidFile {folder}/pid\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([SSHD, "-D", "-f", folder / "config"]) as server:
        try:
            ends = time.monotonic() + 20
            while subprocess.run(["ssh-keyscan", "-p", str(port), "127.0.0.1"], capture_output=True).stdout == b"":
                assert time.monotonic() < ends
            yield ["-p", str(port), "-i", f"{folder}/user", "-o", "StrictHostKeyChecking=no",
                   "-o", f"UserKnownHostsFile={folder}/known"]  # fmt: skip
        finally:
            server.terminate()


@pytest.mark.skipif(not Path(SSHD).exists() or os.getuid() != 0, reason="needs sshd, and root to run it")
@pytest.mark.anyio
async def test_the_ssh_entry_works_over_a_real_sshd(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "virtualmle"
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    with sshd(tmp_path) as options:
        words = client_configs.ssh_command(f"{getpass.getuser()}@127.0.0.1", home, f"PYTHONPATH={Path.cwd()} {program}")
        entry = StdioServerParameters(command=words[0], args=[*options, *words[1:]])
        async with Client(entry) as client:
            study = await new_study(client)
            assert not (await client.call_tool("get_study", {"study_id": study})).is_error
    assert owner_of(home)  # it outlives the connection


def test_the_doctor_names_what_is_wrong_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(2, "no such file")

    monkeypatch.setattr(doctor.subprocess, "run", none)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    settings = Settings(home=tmp_path)
    settings.database.write_bytes(b"not a database at all, but long enough to be one of another kind")
    found = {finding.what: finding for finding in doctor.examine(settings)}
    assert (found["home"].grade, found["owner"].grade) == ("ok", "ok")
    assert found["memory"].grade == "problem"
    assert "damaged or not a memory file" in str(found["memory"].advice)
    assert found["torch"] == Finding(
        what="torch", grade="problem", found="it does not answer",
        advice="install it anew: pip install --force-reinstall torch",
    )  # fmt: skip
    assert found["compiler"].grade == "note"
    assert "GPU" not in found


def test_a_gpu_that_torch_cannot_see_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert doctor._gpu({"gpus": []}).grade == "problem"
    assert doctor._gpu({"gpus": [("H100", 79.6)]}).found == "H100 (80 GB)"


def test_status_tells_of_the_owner_and_starts_none(home: Path) -> None:
    assert "the next client starts one" in run("status", "--home", home).stdout
    assert json.loads(run("status", "--home", home, "--json").stdout) is None
    anyio.run(find_or_start, Settings(home=home))
    told = json.loads(run("status", "--home", home, "--json").stdout)
    assert (told["pid"], told["clients"], told["playing"]) == (owner_of(home).pid, 0, [])
    assert "token" not in told
    lines = run("status", "--home", home).stdout.splitlines()
    assert lines[1:] == ["clients   0", "slots     1", "running   none", "queued    none", "playing   none"]
