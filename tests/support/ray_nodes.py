"""A real Ray cluster on this machine for tests: a head that trains nothing, and two nodes that do."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.executors.environment import HOME_MARK
from server.executors.ray.cluster import Cluster
from server.executors.ray.executor import RayExecutor
from tests.support.trials import FAKE

CPUS = 4
_START_SECONDS = 60


class RayNodes:
    """`address` is that of the cluster; `client` the same for those who are no node of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port, client = _free_port(), _free_port()
        self.address, self.client = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        head = self._start(
            "--head", "--port", port, "--ray-client-server-port", client, "--include-dashboard=false",
            "--temp-dir", folder, cpus=0,
        )  # fmt: skip
        self.nodes = [self._node(), self._node()]
        self._all = [head, *self.nodes]

    def node_of(self, pid: int) -> psutil.Popen:
        """The node on which a process works."""
        ancestors = {process.pid for process in psutil.Process(pid).parents()}
        return next(node for node in self.nodes if node.pid in ancestors)

    def kill(self, node: psutil.Popen) -> None:
        """Ends a node as a power cut would, as far as its own processes go, and starts another in its place."""
        self.nodes.remove(node)
        self._end(node)
        self.nodes.append(self._node())
        self._all.append(self.nodes[-1])

    def freeze(self, node: psutil.Popen) -> None:
        """Stops every process of a node; the sockets stay open."""
        for process in (node, *node.children(recursive=True)):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """Ends what is there of it."""
        for node in list(self._all):
            self._end(node)

    def _end(self, node: psutil.Popen) -> None:
        self._all.remove(node)
        _kill(node)

    def _node(self) -> psutil.Popen:
        return self._start("--address", self.address, cpus=CPUS)

    def _start(self, *words: object, cpus: int) -> psutil.Popen:
        """Returns once it is a part of the cluster."""
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", *map(str, words), "--num-cpus", str(cpus), "--disable-usage-stats", "--block"]
        log = self._folder / f"start-{secrets.token_hex(3)}.log"
        with log.open("wb") as output:
            node = psutil.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
        _wait_for(node, log, "block forever")
        return node


def _wait_for(node: psutil.Popen, log: Path, words: str) -> None:
    tail = subprocess.Popen(["tail", "-n", "+1", f"--pid={node.pid}", "-f", log], stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    try:
        for line in tail.stdout:
            if words in line:
                return
    finally:
        tail.kill()
        tail.wait()
        tail.stdout.close()
    raise RuntimeError(f"ray start failed: {log.read_text()[-2000:]}")


def _kill(node: psutil.Popen) -> None:
    children = node.children(recursive=True)
    for process in (node, *children):
        with suppress(psutil.Error):
            process.kill()
    node.wait()
    psutil.wait_procs(children, timeout=10)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """A cluster with a token of its own. Skips where there is no Ray."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'virtualmle[ray]'")
    folder = Path(tempfile.mkdtemp(prefix="vmle"))  # sockets lie in it, and their paths must be short
    given = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        # Ray notices that a node is dead within seconds, so that the next test is not sent to it
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        nodes = RayNodes(folder)
        try:
            yield nodes
        finally:
            nodes.end()
            shutil.rmtree(folder, ignore_errors=True)


def ray_executor(nodes: RayNodes, home: Path, connect_seconds: float = 60.0, **values: Any) -> RayExecutor:
    """The ray executor over the fake trainer, with the folder of its nodes on the disk of its run directories."""
    home.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "address": nodes.address, "label": home.name, "datasets": home / "datasets", "command": FAKE,
        "folder": home / "trials" / "node", "heartbeat_seconds": 5.0,
    }  # fmt: skip
    return RayExecutor(Cluster(**{**given, **values}), home, connect_seconds)


def at_work(home: Path) -> list[str]:
    """What of a home is still there: its driver, and trainings on the nodes."""
    found: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(HOME_MARK, "").startswith(str(home)):
                found.append(" ".join(process.cmdline()))
    return found + [str(path) for path in (home / "trials" / "node" / "work").glob("*")]
